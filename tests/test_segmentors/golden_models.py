"""Our segmentors at the sizes of the golden ones."""

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import Tensor

from mmdet_seg.engine.encoder_config import encoder_config
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.registry import MODELS
from mmdet_seg.segmentors import EncoderDecoder
from tests.golden_data import Case
from tests.test_necks.adapter_cases import arguments_of


def build(case_config: dict, recipe: str, **options) -> EncoderDecoder:
    """The model of a shipped config, resized to that of an authors' config."""
    theirs = case_config['backbone']
    cfg = load_recipe(recipe)
    init_default_scope('mmseg')
    model = cfg.model
    adapted = 'interaction_indexes' in theirs
    encoder = encoder_config(model)
    encoder.arch = dict(
        embed_dim=theirs['embed_dim'],
        depth=theirs['depth'],
        num_heads=theirs['num_heads'],
        mlp_ratio=theirs['mlp_ratio'],
        img_size=theirs['img_size'],
        qk_norm=theirs['qk_normalization'],
        layer_scale_init=theirs['init_values'],
    )
    if adapted:
        encoder.img_size = None
        model.backbone.update(arguments_of(theirs, original=False))
    else:
        encoder.out_indices = theirs['out_indices']
    model.data_preprocessor = None
    for key in ('decode_head', 'auxiliary_head'):
        if head := case_config.get(key):
            model[key].num_classes = head['num_classes']
            if 'channels' in model[key]:
                model[key].channels = head['channels']
            if key == 'auxiliary_head':
                model[key].in_index = head['in_index']
    test = case_config['test_cfg']
    model.test_cfg = dict(mode='slide', crop_size=test['crop_size'], stride=test['stride'])
    model.update(options)
    return revert_sync_batchnorm(MODELS.build(model)).eval()


def samples(labels: Tensor | None, sizes: list[tuple[int, int]], **meta) -> list:
    """Data samples with labels (B, 1, H, W) and original sizes."""
    from mmseg.structures import SegDataSample  # after mmdet_seg, which provides mmcv's operators

    found = []
    for i, size in enumerate(sizes):
        sample = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, **meta))
        if labels is not None:
            sample.gt_sem_seg = PixelData(data=labels[i])
        found.append(sample)
    return found


def load(model: EncoderDecoder, case: Case) -> EncoderDecoder:
    """The authors' weights, names as they are in their files."""
    model.load_state_dict(case.state_dict)
    return model


def softmax(sample) -> Tensor:
    return torch.softmax(sample.seg_logits.data, dim=0)
