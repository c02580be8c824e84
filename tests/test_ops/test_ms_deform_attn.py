"""Multi-scale deformable attention: golden cases, precisions, borders and messages."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from mmdet_seg.engine.deform_benchmark import stock
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
    inputs = [tensor[:, :, :, :2] for tensor in some_inputs(torch.float64)]
    inputs = [inputs[0], *(tensor[:, :3] for tensor in inputs[1:])]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(
        lambda value, locations, weights: ms_deform_attn(value, SHAPES, locations, weights), inputs
    )


@pytest.mark.parametrize('constant', [None, 0])
def test_gradients_of_gradients(constant):
    inputs = [tensor[:1] for tensor in some_inputs(torch.float64)]
    inputs = [inputs[0][..., :1], *(tensor[:, :2] for tensor in inputs[1:])]
    inputs = [tensor.detach().requires_grad_(i != constant) for i, tensor in enumerate(inputs)]
    assert torch.autograd.gradgradcheck(
        lambda value, locations, weights: ms_deform_attn(value, SHAPES, locations, weights), inputs
    )


def big_inputs(dtype: torch.dtype) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
    """So many points that heads are computed in several parts, of different sizes."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    locations = uniform(2, 4200, 5, 2, 4, 2) * 1.4 - 0.2
    return [uniform(2, 210, 5, 3), locations, uniform(2, 4200, 5, 2, 4)], [(11, 14), (7, 8)]


def result_and_gradients(attention, inputs, shapes) -> list[torch.Tensor]:
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    result = attention(inputs[0], shapes, *inputs[1:])
    grad = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    return [result.detach(), *torch.autograd.grad(result, inputs, grad)]


def test_many_points_against_mmcv():
    inputs, shapes = big_inputs(torch.float64)
    found = result_and_gradients(ms_deform_attn, inputs, shapes)
    for tensor, expected in zip(found, result_and_gradients(stock, inputs, shapes), strict=True):
        assert_close(tensor, expected, 1e-10)


def test_few_points_on_a_large_map_against_mmcv():
    value, locations, weights = some_inputs(torch.float64)
    generator = torch.Generator().manual_seed(1)
    shapes = [(30, 41), (2, 3)]
    value = torch.rand(2, 1236, 2, 4, generator=generator, dtype=torch.float64)
    found = result_and_gradients(ms_deform_attn, [value, locations, weights], shapes)
    expected = result_and_gradients(stock, [value, locations, weights], shapes)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-10)


def test_the_same_bits_with_any_number_of_threads():
    inputs, shapes = big_inputs(torch.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 1):
            torch.set_num_threads(number)
            found.append(result_and_gradients(ms_deform_attn, inputs, shapes))
    finally:
        torch.set_num_threads(threads)
    for tensors in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], tensors, strict=True))


def test_nan_reaches_the_loss_instead_of_an_index():
    value, locations, weights = some_inputs()
    locations[0, 1] = float('nan')
    locations[0, 2] = float('inf')
    locations.requires_grad_()
    result = ms_deform_attn(value, SHAPES, locations, weights)
    assert result[0, 1].isnan().all()
    assert result[1].isfinite().all()
    result.sum().backward()
    assert locations.grad[0, 1].isnan().all()
    assert locations.grad[1].isfinite().all()


def test_at_the_outermost_coordinates_as_mmcv():
    # Sides of powers of two: every coordinate is exact in both.
    x = torch.tensor([-1.5, -1, -0.5, 0, 7, 7.5, 8, 8.5], dtype=torch.float64)
    y = torch.tensor([-1.5, -1, -0.5, 0, 3, 3.5, 4, 4.5], dtype=torch.float64)
    places = (torch.cartesian_prod(x, y) + 0.5) / torch.tensor([8, 4])
    value = torch.rand(1, 32, 1, 2, dtype=torch.float64)
    inputs = [value, places.view(1, 64, 1, 1, 1, 2), torch.ones(1, 64, 1, 1, 1).double()]
    found = result_and_gradients(ms_deform_attn, inputs, [(4, 8)])
    for tensor, expected in zip(found, result_and_gradients(stock, inputs, [(4, 8)]), strict=True):
        assert_close(tensor, expected, 1e-12)


def test_shapes_of_results_need_no_data():
    with FakeTensorMode():
        value = torch.empty(2, 30, 2, 4, requires_grad=True)
        weights = torch.empty(2, 5, 2, 2, 3, dtype=torch.bfloat16)
        locations = torch.empty(2, 5, 2, 2, 3, 2)
        for shapes in (SHAPES, torch.tensor(SHAPES)):
            result = ms_deform_attn(value, shapes, locations, weights)
            assert result.shape == (2, 5, 8)
            assert torch.autograd.grad(result.sum(), value)[0].shape == value.shape


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


def test_arguments_stay_as_they_are():
    # One head, one level: no copy is needed to bring a head's weights together.
    value, locations, weights = (tensor[:1] for tensor in some_inputs())
    inputs = [value[:, :24, :1], locations[:, :, :1, :1], weights[:, :, :1, :1]]
    inputs = [tensor.contiguous() for tensor in inputs]
    before = [tensor.clone() for tensor in inputs]
    result_and_gradients(ms_deform_attn, inputs, SHAPES[:1])
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_no_queries():
    value, locations, weights = some_inputs()
    assert ms_deform_attn(value, SHAPES, locations[:, :0], weights[:, :0]).shape == (2, 0, 8)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda v, s, x, w: (v.flatten(2), s, x, w), 'value has shape'),
        (lambda v, s, x, w: (v, [(4, 6)], x, w), r'spatial_shapes=\[\(4, 6\)\] cover 24 .* 30'),
        (
            lambda v, s, x, w: (v, torch.tensor([[4, 6]]), x[:, :, :, :1], w[:, :, :, :1]),
            'cover 24',
        ),
        (lambda v, s, x, w: (v, [4, 6], x, w), 'is not a list of'),
        (lambda v, s, x, w: (v, torch.tensor([4, 6]), x, w), 'is not a list of'),
        (lambda v, s, x, w: (v.int(), s, x, w), 'torch.int32; it must be floating'),
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
