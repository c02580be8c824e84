"""Registries of scope ``mmdet_seg``, children of mmengine's.

``type='mmdet_seg.InternViT'`` works in any OpenMMLab config: mmengine imports this module by its
name and then the ``locations`` on the first look-up. Names that no OpenMMLab package uses
(``InternViT``, ``ViTAdapter``, ``FeaturePyramid``, ...) are registered in mmengine's root as well
(:func:`register_everywhere`), so that ``type='InternViT'`` works after
``custom_imports=dict(imports=['mmdet_seg'])``.
"""

from importlib import import_module
from typing import Any, TypeVar

from mmengine import registry as root
from mmengine.registry import Registry

_MODEL_LOCATIONS = [
    'mmdet_seg.backbones',
    'mmdet_seg.necks',
    'mmdet_seg.heads',
    'mmdet_seg.segmentors',
    'mmdet_seg.detectors',
]
_ENGINE = ['mmdet_seg.engine']

MODELS = Registry('model', parent=root.MODELS, scope='mmdet_seg', locations=_MODEL_LOCATIONS)
DATASETS = Registry(
    'dataset', parent=root.DATASETS, scope='mmdet_seg', locations=['mmdet_seg.datasets']
)
TRANSFORMS = Registry(
    'transform', parent=root.TRANSFORMS, scope='mmdet_seg', locations=['mmdet_seg.datasets']
)
HOOKS = Registry('hook', parent=root.HOOKS, scope='mmdet_seg', locations=_ENGINE)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmdet_seg',
    locations=_ENGINE,
)

# Where the bare names live. Importing torch's and mmengine's model code takes seconds, so until it
# is needed a function stands in for the class.
_BARE_NAMES = {
    'InternViT': 'mmdet_seg.backbones',
    'FeaturePyramid': 'mmdet_seg.necks',
    'SimplePyramid': 'mmdet_seg.necks',
    'ViTAdapter': 'mmdet_seg.necks',
}

T = TypeVar('T', bound=type)


def register_everywhere(cls: T) -> T:
    """Register a model under ``mmdet_seg`` and, by its bare name, for every other scope."""
    root.MODELS.register_module(module=cls, force=cls.__name__ in _BARE_NAMES)
    return MODELS.register_module(module=cls)


def _stand_in(name: str, location: str) -> None:
    def build(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(location), name)(*args, **kwargs)

    root.MODELS.register_module(name=name, module=build)


for _name, _location in _BARE_NAMES.items():
    _stand_in(_name, _location)
