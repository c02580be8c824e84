"""Images with one class each, whatever they lie in.

They are handed out as PIL in RGB without turning them (EXIF), as in the published evaluations.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class LabelledImages:
    """Images with one class each.

    Args:
        name: For messages and results.
        labels: (n,) class numbers.
        classes: Names.
        files: Their paths.
        pixels: (n, H, W) or (n, H, W, 3) uint8 instead of ``files``.
        dataset: Anything with (image, label) items instead of both.

    Attributes:
        identity: Hash of what is in it: names, labels and the sizes of the first files.
    """

    def __init__(
        self,
        name: str,
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        *,
        files: Sequence[Path] | None = None,
        pixels: np.ndarray | None = None,
        dataset: Any = None,
    ) -> None:
        self.name, self.classes = name, list(classes)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.files, self.pixels, self.dataset = files, pixels, dataset
        self.rows = np.arange(len(self.labels))
        self.identity = self._hash()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """An image in RGB.

        Raises:
            ValueError: It cannot be read; the line names it.
        """
        row = int(self.rows[index])
        try:
            if self.files is not None:
                with Image.open(self.files[row]) as opened:
                    return opened.convert('RGB')
            if self.pixels is not None:
                return Image.fromarray(self.pixels[row]).convert('RGB')
            found = self.dataset[row][0]
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f'{self.item(index)} cannot be read ({error}); mend it or take it out.'
            ) from error
        if not isinstance(found, Image.Image):
            raise ValueError(f'{self.name} gives {type(found).__name__}s, not images.')
        return found.convert('RGB')

    def item(self, index: int) -> str:
        """What a person calls the image."""
        row = int(self.rows[index])
        return str(self.files[row]) if self.files is not None else f'{self.name}[{row}]'

    def part(self, rows: np.ndarray) -> 'LabelledImages':
        """Some of the images, in the order of ``rows``."""
        other = object.__new__(LabelledImages)
        other.__dict__.update(self.__dict__)
        other.labels, other.rows = self.labels[rows], self.rows[rows]
        other.identity = hashlib.sha256(
            self.identity.encode() + np.ascontiguousarray(other.rows).tobytes()
        ).hexdigest()
        return other

    def limited(self, count: int | None, seed: int) -> 'LabelledImages':
        """``count`` images, drawn by the seed; all of them where there are not more."""
        if not count or count >= len(self):
            return self
        rows = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.part(np.sort(rows))

    def _hash(self) -> str:
        digest = hashlib.sha256(f'{self.name} {len(self)} {self.classes}'.encode())
        digest.update(self.labels.tobytes())
        if self.files is not None:
            digest.update('\n'.join(map(str, self.files)).encode())
            # All sizes of a million files would take minutes on a network's disk.
            sizes = [os.path.getsize(f) for f in self.files[:1000] if os.path.exists(f)]
            digest.update(str(sizes).encode())
        elif self.pixels is not None:
            digest.update(np.ascontiguousarray(self.pixels))
        else:
            digest.update(repr(self.dataset).encode())
        return digest.hexdigest()
