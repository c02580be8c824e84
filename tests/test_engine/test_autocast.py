"""bfloat16 autocast trains on CPU: products in bf16, weights and loss in fp32."""

import torch
from torch import nn

from mmdet_seg.engine import AutocastOptimWrapper


def test_a_step_under_autocast():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    before = model[0].weight.clone()
    wrapper = AutocastOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        out = model(torch.randn(5, 4))
        loss = out.float().square().mean()
    assert out.dtype == torch.bfloat16
    wrapper.update_params(loss)
    assert model[0].weight.dtype == torch.float32
    assert not torch.equal(before, model[0].weight)
