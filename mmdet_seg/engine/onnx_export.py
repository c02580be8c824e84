"""ONNX files: the one place that imports onnx and onnxruntime."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  (torch's exporter needs it)
except ImportError as error:
    raise ValueError(
        f'--format onnx needs onnx, onnxscript and onnxruntime ({error}): '
        "pip install 'mmdet_seg[export]', or use --format torch_export."
    ) from error

OPSET = 20
# Protocol buffers end at 2 GiB; weights of a larger model go into a file beside it.
_INLINE_BYTES = 1_800_000_000


@torch.no_grad()
def write(program: torch.export.ExportedProgram, path: Path, facts: dict[str, Any]) -> None:
    """Translate a traced program.

    Input ``images``, output ``logits``; every entry of ``facts`` is a metadata property, text as
    it is and the rest as JSON.

    Raises:
        ValueError: An operator has no translation.
    """
    try:
        translated = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=['images'],
            output_names=['logits'],
            verbose=False,
        )
    except Exception as error:  # the exporter's own classes are private
        lines = [x.strip() for x in str(error).splitlines() if x.strip()] or ['']
        raise ValueError(
            f'This model cannot be exported to ONNX: {type(error).__name__}: {lines[0][:300]}; '
            'try --format torch_export.'
        ) from error
    size = sum(t.nbytes for t in program.state_dict.values())
    translated.save(path, external_data=size > _INLINE_BYTES)
    model = onnx.load(path, load_external_data=False)
    for values in (model.graph.input, model.graph.output):
        for axis, name in ((0, 'batch'), (2, 'height'), (3, 'width')):
            values[0].type.tensor_type.shape.dim[axis].dim_param = name
    # Sizes in between are named after the tracer's symbols, which nobody needs.
    del model.graph.value_info[:]
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, path)
    onnx.checker.check_model(str(path))


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    """An ONNX file as a function from images to logits, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {'images': np.ascontiguousarray(images.numpy())})
        return torch.from_numpy(logits)

    return run
