"""COCO's boxes for DINO: 12 epochs of 16 images, 1024 x 1024 with large-scale jitter."""

from mmengine.config import read_base

with read_base():
    from .coco import *

max_iters = 87960  # 12 x 7330
optim_wrapper.update(optimizer=dict(weight_decay=1e-4), clip_grad=dict(max_norm=0.1))
param_scheduler[1].update(milestones=[80630])
train_cfg.update(max_iters=max_iters, val_interval=7330)
train_dataloader.update(batch_size=2)
train_pipeline[1].update(with_mask=False)
test_pipeline[2].update(with_mask=False)
val_evaluator.update(metric=['bbox'])
default_hooks.update(checkpoint=dict(interval=7330, max_keep_ckpts=2))
