"""Files of a feature store: each is whole, with its hash beside it, or it does not count.

``00003.bin`` is written aside, synced and renamed; ``00003.json`` (bytes, SHA-256, further facts)
follows in the same way and makes it count. What a kill leaves is written again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdet_seg.probes.disk import put_in_place, write_json

_CHUNK = 1 << 24


class Shard:
    """A file of bytes that is complete or absent.

    Args:
        path: ``.../00003.bin``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entry = path.with_suffix('.json')

    def facts(self) -> dict[str, Any] | None:
        """What was written beside it; None where it is not complete by size."""
        try:
            facts = json.loads(self.entry.read_text())
            whole = self.path.stat().st_size == facts['bytes'] and len(facts['sha256']) == 64
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return facts if whole else None

    def is_intact(self) -> bool:
        """Whether its bytes are those that were written: reads all of them."""
        facts = self.facts()
        return facts is not None and self._digest() == facts['sha256']

    def write(self, parts: Iterable[Tensor | bytes], **facts: Any) -> int:
        """Write the file, then its entry.

        Args:
            parts: uint8 tensors or bytes, one after the other.
            facts: Kept in the entry; callables are called once everything is written.

        Returns:
            Bytes.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.entry.unlink(missing_ok=True)
        aside = self.path.with_suffix('.part')
        digest, size = hashlib.sha256(), 0
        with aside.open('wb') as file:
            for part in parts:
                data = memoryview(part.contiguous().numpy() if isinstance(part, Tensor) else part)
                file.write(data)
                digest.update(data)
                size += data.nbytes
            file.flush()
            os.fsync(file.fileno())
        put_in_place(aside, self.path)
        known = {key: value() if callable(value) else value for key, value in facts.items()}
        write_json(self.entry, {'bytes': size, 'sha256': digest.hexdigest(), **known})
        return size

    def read(self, *, verify: bool = True) -> Tensor:
        """Its bytes, mapped into memory: uint8, read from disk as they are touched.

        Raises:
            ValueError: It is incomplete or has changed. A changed one is put aside, so that the
                command that made it makes it anew.
        """
        facts = self.facts()
        if facts is None:
            raise ValueError(f'{self.path} is not complete: run the command that made it again.')
        if verify and self._digest() != facts['sha256']:
            with contextlib.suppress(OSError):
                self.entry.unlink()
            raise ValueError(
                f'{self.path} has changed since it was written (its SHA-256 differs): run the '
                'command that made it again, it makes this file anew.'
            )
        # Closes the file again: a store of thousands of shards keeps no descriptor of them.
        return torch.from_file(str(self.path), size=facts['bytes'], dtype=torch.uint8)

    def _digest(self) -> str:
        digest = hashlib.sha256()
        with self.path.open('rb') as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()
