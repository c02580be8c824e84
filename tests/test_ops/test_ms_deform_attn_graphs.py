"""Deformable attention in graphs: one operator when compiled, plain ones when exported."""

import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

from mmdet_seg.ops import ms_deform_attn
from tests.test_ops.test_ms_deform_attn import SHAPES, some_inputs


class TwoMaps(nn.Module):
    """Attends to two maps of any size, one of half the other's; 2 heads, 3 points."""

    def __init__(self, shapes_as: type = list) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shapes_as = shapes_as
        self.value = nn.Linear(8, 8)
        self.offsets = nn.Linear(8, 24)
        self.weights = nn.Linear(8, 12)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor, query: torch.Tensor):
        shapes = [fine.shape[2:], coarse.shape[2:]]
        if self.shapes_as is torch.Tensor:
            shapes = torch.tensor(shapes)
        maps = torch.cat([x.flatten(2).transpose(1, 2) for x in (fine, coarse)], 1)
        value = self.value(maps).unflatten(2, (2, 4))
        locations = self.offsets(query).unflatten(2, (2, 2, 3, 2)) + 0.5
        weights = self.weights(query).unflatten(2, (2, 6)).softmax(-1).unflatten(3, (2, 3))
        return ms_deform_attn(value, shapes, locations, weights)


def maps_and_queries(batch: int, height: int, width: int, queries: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [
        torch.randn(batch, 8, 2 * height, 2 * width),
        torch.randn(batch, 8, height, width),
        torch.randn(batch, queries, 8),
    ]


SIZES = ((2, 4, 6, 5), (3, 3, 2, 9))


def check_compiled(shapes_as: type, backend: str, tolerance: float) -> None:
    torch._dynamo.reset()
    model = TwoMaps(shapes_as)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for size in SIZES:
        found = []
        for way in (model, compiled):
            result = way(*maps_and_queries(*size))
            found.append([result, *torch.autograd.grad(result.square().sum(), model.parameters())])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('shapes_as', [list, torch.Tensor])
def test_one_graph_with_any_size(shapes_as):
    check_compiled(shapes_as, 'aot_eager', 0)


@pytest.mark.slow  # calls a compiler
def test_inductor():
    check_compiled(list, 'inductor', 1e-5)


def test_the_operator_keeps_pytorch_s_rules():
    value, locations, weights = (tensor.requires_grad_() for tensor in some_inputs())
    shapes = torch.tensor(SHAPES)
    operator = torch.ops.mmdet_seg.ms_deform_attn.default
    tests = ('test_schema', 'test_autograd_registration', 'test_faketensor')
    torch.library.opcheck(operator, (value, shapes, locations, weights, 'auto'), test_utils=tests)


def test_export_and_onnx_with_any_size(tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    model = TwoMaps()
    batch, height, width, queries = (Dim(name, min=1, max=999) for name in 'bhwq')
    dynamic = ({0: batch, 2: 2 * height, 3: 2 * width}, {0: batch, 2: height, 3: width},
               {0: batch, 1: queries})  # fmt: skip
    program = torch.export.export(
        model, tuple(maps_and_queries(*SIZES[0])), dynamic_shapes=dynamic, strict=False
    )
    assert not any('mmdet_seg' in str(node.target) for node in program.graph.nodes)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / 'model.onnx')
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx')
    names = [entry.name for entry in session.get_inputs()]
    for size in (*SIZES, (1, 5, 3, 7)):
        inputs = maps_and_queries(*size)
        expected = model(*inputs).detach()
        torch.testing.assert_close(program.module()(*inputs), expected)
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        torch.testing.assert_close(torch.from_numpy(session.run(None, feed)[0]), expected)
