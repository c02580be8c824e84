"""InternViT for dense prediction on OpenMMLab.

Importing the package installs the stand-ins that released dependencies need
(:mod:`mmdet_seg.compat`) and registers the models (:mod:`mmdet_seg.registry`); the models' own code
is imported on first use.
"""

from mmdet_seg import compat, registry
from mmdet_seg.version import __version__

compat.install()

__all__ = ['__version__', 'registry']
