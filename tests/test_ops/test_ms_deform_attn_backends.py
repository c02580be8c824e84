"""Deformable attention: Triton, a compiled mmcv, and mmcv's module on ours."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_seg import compat
from mmdet_seg.engine.deform_benchmark import stock
from mmdet_seg.ops import ms_deform_attn, ms_deform_attn_op
from tests.golden_data import assert_close, load_case
from tests.test_ops.deform_backends import all_errors
from tests.test_ops.test_ms_deform_attn import SHAPES, result_and_gradients, some_inputs

compat.install()

import mmcv._ext  # noqa: E402  only after the stand-in is in place
from mmcv.ops import MultiScaleDeformableAttention  # noqa: E402
from mmcv.ops import multi_scale_deform_attn as mmcv_module  # noqa: E402

OURS = torch.ops.mmdet_seg.ms_deform_attn.default
door = importlib.import_module('mmdet_seg.ops.ms_deform_attn')  # the name is the function's


class Calls(TorchDispatchMode):
    """Which operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


def check_against_pytorch(errors: dict[str, list[dict[str, float]]]) -> None:
    assert errors.keys() == {'float32', 'bfloat16', 'float16', 'float64'}
    for name, cases in errors.items():
        # 16-bit results differ by one rounding, the others by the order of sums.
        tolerance = torch.finfo(getattr(torch, name)).eps * (1 if '16' in name else 64)
        for case in cases:
            assert max(case.values()) <= tolerance, (name, case)


def test_triton_interpreted_and_chosen_by_the_variable():
    pytest.importorskip('triton')
    done = subprocess.run(
        [sys.executable, '-m', 'tests.test_ops.deform_backends'],
        cwd=Path(__file__).parents[2],
        env={**os.environ, 'TRITON_INTERPRET': '1', 'MMDET_SEG_DEFORM_ATTN': 'triton'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_against_pytorch(json.loads(done.stdout.splitlines()[-1]))


def test_triton_s_kernels_compile_without_a_gpu(monkeypatch, tmp_path):
    pytest.importorskip('triton')
    import triton.language as tl
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmdet_seg.ops import ms_deform_attn_triton as kernels

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    types = dict.fromkeys(('locations', 'weights', 'grad_locations', 'grad_weights'), '*fp32')
    types |= dict(value='*bf16', grad='*bf16', out='*bf16', grad_value='*fp32', shapes='*i32')
    constants = dict(D=32, P=4, BLOCK_Q=32, BLOCK_D=32, DTYPE=tl.float32)
    for kernel in (kernels._forward_kernel, kernels._backward_kernel):
        names = [name for name in kernel.arg_names if name not in constants]
        signature = {name: types.get(name, 'i32') for name in names}
        signature |= dict.fromkeys(constants, 'constexpr')
        source = ASTSource(kernel, signature, constexprs=constants)
        assert compile_kernel(source, target=GPUTarget('cuda', 90, 32)).asm['ptx']


@pytest.mark.gpu
def test_triton_on_a_gpu():
    check_against_pytorch(all_errors('cuda'))
    inputs = [tensor.cuda() for tensor in some_inputs()]
    expected = result_and_gradients(stock, some_inputs(), SHAPES)
    found = result_and_gradients(lambda *x: ms_deform_attn(*x).cpu(), inputs, SHAPES)
    for tensor, reference in zip(found, expected, strict=True):
        assert_close(tensor.cpu(), reference)


def test_what_auto_takes():
    pytest.importorskip('triton')
    cuda, cpu = torch.device('cuda'), torch.device('cpu')
    assert ms_deform_attn_op._kernels(cuda, 'auto').__name__.endswith('_triton')
    assert ms_deform_attn_op._kernels(cpu, 'auto').__name__.endswith('_torch')
    torch.use_deterministic_algorithms(True)
    try:
        assert ms_deform_attn_op._kernels(cuda, 'auto').__name__.endswith('_torch')
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ('backend', 'variable', 'message'),
    [
        ('cuda', 'auto', "backend='cuda' is not one of auto, torch, triton, mmcv"),
        ('auto', 'cuda', 'MMDET_SEG_DEFORM_ATTN=cuda is not one of auto, torch, triton, mmcv'),
        ('triton', 'auto', "needs tensors on CUDA, not on cpu: use backend='auto'"),
        ('mmcv', 'auto', "backend='mmcv' needs a compiled mmcv, and mmcv-lite has none: install"),
        ('auto', 'mmcv', "backend='mmcv' needs a compiled mmcv, and mmcv-lite has none: install"),
    ],
)
def test_backends_that_cannot_run_are_named_in_one_line(monkeypatch, backend, variable, message):
    monkeypatch.setattr(door, '_AUTO', variable)
    value, locations, weights = some_inputs()
    with pytest.raises(ValueError, match=message) as error:
        ms_deform_attn(value, SHAPES, locations, weights, backend=backend)
    assert '\n' not in str(error.value)


def test_a_compiled_mmcv_is_called_as_mmcv_calls_it(monkeypatch):
    # mmcv's own autograd function, on an operator that checks what it is handed.
    def forward(value, shapes, starts, locations, weights, im2col_step):
        assert starts.tolist() == [0, 24]
        assert len(value) % im2col_step == 0
        return stock(value, shapes, locations, weights)

    def backward(value, shapes, starts, locations, weights, grad, *grads, im2col_step):
        inputs = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
        with torch.enable_grad():
            result = stock(inputs[0], shapes, *inputs[1:])
        for target, found in zip(grads, torch.autograd.grad(result, inputs, grad), strict=True):
            target.copy_(found)

    compiled = SimpleNamespace(ms_deform_attn_forward=forward, ms_deform_attn_backward=backward)
    monkeypatch.setattr(mmcv._ext, '__file__', '_ext.so', raising=False)
    source = Path(mmcv_module.__file__).read_text()
    fresh = {'__name__': mmcv_module.__name__, '__package__': 'mmcv.ops', '__file__': '_'}
    source = source.replace('@MODELS.register_module()', '')  # is registered
    exec(compile(source, mmcv_module.__file__, 'exec'), fresh)
    fresh['ext_module'] = compiled
    function = fresh['MultiScaleDeformableAttnFunction']
    monkeypatch.setattr(mmcv_module, 'MultiScaleDeformableAttnFunction', function)
    expected = result_and_gradients(stock, some_inputs(), SHAPES)
    with Calls() as calls:
        found = result_and_gradients(
            lambda *x: ms_deform_attn(*x, backend='mmcv'), some_inputs(), SHAPES
        )
    assert OURS not in calls.seen
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_mmcv_s_module_with_the_authors_weights():
    case = load_case('C_msdeformattn')
    width, levels, heads, points, ratio = case.meta['config'].values()
    module = MultiScaleDeformableAttention(
        width, heads, levels, points, batch_first=True, value_proj_ratio=ratio
    ).eval()
    module.load_state_dict(case.state_dict)
    with Calls() as calls:
        result = module(
            case.inputs['query'],
            value=case.inputs['input_flatten'],
            identity=torch.zeros(()),
            reference_points=case.inputs['reference_points'],
            spatial_shapes=case.inputs['spatial_shapes'],
            level_start_index=case.inputs['level_start_index'],
        )
    assert OURS in calls.seen
    assert_close(result, case.outputs['output'])


@pytest.mark.skipif(hasattr(mmcv._ext, '__file__'), reason='a compiled mmcv is installed')
def test_what_mmcv_s_module_calls_on_a_gpu_keeps_locations_precise():
    value, locations, weights = some_inputs()
    shapes = torch.tensor(SHAPES)
    starts = torch.tensor([0, 24])
    found = mmcv_module.MultiScaleDeformableAttnFunction.apply(
        value.bfloat16(), shapes, starts, locations, weights, 64
    )
    expected = stock(value.bfloat16().float(), shapes, locations, weights)
    assert_close(found.float(), expected, torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize('name', ['ms_deform_attn0', 'ms_deform_attn1', 'ms_deform_attn2'])
def test_the_stand_in_of_the_compiled_operator(name):
    case = load_case('mmcv_ops').tensors
    value, locations, weights = (case[f'{name}/in/{key}'] for key in ('value', 'loc', 'attn'))
    inputs = (value, case[f'{name}/in/const_shapes'], torch.empty(0), locations, weights)
    result = mmcv._ext.ms_deform_attn_forward(*inputs, im2col_step=64)
    assert_close(result, case[f'{name}/out/y'])
    grads = [torch.full_like(tensor, 7) for tensor in (value, locations, weights)]
    mmcv._ext.ms_deform_attn_backward(*inputs, case[f'{name}/in/grad_y'], *grads, im2col_step=64)
    for grad, key in zip(grads, ('value', 'loc', 'attn'), strict=True):
        assert_close(grad, case[f'{name}/out/grad_{key}'])
