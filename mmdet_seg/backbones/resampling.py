"""Fitting stored position tables and patch kernels to an encoder of another size.

Shapes: K prefix tokens, N patches, P pixels along one side of a patch.
"""

from collections.abc import Mapping

from torch import Tensor

from mmdet_seg.backbones.arch_config import split_rows
from mmdet_seg.backbones.pos_embed import resample_patch_kernel, resample_positions
from mmdet_seg.backbones.variants import Arch


def resampled_tensors(
    names: Mapping[str, tuple[int, ...]], arch: Arch
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Stored shapes (our names) -> what changes: name -> new shape, and words for a report."""
    changes = {}
    table = names['pos_embed']
    prefix, side = split_rows(table)
    grid = arch.grid_size
    if (prefix, side) != (arch.num_prefix_tokens, grid) and prefix >= arch.num_prefix_tokens:
        text = f'pos_embed {side}x{side} -> {grid}x{grid}'
        if prefix > arch.num_prefix_tokens:
            text += ' without its class row'
        changes['pos_embed'] = ((1, arch.num_prefix_tokens + grid**2, *table[2:]), text)
    kernel = names['patch_embed.proj.weight']
    size = arch.patch_size
    if kernel[2:] != (size, size):
        text = f'patch_embed {kernel[2]}x{kernel[3]} -> {size}x{size}'
        changes['patch_embed.proj.weight'] = ((*kernel[:2], size, size), text)
    return changes


def resample(name: str, tensor: Tensor, arch: Arch) -> Tensor:
    """A stored tensor at the encoder's size, in float32."""
    tensor = tensor.float()  # once, and rounded once
    if name == 'patch_embed.proj.weight':
        return resample_patch_kernel(tensor, arch.patch_size)
    prefix, _ = split_rows(tuple(tensor.shape))
    tensor = tensor[:, prefix - arch.num_prefix_tokens :]
    return resample_positions(tensor, (arch.grid_size,) * 2, arch.num_prefix_tokens)
