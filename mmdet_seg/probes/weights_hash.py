"""What makes two encoders the same: every byte of the weights, and the shape they are put into."""

import hashlib
import json
from typing import Any

import torch
from torch import nn


def hash_weights(module: nn.Module, structure: Any) -> str:
    """SHA-256 over names, types, shapes and bytes, wherever the tensors are.

    Args:
        module: Its state dict is hashed.
        structure: What the weights do not tell (number of heads); anything JSON takes.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(structure, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        shape = 'x'.join(map(str, tensor.shape))
        digest.update(f'\n{name} {str(tensor.dtype).removeprefix("torch.")} {shape}\n'.encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def hash_of(*parts: Any) -> str:
    """SHA-256 of anything that JSON takes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
