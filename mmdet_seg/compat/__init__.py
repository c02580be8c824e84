"""What exists only because a released dependency lacks or breaks something.

One file per reason; each names the release and says when it can be deleted:

* :mod:`mmdet_seg.compat.mmcv_ext`: mmcv-lite has no compiled operators.
* :mod:`mmdet_seg.compat.torch_load`: mmengine cannot read its own checkpoints with PyTorch 2.6 on.
* :mod:`mmdet_seg.compat.safetensors_load`: mmengine reads no safetensors files.
* :mod:`mmdet_seg.compat.pkg_resources`: setuptools 82 dropped what mmengine asks for packages.
* :mod:`mmdet_seg.compat.mmengine_imports`: mmengine imports DeepSpeed and transformers whenever
  they are installed.
* :mod:`mmdet_seg.compat.torchao_warnings`: torchao warns whenever it is imported.
* :mod:`mmdet_seg.compat.mmcv_ext.attention`: mmcv's deformable attention without a compiler is slow
  and takes more memory than ours.
* :mod:`mmdet_seg.compat.accuracy`: mmseg sorts the classes of every pixel to name the best one.
* :mod:`mmdet_seg.compat.config_text`: mmengine lays out the text of a run's config four times.

:func:`install` puts them in place. Nothing heavy is imported before what a stand-in is for is.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from mmdet_seg.compat.import_hooks import AfterImport, StandInFinder
from mmdet_seg.compat.mmengine_imports import WithoutLargePackages
from mmdet_seg.compat.torchao_warnings import leave_out

__all__ = ['install']


def _patch_with(*patchers: str) -> Callable[[ModuleType], None]:
    def patch(module: ModuleType) -> None:
        for patcher in patchers:
            import_module(f'mmdet_seg.compat.{patcher}').patch(module)

    return patch


_ABSENT = StandInFinder(
    {
        'mmcv._ext': 'mmdet_seg.compat.mmcv_ext',
        'pkg_resources': 'mmdet_seg.compat.pkg_resources',
    }
)
_WITHOUT = WithoutLargePackages()
_AFTER = [
    AfterImport(name, _patch_with(*patchers))
    for name, *patchers in (
        ('mmengine.config.config', 'config_text'),
        ('mmengine.runner.checkpoint', 'torch_load', 'safetensors_load'),
        ('mmseg.models.decode_heads.decode_head', 'accuracy'),
        ('mmcv.ops.multi_scale_deform_attn', 'mmcv_ext.attention'),
    )
]


def install() -> None:
    """Put all stand-ins in place; a second call changes nothing.

    A compiled ``mmcv._ext`` and a real ``pkg_resources`` are found before ours.
    """
    if _ABSENT not in sys.meta_path:
        sys.meta_path.append(_ABSENT)
    if _WITHOUT not in sys.meta_path:
        sys.meta_path.insert(0, _WITHOUT)
    leave_out()
    for hook in _AFTER:
        if hook.name in sys.modules:
            hook.action(sys.modules[hook.name])
        elif hook not in sys.meta_path:
            sys.meta_path.insert(0, hook)
