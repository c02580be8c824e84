"""What will be trained and how long a step will take, said before the training starts."""

import time
from typing import TYPE_CHECKING

import torch

from mmdet_seg.command_line import note
from mmdet_seg.engine.progress_hook import clock
from mmdet_seg.probes.frozen_encoder import FrozenEncoder
from mmdet_seg.probes.probe_bank import ProbeBank
from mmdet_seg.probes.protocols import Protocol
from mmdet_seg.probes.segment_train import ProbeTrainer

if TYPE_CHECKING:
    from mmdet_seg.probes.segment_run import SegmentRun


def say_grid(run: 'SegmentRun') -> None:
    """The probes, the data, what a reader must know, and the time where the encoder runs."""
    protocol, number = run.protocol, len(run.grid.specs)
    layers = f'layer{"s" * (len(run.bank.layers) > 1)} {", ".join(map(str, run.bank.layers))}'
    probes = f'{number} probes' if number > 1 else '1 probe'
    note(
        f'{probes} on {layers} of {run.encoder.name}: {protocol.iters} steps of '
        f'{protocol.batch} crops of {protocol.crop} from {run.data.num_train} images, '
        f'{len(run.data.classes)} classes; {run.data.num_val} images to validate.'
    )
    for line in run.grid.notes:
        note(f'  {line}')
    if run.args.store or run.resumed:
        return
    encoder, probes = estimate(run.encoder, run.bank, protocol)
    note(
        f'A step takes about {encoder:.2f} s in the encoder and {probes:.2f} s in the '
        f'{"probes" if number > 1 else "probe"}: {clock((encoder + probes) * protocol.iters)} '
        'in all.'
    )


def estimate(encoder: FrozenEncoder, bank: ProbeBank, protocol: Protocol) -> tuple[float, float]:
    """Seconds of a step in the encoder and in all probes.

    Measured on one empty image and one probe that is thrown away, after a first time.
    """
    side = -(-protocol.crop // encoder.patch_size) * encoder.patch_size
    device, spec = encoder.device, bank.specs[0]
    image = torch.zeros(1, 3, side, side, device=device)
    labels = torch.zeros(1, protocol.crop, protocol.crop, dtype=torch.long, device=device)
    alone = ProbeBank([spec], bank.embed_dim, bank.num_classes).to(device)
    trainer = ProbeTrainer(alone, protocol)
    for _ in range(2):
        started = now_on(device)
        found = encoder.features(image, bank.layers, final_norm=protocol.final_norm)
        between = now_on(device)
        trainer.train_step({i: found[i].patches for i in spec.layers}, labels)
        ended = now_on(device)
    probe = protocol.batch * (ended - between)
    return protocol.batch * (between - started), probe * len(bank.specs)


def now_on(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.monotonic()
