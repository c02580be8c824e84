"""What exists only because a released dependency lacks or breaks something.

One file per reason; each names the release and says when it can be deleted:

* :mod:`mmdet_seg.compat.mmcv_ext`: mmcv-lite has no compiled operators.
* :mod:`mmdet_seg.compat.torch_load`: mmengine cannot read its own checkpoints with PyTorch 2.6 on.
* :mod:`mmdet_seg.compat.pkg_resources`: setuptools 82 dropped what mmengine asks for packages.

:func:`install` puts them in place. Nothing heavy is imported before what a stand-in is for is.
"""

import sys
from importlib import import_module
from types import ModuleType

from mmdet_seg.compat.import_hooks import AfterImport, StandInFinder

__all__ = ['install']

_CHECKPOINT = 'mmengine.runner.checkpoint'


def _patch_checkpoint(module: ModuleType) -> None:
    import_module('mmdet_seg.compat.torch_load').patch(module)


_ABSENT = StandInFinder(
    {
        'mmcv._ext': 'mmdet_seg.compat.mmcv_ext',
        'pkg_resources': 'mmdet_seg.compat.pkg_resources',
    }
)
_AFTER_CHECKPOINT = AfterImport(_CHECKPOINT, _patch_checkpoint)


def install() -> None:
    """Put all stand-ins in place; a second call changes nothing.

    A compiled ``mmcv._ext`` and a real ``pkg_resources`` are found before ours.
    """
    if _ABSENT not in sys.meta_path:
        sys.meta_path.append(_ABSENT)
    if _CHECKPOINT in sys.modules:
        _patch_checkpoint(sys.modules[_CHECKPOINT])
    elif _AFTER_CHECKPOINT not in sys.meta_path:
        sys.meta_path.insert(0, _AFTER_CHECKPOINT)
