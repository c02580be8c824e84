"""InternViT for dense prediction on OpenMMLab.

Importing the package installs the stand-ins that released dependencies need
(:mod:`mmdet_seg.compat`) and registers the models under the scope ``mmdet_seg``
(:mod:`mmdet_seg.registry`).
"""

from mmdet_seg.version import __version__

__all__ = ['__version__']
