"""Multi-scale deformable attention: golden cases, precisions, borders and messages."""

import pytest
import torch
import torch.nn.functional as F

from mmdet_seg.ops import ms_deform_attn
from tests.golden_data import assert_close, load_case

SHAPES = [(4, 6), (2, 3)]


def some_inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """value, sampling_locations (a few outside the maps) and attention_weights."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    weights = uniform(2, 5, 2, 2, 3).flatten(3).softmax(-1).view(2, 5, 2, 2, 3)
    locations = uniform(2, 5, 2, 2, 3, 2) * 1.4 - 0.2
    return [t.to(dtype) for t in (uniform(2, 30, 2, 4), locations, weights)]


@pytest.mark.parametrize('name', ['ms_deform_attn0', 'ms_deform_attn1', 'ms_deform_attn2'])
@pytest.mark.parametrize('shapes_as', [torch.Tensor.clone, torch.Tensor.tolist])
def test_compiled_operator(name, shapes_as):
    case = load_case('mmcv_ops').tensors
    value, locations, weights = (
        case[f'{name}/in/{key}'].clone().requires_grad_() for key in ('value', 'loc', 'attn')
    )
    shapes = shapes_as(case[f'{name}/in/const_shapes'])
    result = ms_deform_attn(value, shapes, locations, weights)
    result.backward(case[f'{name}/in/grad_y'])
    assert_close(result, case[f'{name}/out/y'])
    for tensor, key in ((value, 'value'), (locations, 'loc'), (weights, 'attn')):
        assert_close(tensor.grad, case[f'{name}/out/grad_{key}'])


def test_gradients():
    inputs = [tensor.requires_grad_() for tensor in some_inputs(torch.float64)]
    assert torch.autograd.gradcheck(
        lambda value, locations, weights: ms_deform_attn(value, SHAPES, locations, weights), inputs
    )


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_loses_only_the_rounding_of_inputs_and_result(dtype):
    inputs = [tensor.requires_grad_() for tensor in some_inputs(dtype)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    result, expected = (ms_deform_attn(x[0], SHAPES, *x[1:]) for x in (inputs, exact))
    assert result.dtype == dtype
    tolerance = torch.finfo(dtype).eps
    assert_close(result.double(), expected, tolerance)
    result.sum().backward()
    expected.sum().backward()
    for low, high in zip(inputs, exact, strict=True):
        assert low.grad.dtype == dtype
        assert_close(low.grad.double(), high.grad, tolerance)


def test_locations_keep_their_precision_beside_bfloat16_values():
    # As under autocast: the values are bfloat16, the coordinates are not.
    value, locations, weights = some_inputs()
    value = value.bfloat16()
    result = ms_deform_attn(value, SHAPES, locations, weights)
    expected = ms_deform_attn(value.float(), SHAPES, locations, weights)
    assert_close(result.float(), expected, torch.finfo(torch.bfloat16).eps)


def test_pixel_centres_return_the_pixels():
    height, width = 3, 4
    value = torch.arange(12.0).view(1, 12, 1, 1)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    centres = torch.stack([(x + 0.5) / width, (y + 0.5) / height], -1).view(1, 12, 1, 1, 1, 2)
    result = ms_deform_attn(value, [(height, width)], centres, torch.ones(1, 12, 1, 1, 1))
    torch.testing.assert_close(result, value.view(1, 12, 1))
    outside = ms_deform_attn(value, [(height, width)], centres + 2, torch.ones(1, 12, 1, 1, 1))
    assert not outside.any()


def test_one_level_is_grid_sample():
    value, locations, _ = some_inputs()
    one = torch.ones(2, 5, 2, 1, 1)
    result = ms_deform_attn(value[:, :24], [(4, 6)], locations[:, :, :, :1, :1], one)
    for head in range(2):
        image = value[:, :24, head].transpose(1, 2).unflatten(2, (4, 6))
        grid = 2 * locations[:, :, head, 0, :1] - 1
        sampled = F.grid_sample(image, grid, align_corners=False)[..., 0].transpose(1, 2)
        torch.testing.assert_close(result[..., 4 * head : 4 * head + 4], sampled)


def test_no_queries():
    value, locations, weights = some_inputs()
    assert ms_deform_attn(value, SHAPES, locations[:, :0], weights[:, :0]).shape == (2, 0, 8)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda v, s, x, w: (v.flatten(2), s, x, w), 'value has shape'),
        (lambda v, s, x, w: (v, [(4, 6)], x, w), r'spatial_shapes=\[\(4, 6\)\] cover 24 .* 30'),
        (lambda v, s, x, w: (v, [4, 6], x, w), 'is not a list of'),
        (lambda v, s, x, w: (v, s, x[..., 0], w), 'sampling_locations has shape'),
        (lambda v, s, x, w: (v, s, x[:, :, :1], w), r'\(2, 1, 2\).*\(2, 2, 2\)'),
        (lambda v, s, x, w: (v, s, x, w[..., :1]), 'attention_weights has shape'),
    ],
)
def test_shapes_that_do_not_fit_are_named_in_one_line(change, message):
    value, locations, weights = some_inputs()
    with pytest.raises(ValueError, match=message) as error:
        ms_deform_attn(*change(value, SHAPES, locations, weights))
    assert '\n' not in str(error.value)
