"""mmcv's public operators against what mmcv's compiled ones returned (golden/mmcv_ops)."""

import numpy as np
import pytest
import torch

from mmdet_seg import compat
from tests.golden_data import assert_close, load_case

compat.install()

import mmcv.ops as ops  # noqa: E402  only after the stand-in is in place
from mmcv.ops.multi_scale_deform_attn import (  # noqa: E402
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

from mmdet_seg.ops import ms_deform_attn  # noqa: E402

GOLDEN = load_case('mmcv_ops')
DETS = ('nms', 'soft_nms', 'batched_nms')
CONVOLUTION = ('stride', 'padding', 'dilation', 'groups', 'deform_groups')


def names(*operators: str) -> list[str]:
    """The cases of some operators."""
    return [name for name, meta in GOLDEN.meta.items() if meta['op'] in operators]


def tensors(name: str, side: str) -> dict[str, torch.Tensor]:
    """What lies under ``NAME/in`` or ``NAME/out``."""
    prefix = f'{name}/{side}/'
    return {k[len(prefix) :]: v for k, v in GOLDEN.tensors.items() if k.startswith(prefix)}


def arguments(name: str) -> dict:
    """The arguments of the call, by name."""
    return {k: v for k, v in GOLDEN.meta[name].items() if k != 'op'}


def check(name: str, result: torch.Tensor, inputs: dict[str, torch.Tensor]) -> None:
    """Compare the result and, where the case has gradients, those of all inputs."""
    expected = tensors(name, 'out')
    assert_close(result, expected['y'])
    for key, gradient in expected.items():
        if key.startswith('grad_'):
            assert_close(inputs[key.removeprefix('grad_')].grad, gradient)


def with_gradients(name: str) -> dict[str, torch.Tensor]:
    """Fresh inputs of a case; those without ``const`` in their name require gradients."""
    inputs = {k: v.clone() for k, v in tensors(name, 'in').items()}
    for key, tensor in inputs.items():
        if not key.startswith(('const_', 'grad_')):
            tensor.requires_grad_()
    return inputs


def suppress(name: str, convert) -> tuple:
    """Run the suppression of a case on converted boxes and scores."""
    inputs = tensors(name, 'in')
    boxes, scores = convert(inputs['boxes']), convert(inputs['scores'])
    operator = getattr(ops, GOLDEN.meta[name]['op'])
    if 'idxs' in inputs:
        return operator(boxes, scores, inputs['idxs'], **arguments(name))
    return operator(boxes, scores, **arguments(name))


@pytest.mark.parametrize('name', names(*DETS))
def test_suppression_keeps_the_same_boxes_in_the_same_order(name):
    dets, keep = suppress(name, torch.Tensor.clone)
    expected = tensors(name, 'out')
    assert keep.dtype == torch.long
    assert keep.tolist() == expected['keep'].tolist()
    if len(dets):
        assert_close(dets, expected['dets'])
    else:
        assert dets.shape == expected['dets'].shape


@pytest.mark.parametrize('name', names('nms', 'soft_nms'))
def test_suppression_of_numpy_arrays(name):
    dets, keep = suppress(name, torch.Tensor.numpy)
    assert isinstance(dets, np.ndarray)
    assert keep.tolist() == tensors(name, 'out')['keep'].tolist()


@pytest.mark.parametrize('name', names('nms_match'))
def test_nms_match_groups(name):
    dets = tensors(name, 'in')['dets']
    groups = ops.nms_match(dets, GOLDEN.meta[name]['iou_threshold'])
    assert [group.tolist() for group in groups] == GOLDEN.meta[name]['groups']


@pytest.mark.parametrize('name', names('bbox_overlaps'))
def test_bbox_overlaps(name):
    inputs, expected = tensors(name, 'in'), tensors(name, 'out')['y']
    overlaps = ops.bbox_overlaps(inputs['a'], inputs['b'], **arguments(name))
    if expected.any():
        assert_close(overlaps, expected)
    else:  # the aligned pairs of these cases do not meet
        assert torch.equal(overlaps, expected)


@pytest.mark.parametrize('name', names('roi_align'))
def test_roi_align(name):
    inputs = with_gradients(name)
    result = ops.RoIAlign(**arguments(name))(inputs['input'], inputs['const_rois'])
    result.backward(inputs['grad_y'])
    check(name, result, inputs)


@pytest.mark.parametrize('name', names('deform_conv2d'))
def test_deform_conv2d(name):
    inputs = with_gradients(name)
    result = ops.deform_conv2d(
        *(inputs[key] for key in ('input', 'offset', 'weight')),
        *(GOLDEN.meta[name][key] for key in CONVOLUTION),
    )
    result.backward(inputs['grad_y'])
    check(name, result, inputs)


def test_deform_conv2d_with_a_fixed_input():
    # mmcv asks for the weight's gradient alone then, which is another path in the stand-in.
    name = 'deform_conv1'
    inputs = tensors(name, 'in')
    weight = inputs['weight'].clone().requires_grad_()
    settings = (GOLDEN.meta[name][key] for key in CONVOLUTION)
    ops.deform_conv2d(inputs['input'], inputs['offset'], weight, *settings).backward(
        inputs['grad_y']
    )
    assert_close(weight.grad, tensors(name, 'out')['grad_weight'])


@pytest.mark.parametrize('name', names('modulated_deform_conv2d'))
def test_modulated_deform_conv2d(name):
    inputs = with_gradients(name)
    result = ops.modulated_deform_conv2d(
        *(inputs[key] for key in ('input', 'offset', 'mask', 'weight', 'bias')),
        *(GOLDEN.meta[name][key] for key in CONVOLUTION),
    )
    result.backward(inputs['grad_y'])
    check(name, result, inputs)


def compiled_attention(value, shapes, locations, weights) -> torch.Tensor:
    """The way mmcv calls its compiled kernel."""
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


@pytest.mark.parametrize(
    'attention', [compiled_attention, multi_scale_deformable_attn_pytorch, ms_deform_attn]
)
@pytest.mark.parametrize('name', names('ms_deform_attn'))
def test_ms_deform_attn(name, attention):
    inputs = with_gradients(name)
    result = attention(*(inputs[key] for key in ('value', 'const_shapes', 'loc', 'attn')))
    result.backward(inputs['grad_y'])
    check(name, result, inputs)
