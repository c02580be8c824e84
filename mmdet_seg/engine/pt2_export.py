"""torch.export's files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

METADATA = 'mmdet_seg.json'  # the entry beside the program in a .pt2


def write(program: torch.export.ExportedProgram, path: Path, facts: dict[str, Any]) -> None:
    """Save as ``.pt2``; the metadata is its extra file :data:`METADATA`."""
    torch.export.save(program, path, extra_files={METADATA: json.dumps(facts)})


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    """A ``.pt2`` as a function from images to logits."""
    return torch.no_grad()(torch.export.load(path).module())
