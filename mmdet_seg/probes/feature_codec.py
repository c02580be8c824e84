"""How a token is written down: in fp32, fp16 or bf16, or in 8 bits with two scales.

An encoder has channels that are a hundred times as large as others, and a few tokens that are as
large beside the others. ``int8`` therefore divides by a scale of the channel, found on the first
views, and then by the largest value of the token, so nothing is ever cut off.

Shapes: B views, T tokens, D channels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16, 'fp32': torch.float32, 'int8': torch.int8}
_TOP = 127


@dataclass(frozen=True)
class Codec:
    """Tokens to bytes and back.

    Attributes:
        dtype: One of :data:`DTYPES`.
        num_tokens: T of a view.
        channels: D.
    """

    dtype: str
    num_tokens: int
    channels: int

    @property
    def record_bytes(self) -> int:
        """Bytes of one view."""
        size = self.num_tokens * self.channels * DTYPES[self.dtype].itemsize
        return size + (4 * self.num_tokens if self.dtype == 'int8' else 0)

    def fit(self, tokens: Tensor) -> dict[str, Any]:
        """What the first views (B, T, D) say about a layer: the scale of every channel."""
        if self.dtype != 'int8':
            return {}
        scale = tokens.float().square().mean((0, 1)).sqrt().clamp_min_(1e-12)
        return {'scale': scale.cpu().tolist()}

    def encode(self, tokens: Tensor, fitted: dict[str, Any]) -> Tensor:
        """(B, T, D) to uint8 (B, record_bytes) on the CPU."""
        B = len(tokens)
        if self.dtype != 'int8':
            stored = tokens.to(DTYPES[self.dtype]).cpu().contiguous()
            return stored.view(B, -1).view(torch.uint8)
        values = tokens.float() / torch.tensor(fitted['scale'], device=tokens.device)
        scale = values.abs().amax(-1, keepdim=True).clamp_min_(1e-12) / _TOP
        whole = (values / scale).round_().to(torch.int8).cpu().reshape(B, -1)
        scale = scale.cpu().reshape(B, -1).view(torch.uint8)
        return torch.cat([whole.view(torch.uint8), scale], dim=1)

    def decode(self, records: Tensor, fitted: dict[str, Any], dtype: torch.dtype) -> Tensor:
        """uint8 (B, record_bytes) to (B, T, D) in ``dtype``; shares memory where it can."""
        B, T, D = len(records), self.num_tokens, self.channels
        if self.dtype != 'int8':
            return records.view(DTYPES[self.dtype]).view(B, T, D).to(dtype)
        whole = records[:, : T * D].view(torch.int8).reshape(B, T, D)
        # A slice of bytes starts anywhere; a view as float32 needs it to start at a multiple of 4.
        scale = records[:, T * D :].contiguous().view(torch.float32).view(B, T, 1)
        channels = fitted['scale']
        if not isinstance(channels, Tensor):
            channels = torch.tensor(channels)
        channels = channels.to(records.device)
        return (whole * scale).mul_(channels).to(dtype)

    def error(self, tokens: Tensor, fitted: dict[str, Any]) -> dict[str, float]:
        """What is lost of (B, T, D): ``rms``, and ``cosine`` of the worst token, from 0 to 1."""
        exact = tokens.float().cpu()
        back = self.decode(self.encode(tokens, fitted), fitted, torch.float32)
        norm = exact.square().mean().sqrt().clamp_min_(1e-12)
        cosine = torch.cosine_similarity(back, exact, dim=-1)
        return {
            'rms': ((back - exact).square().mean().sqrt() / norm).item(),
            'max': ((back - exact).abs().max() / exact.abs().max().clamp_min(1e-12)).item(),
            'cosine': cosine.min().item(),
        }


def check_dtype(dtype: str) -> str:
    """``dtype`` if tokens can be stored in it.

    Raises:
        ValueError: They cannot.
    """
    if dtype not in DTYPES:
        raise ValueError(f'Features are stored in {", ".join(DTYPES)}, not in {dtype!r}.')
    return dtype
