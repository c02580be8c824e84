"""Results as a run would leave them, for the tests of what reads them."""

import copy
import math

from mmdet_seg.probes.results import Results

CLASSES = ['sky', 'grass <b>&amp;', 'road', 'boat']


def sample(name: str = 'random:small', depth: int = 4, shift: float = 0.0) -> Results:
    """A sweep of three layers and two rates; one probe has failed."""
    rows, curves = [], {}
    for layer in (0, 2, depth - 1):
        for lr in (0.001, 0.01):
            score = 30.0 + 10 * layer + 100 * lr + shift
            row = {
                'name': f'layer {layer}, lr {lr:g}',
                'layers': [layer],
                'combine': 'last',
                'norm': 'batch',
                'lr': lr,
                'weight_decay': 0.0,
                'seed': 0,
                'metric': 'mIoU',
                'score': score,
                'scores': {'mIoU': score, 'aAcc': score + 20},
                'per_class': {c: score + 5 * i for i, c in enumerate(CLASSES[:3])} | {'boat': None},
            }
            rows.append(row)
            curves[row['name']] = {
                'loss': [[s, 2 / (1 + s / 50) + lr] for s in range(0, 200, 20)],
                'score': [[100, score - 5], [200, score]],
            }
    rows[-1] |= {'score': math.nan, 'scores': {}, 'per_class': None}
    return Results(
        task='segment',
        encoder={
            'name': name,
            'identity': 'ab' * 8,
            'embed_dim': 96,
            'depth': depth,
            'patch_size': 14,
            'num_parameters': 1_234_567,
            'dtype': 'bfloat16',
            'quantization': None,
        },
        data={
            'name': 'scenes',
            'root': 'data/scenes',
            'num_train': 8,
            'num_val': 3,
            'classes': CLASSES,
        },
        protocol='internvit',
        rows=rows,
        curves=curves,
        cost={
            'seconds': 61.5,
            'encoder_seconds': 40.0,
            'peak_memory_bytes': 3 << 30,
            'disk_bytes': 0,
            'images_per_second': 12.5,
        },
        notes=['Features of 4 fixed views; a run that draws new views each step scores otherwise.'],
        machine={'cpu': 'a CPU', 'cores': 2, 'device': 'cpu', 'torch': '2.14.1'},
        command=['tools/probe.py', 'segment', name, '--data', "it's <here>"],
        date='2026-11-23T20:00:00+00:00',
        published=[
            {'name': 'InternViT-6B <224>', 'score': 47.2, 'source': 'arXiv 2312.14238'},
            {'name': 'other', 'score': 40.0, 'source': '', 'per_class': {'sky': 91.0}},
        ],
    )


def changed(results: Results, **entries: object) -> Results:
    """A copy with other entries."""
    other = copy.deepcopy(results)
    for key, value in entries.items():
        setattr(other, key, value)
    return other
