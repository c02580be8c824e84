"""How an encoder's blocks are grouped between the exchanges of a ViT-Adapter."""

from collections.abc import Sequence


def even_groups(depth: int, num: int) -> list[tuple[int, int]]:
    """First and last block of ``num`` groups; group i ends with block round((i + 1) depth / num).

    Halves are rounded to even. Quarters of 12, 24, 40 and 48 blocks are those that were published;
    45 blocks give 11, 11, 12 and 11.
    """
    num = min(num, depth)
    ends = [round((i + 1) * depth / num) for i in range(num)]
    return list(zip([0, *ends[:-1]], [end - 1 for end in ends], strict=True))


def resolve_groups(
    given: Sequence[Sequence[int]] | None, num: int, depth: int
) -> list[tuple[int, int]]:
    """The groups of blocks, checked.

    Raises:
        ValueError: They leave a block out, overlap or end beyond the last block.
    """
    if given is None:
        if num < 1:
            raise ValueError(f'num_interactions={num} is not a positive number.')
        return even_groups(depth, num)
    groups = [tuple(group) for group in given]
    firsts = [0] + [group[-1] + 1 for group in groups[:-1]]
    if (
        not groups
        or any(len(g) != 2 or g[0] != f or g[1] < f for g, f in zip(groups, firsts, strict=True))
        or groups[-1][1] >= depth
    ):
        raise ValueError(
            f'interaction_indexes={[list(g) for g in groups]} are not the first and last block of '
            f'groups that follow one another from block 0 and end before block {depth}; None '
            f'makes {[list(g) for g in even_groups(depth, num)]}.'
        )
    return groups
