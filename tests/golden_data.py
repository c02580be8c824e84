"""Reference outputs of the authors' own code and of mmcv's compiled operators.

The whole set lies in ``../shared/golden`` beside the checkout where there is one, or in the folder
that ``MMDET_SEG_GOLDEN`` names; a subset is committed in ``tests/golden`` so that a lone clone
proves itself. A case of the whole set that a lone clone lacks is skipped; with ``CI=true`` its
absence is a failure. The tolerance is the one that the data's README gives:
``max|a - b| / max|b| <= 1e-4``.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SUBSET = Path(__file__).parent / 'golden'
WHOLE = Path(os.environ.get('MMDET_SEG_GOLDEN') or Path(__file__).parents[2] / 'shared' / 'golden')
TOLERANCE = 1e-4


@dataclass
class Case:
    """One golden case; the dicts are keyed without their ``in/``, ``out/``, ``sd/`` prefix."""

    name: str
    meta: dict
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    state_dict: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]  # everything, keys as stored (`ckpt/...`, `pth/...` too)


def golden_path(file_name: str) -> Path:
    """Path of a golden file; skips the test (fails in CI) where it is not at hand."""
    for folder in (WHOLE, SUBSET):
        if (folder / file_name).is_file():
            return folder / file_name
    if os.environ.get('CI') == 'true':
        pytest.fail(f'{file_name} is not in {WHOLE}: CI needs the whole golden set.')
    pytest.skip(f'{file_name} is not in the committed subset and {WHOLE} is not here.')


def golden_names(prefix: str) -> list[str]:
    """Names (no suffix) of all JSON files at hand that start with ``prefix``, sorted."""
    found = {p.stem for d in (WHOLE, SUBSET) if d.is_dir() for p in d.glob(f'{prefix}*.json')}
    return sorted(found)


def load_meta(name: str) -> dict:
    """The JSON of a case or key list."""
    return json.loads(golden_path(f'{name}.json').read_text())


def load_case(name: str) -> Case:
    """A case with its tensors."""
    meta = load_meta(name)
    tensors = load_file(golden_path(f'{name}.safetensors'))

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    return Case(name, meta, part('in/'), part('out/'), part('sd/'), tensors)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """``max|a - b| / max|b|``, the measure of the golden README."""
    assert actual.shape == expected.shape, (tuple(actual.shape), tuple(expected.shape))
    scale = expected.abs().max().clamp_min(1e-12)  # all zeros are compared as they are
    return ((actual - expected).abs().max() / scale).item()


def assert_close(
    actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE
) -> None:
    """Fail unless ``relative_error`` is within ``tolerance``."""
    error = relative_error(actual, expected)
    assert error <= tolerance, f'relative error {error:.2e} > {tolerance:.0e}'
