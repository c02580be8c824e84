"""What detection has other than ``runtime.py``: mmdet's scope, and AP50 of masks for the best."""

from mmdet.visualization import DetLocalVisualizer
from mmengine.config import read_base

with read_base():
    from .runtime import *

default_scope = 'mmdet'
default_hooks.update(checkpoint=dict(save_best='segm_AP50'))
custom_hooks[2].update(metric='segm_AP50')
visualizer = dict(type=DetLocalVisualizer, vis_backends=vis_backends, name='visualizer')
