"""What people pass to an encoder, resolved and checked."""

from collections.abc import Sequence

import torch


def resolve_indices(name: str, indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Indices of blocks, counted from 0.

    Args:
        name: Of the argument, for messages.
        indices: Ascending; negative ones count from the last block.
        depth: Number of blocks.

    Raises:
        ValueError: There is no such block, or the indices do not ascend.
    """
    given = (indices,) if isinstance(indices, int) else tuple(indices)
    resolved = tuple(i + depth if i < 0 else i for i in given)
    if not given or any(not 0 <= i < depth for i in resolved):
        raise ValueError(
            f'{name}={list(given)} names a block the encoder does not have; '
            f'it has {depth}: {-depth} .. {depth - 1}.'
        )
    if list(resolved) != sorted(set(resolved)):
        raise ValueError(f'{name}={list(given)} is not ascending without repeats.')
    return resolved


def resolve_windows(
    window_size: int | Sequence[int], global_blocks: Sequence[int], depth: int
) -> list[int]:
    """The window of every block, 0 where attention is global.

    Raises:
        ValueError: Another number of windows than of blocks, or a negative one.
    """
    if isinstance(window_size, int):
        keep = set(resolve_indices('global_blocks', global_blocks, depth) if global_blocks else ())
        windows = [0 if i in keep else window_size for i in range(depth)]
    else:
        windows = list(window_size)
        if len(windows) != depth or global_blocks:
            raise ValueError(
                f'window_size has {len(windows)} entries and global_blocks {len(global_blocks)}; '
                f'give one window per block ({depth}) and no global_blocks, or a single window.'
            )
    if min(windows) < 0:
        raise ValueError(f'window_size={min(windows)} is negative; 0 is global attention.')
    return windows


def resolve_dtype(dtype: torch.dtype | str | None, half: bool) -> torch.dtype:
    """A dtype from what people write; None is bfloat16 where ``half``, else the default.

    Raises:
        ValueError: No such dtype.
    """
    if dtype is None:
        return torch.bfloat16 if half else torch.get_default_dtype()
    if isinstance(dtype, str):
        short = {'bf16': 'bfloat16', 'fp16': 'float16', 'fp32': 'float32', 'fp64': 'float64'}
        found = getattr(torch, short.get(dtype, dtype.removeprefix('torch.')), None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f'dtype={dtype!r} is not one of {", ".join(short)}.')
        return found
    return dtype
