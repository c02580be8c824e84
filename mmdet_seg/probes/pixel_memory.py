"""Crops and images that would not fit into memory, refused before anything is made of them.

Shapes: (H, W) pixels, D channels.
"""

from mmdet_seg.engine.process_memory import available_bytes
from mmdet_seg.probes.disk import gib
from mmdet_seg.probes.frozen_encoder import FrozenEncoder

_PIXEL = 3 * 4 + 8  # bytes: three colours in float32 and a label
_CHANNEL = 8 * 2  # bytes of a token on its way through a block, in 16 bits


def check_pixels(
    option: str, size: tuple[int, int], encoder: FrozenEncoder, count: int = 1
) -> None:
    """Refuse what pixels and the tokens of one block alone have no room for.

    Args:
        option: That asked for it, with its value.
        size: (H, W) of one image.
        encoder: On its device.
        count: Images at a time.

    Raises:
        ValueError: They take more than is free.
    """
    pixels = count * size[0] * size[1]
    need = pixels * (_PIXEL + encoder.embed_dim * _CHANNEL / encoder.patch_size**2)
    free = available_bytes()
    if free is not None and need > free:
        what = f'{count} images' if count > 1 else 'an image'
        raise ValueError(
            f'{option}: {what} of {size[0]}x{size[1]} pixels take {gib(need)} or more, and '
            f'{gib(free)} are free; take smaller or fewer ones.'
        )
