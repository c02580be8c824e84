"""Views for feature stores, and a builder that others kill."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from mmdet_seg.probes import feature_plan
from mmdet_seg.probes.feature_build import build_store
from mmdet_seg.probes.frozen_encoder import open_encoder

VIEWS = {'data': 'noise', 'crop': [56, 84], 'seed': 0}


class NoiseViews:
    """Image and mask as functions of the index."""

    def __init__(self, count: int, *, labels: int = 5, wait: float = 0.0):
        self.count, self.labels, self.wait, self.asked = count, labels, wait, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked.append(index)
        time.sleep(self.wait)
        g = torch.Generator().manual_seed(index)
        image = torch.randn(3, 56, 84, generator=g)
        return image, torch.randint(0, self.labels, (28, 42), generator=g)

    def images(self, indices):
        return torch.stack([self[i][0] for i in indices])


def content(folder: Path) -> dict[str, str]:
    """Every file of a store by its path, as hexadecimal digits."""
    files = (p for p in folder.rglob('*') if p.is_file() and p.name != '.lock')
    return {str(p.relative_to(folder)): p.read_bytes().hex() for p in files}


def main() -> None:
    """Build undisturbed, then with a SIGKILL in every round; print what the last round did."""
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    feature_plan._SHARD_BYTES = 1 << 12  # 4 views
    encoder = open_encoder('random:tiny')

    def build(folder: str, wait: float):
        views = NoiseViews(40, wait=wait)
        options = dict(dtype='int8', batch_size=2)
        return views, build_store(encoder, views, VIEWS, [1, 3], root / folder, **options)

    _, whole = build('whole', 0)
    left = []
    for round_ in range(3):
        child = os.fork()
        if not child:
            build('killed', 0.01)
            os._exit(0)
        time.sleep(0.1 + 0.043 * round_)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left.append(len(list((root / 'killed').rglob('layer_*/0*.json'))))
    views, resumed = build('killed', 0)
    same = content(whole.folder) == content(resumed.folder)
    print(json.dumps({'left': left, 'asked': len(views.asked), 'same': same}))


if __name__ == '__main__':
    main()
