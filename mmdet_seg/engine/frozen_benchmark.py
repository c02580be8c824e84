"""A training step of the frozen linear recipe beside the stock way, in one run.

The stock way is mmseg's ``EncoderDecoder`` around timm's encoder in float32 whose parameters are
marked as not requiring gradients, with a linear head. Each way runs in a process of its own, so
that its peak memory is its own; the ways take turns.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

OURS, STOCK = 'mmdet_seg, frozen=True', 'mmseg + timm, requires_grad=False'
CLASSES = 150


@dataclass(frozen=True)
class Row:
    """One way.

    Attributes:
        name: Whose.
        seconds: Of a training step, median.
        peak_gib: Largest resident memory of the process.
        base_gib: Resident memory when everything was imported and nothing built.
        trainable: Parameters that train.
    """

    name: str
    seconds: float
    peak_gib: float
    base_gib: float
    trainable: int


def run(
    arch: str = '300m-448px-v2-5',
    crop: int = 504,
    batch: int = 2,
    steps: int = 4,
    rounds: int = 2,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Measure both ways.

    Args:
        arch: A 300M encoder: timm has no other.
        crop: Side of the crop, pixels.
        batch: Images of a step.
        steps: Measured steps of a round; one more goes before.
        rounds: Turns of each way.
        progress: Called with a line before each process.

    Raises:
        ValueError: timm is not installed, or has no such encoder.
    """
    if not arch.startswith('300m'):
        raise ValueError(f'--arch {arch}: the stock way is timm, which has 300M encoders only.')
    found: dict[str, list[Row]] = {OURS: [], STOCK: []}
    for i in range(rounds):
        for name, rows in found.items():
            progress(f'{name}: {steps} steps of {batch} x {crop} px, round {i + 1} of {rounds}')
            rows.append(_in_child(name, arch, crop, batch, steps))
    return [
        Row(
            name,
            median(r.seconds for r in rows),
            max(r.peak_gib for r in rows),
            min(r.base_gib for r in rows),
            rows[0].trainable,
        )
        for name, rows in found.items()
    ]


def measure(name: str, arch: str, crop: int, batch: int, steps: int) -> Row:
    """Build one way and train it on random images, in this process."""
    import torch
    from mmengine.optim import build_optim_wrapper

    from mmdet_seg.engine.load_benchmark import GIB
    from mmdet_seg.engine.process_memory import memory_status, peak_bytes

    build = _ours if name == OURS else _stock
    torch.manual_seed(0)
    import mmseg.models  # noqa: F401

    base = memory_status().get('VmRSS', 0)
    model, wrapper = build(arch, crop)
    model.train()
    optim_wrapper = build_optim_wrapper(model, wrapper)
    data = _batch(crop, batch)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        model.train_step(data, optim_wrapper)
        seconds.append(time.perf_counter() - start)
    return Row(
        name,
        median(seconds[1:]),
        peak_bytes() / GIB,
        base / GIB,
        sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def _ours(arch: str, crop: int) -> tuple:
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import init_default_scope

    from mmdet_seg.engine.recipe import load_recipe
    from mmdet_seg.registry import MODELS

    options = {'crop_size': (crop, crop)}
    cfg = load_recipe('linear_internvit', arch=arch, data='ade20k', options=options)
    cfg.model.backbone.pop('init_cfg')
    init_default_scope('mmseg')
    return revert_sync_batchnorm(MODELS.build(cfg.model)), cfg.optim_wrapper


def _stock(arch: str, crop: int) -> tuple:
    if importlib.util.find_spec('timm') is None:
        raise ValueError('The stock way needs timm: pip install mmdet_seg[peers].')
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    cfg = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            size=(crop, crop),
        ),
        backbone=dict(
            type='TIMMBackbone',
            model_name='vit_intern300m_patch14_448',
            features_only=True,
            pretrained=False,
            out_indices=(23,),
            img_size=crop,
        ),
        decode_head=dict(
            type='FCNHead',
            in_channels=1024,
            channels=1024,
            num_convs=0,
            concat_input=False,
            dropout_ratio=0.0,
            num_classes=CLASSES,
            loss_decode=dict(type='CrossEntropyLoss'),
        ),
        test_cfg=dict(mode='whole'),
    )
    model = MODELS.build(cfg)
    model.backbone.requires_grad_(False)
    return model, dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=4e-5))


def _batch(crop: int, batch: int) -> dict:
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    inputs, samples = [], []
    for _ in range(batch):
        inputs.append(torch.randint(0, 255, (3, crop, crop), dtype=torch.uint8))
        shape = dict(img_shape=(crop, crop), ori_shape=(crop, crop), pad_shape=(crop, crop))
        sample = SegDataSample(metainfo=shape)
        sample.gt_sem_seg = PixelData(data=torch.randint(0, CLASSES, (1, crop, crop)))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def _in_child(*job: object) -> Row:
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])}
    command = [sys.executable, '-m', 'mmdet_seg.engine.frozen_benchmark', json.dumps(job)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['no message'])[-1]
        raise ValueError(f'{job[0]} failed with status {done.returncode}: {last}')
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def table(rows: list[Row]) -> str:
    """The rows as Markdown; ratios are to the first."""
    lines = [
        '| way | step, s | ours is | peak memory, GiB | above the imports, GiB | trained |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        ratio = '' if row is rows[0] else f'{row.seconds / rows[0].seconds:.2f} x'
        lines.append(
            f'| {row.name} | {row.seconds:.2f} | {ratio} | {row.peak_gib:.2f} | '
            f'{row.peak_gib - row.base_gib:.2f} | {row.trainable:,} |'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    print(json.dumps(asdict(measure(*json.loads(sys.argv[1])))))
