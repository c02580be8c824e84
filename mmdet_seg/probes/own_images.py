"""The pictures of patches in a report: of the user's own images, or of some that were scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from mmdet_seg.probes.frozen_encoder import FrozenEncoder

_FOLDER = 'patches'
_MOST_LAYERS, _MOST_IMAGES = 6, 12


def check_images(images: Sequence[str]) -> list[Path]:
    """What ``--images`` names, before anything takes long.

    Raises:
        FileNotFoundError: A path or pattern that gives no image.
    """
    from mmdet_seg.engine.images import find_images

    return find_images(images) if images else []


def patch_pictures(
    encoder: 'FrozenEncoder',
    layers: Sequence[int],
    folder: Path,
    images: Sequence[Path | str | tuple[str, 'np.ndarray']],
) -> list[dict[str, Any]]:
    """Write pictures of components and attention to ``folder/patches``.

    Of many layers the evenly spread ones are shown, of many images the first ones; an image that
    cannot be read is named and left out.

    Args:
        encoder: Frozen.
        layers: Blocks that were probed, from 0.
        folder: Of the run.
        images: Files, or names with (H, W, 3) uint8 RGB.

    Returns:
        Entries of the results' ``pictures``.
    """
    from mmdet_seg.command_line import note
    from mmdet_seg.engine.images import output_names, read_image
    from mmdet_seg.probes.feature_pictures import look, write_pictures

    chosen = sorted(set(encoder.check_layers(layers)))
    if (extra := len(chosen) - 1) >= _MOST_LAYERS:
        places = [round(i * extra / (_MOST_LAYERS - 1)) for i in range(_MOST_LAYERS)]
        chosen = [chosen[place] for place in places]
    read = [
        (''.join(c if c.isalnum() or c in ' -_' else '_' for c in image[0]), image[1])
        for image in images[:_MOST_IMAGES]
        if isinstance(image, tuple)
    ]
    paths = [Path(path) for path in images[:_MOST_IMAGES] if not isinstance(path, tuple)]
    for path, name in zip(paths, output_names(paths), strict=True):
        try:
            read.append((name, read_image(path)))
        except (ValueError, FileNotFoundError) as error:
            note(f'Not shown: {error}')
    try:
        found = look(encoder, read, chosen)
    except ValueError as error:  # blocks that attend within windows, images that are too large
        note(f'No pictures of attention: {error}')
        found = look(encoder, read, chosen, attention=False)
    entries = write_pictures(found, folder / _FOLDER)
    return [{**entry, 'file': f'{_FOLDER}/{entry["file"]}'} for entry in entries]
