"""Other people's encoders: the one file that imports timm and transformers."""

import logging
from types import ModuleType


def import_timm() -> ModuleType:
    """timm.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise _absent('timm', error) from error
    logging.getLogger('timm').setLevel(logging.ERROR)
    return timm


def import_transformers() -> ModuleType:
    """transformers, which then says nothing but errors and shows no bars.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise _absent('transformers', error) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _absent(name: str, error: ImportError) -> ValueError:
    return ValueError(f'{name} is not installed ({error.name}): pip install mmdet_seg[peers].')
