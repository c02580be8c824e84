"""The linear head beside the authors'."""

import pytest
import torch

import mmdet_seg  # noqa: F401
from mmdet_seg.heads import LinearHead
from tests.golden_data import assert_close, load_case


@pytest.mark.parametrize('name', ['B_fcnhead_norm', 'B_fcnhead_nonorm', 'N_eps_fcnhead'])
def test_linear_head(name):
    case = load_case(name)
    config = case.meta['config']
    norm_cfg = dict(type='BN') if any(k.startswith('norm.') for k in case.state_dict) else None
    head = LinearHead(config['in_channels'], num_classes=config['num_classes'], norm_cfg=norm_cfg)
    head.load_state_dict(case.state_dict)
    with torch.no_grad():
        found = head.eval()([case.inputs['feats.0']])
    assert_close(found, case.outputs['logits'])
