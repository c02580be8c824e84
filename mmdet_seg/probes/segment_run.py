"""The job ``segment``: from arguments to trained probes, scores and a report."""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from mmdet_seg.command_line import INTERRUPTED, OK, TERMINATED, note
from mmdet_seg.engine.work_dir import find_resume
from mmdet_seg.probes.encoder_options import encoder_from
from mmdet_seg.probes.own_images import check_images
from mmdet_seg.probes.pixel_memory import check_pixels
from mmdet_seg.probes.probe_bank import ProbeBank
from mmdet_seg.probes.progress import Progress
from mmdet_seg.probes.run_facts import hush, run_folder
from mmdet_seg.probes.run_options import check_workers
from mmdet_seg.probes.segment_data import SegmentData, data_config, find_data
from mmdet_seg.probes.segment_estimate import now_on, say_grid
from mmdet_seg.probes.segment_evaluate import ProbeScore, evaluate_probes
from mmdet_seg.probes.segment_finish import finish
from mmdet_seg.probes.segment_grid import (
    Grid,
    make_grid,
    parse_numbers,
    parse_options,
    resolve_protocol,
)
from mmdet_seg.probes.segment_state import (
    Interrupts,
    command_to_go_on,
    load_state,
    save_state,
)
from mmdet_seg.probes.segment_store import open_segment_store
from mmdet_seg.probes.segment_train import ProbeTrainer

_SAVE_SECONDS = 300.0
_CLOCK_EVERY = 10  # steps between measurements of the encoder, each of which waits for the device


class SegmentRun:
    """One run of ``tools/probe.py segment``.

    Args:
        args: Of the command line.

    Attributes:
        encoder: Frozen.
        grid: The probes and their protocol.
        data: Images and labels.
        store: Features of fixed views; None where the encoder runs.
        trainer: The probes while they train.
        seconds: What took how long.

    Raises:
        ValueError: An option that makes no sense with this encoder and data.
        FileNotFoundError: No such encoder or data.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        hush()
        _check_numbers(args)
        self.started = time.monotonic()
        self.seconds = {'encoder': 0.0, 'train': 0.0, 'evaluation': 0.0, 'store': 0.0}
        self.images = check_images(args.images)
        self.resumed = self._find_resumed()
        find_data(args.data, parse_options(args.cfg_options))  # before anything large is read
        self.encoder = encoder_from(args)
        short = args.data == 'scenes' if args.short is None else args.short
        overrides = {
            k: getattr(args, k)
            for k in ('iters', 'batch', 'crop', 'dropout', 'optimizer', 'final_norm')
        }
        protocol = resolve_protocol(args.protocol, self.encoder, short=short, overrides=overrides)
        self.grid: Grid = make_grid(
            self.encoder,
            protocol,
            layers=args.layers,
            norms=args.norms,
            lr=parse_numbers('--lr', args.lr, float),
            weight_decay=parse_numbers('--weight-decay', args.weight_decay, float),
            seeds=parse_numbers('--seeds', args.seeds, int),
        )
        crop = protocol.crop
        check_pixels(f'--crop {crop}', (crop, crop), self.encoder, protocol.batch)
        self.cfg = data_config(
            args.data,
            protocol,
            self.encoder.patch_size,
            short=short,
            options=parse_options(args.cfg_options),
        )
        self.data = SegmentData(
            args.data, self.cfg, self.encoder, protocol, seed=args.data_seed, workers=args.workers
        )
        self.protocol = protocol
        bank = ProbeBank(self.grid.specs, self.encoder.embed_dim, len(self.data.classes))
        self.bank = bank.to(self.encoder.device)
        self.trainer = ProbeTrainer(self.bank, protocol)
        self.folder = self.resumed[0] if self.resumed else run_folder('segment', args.out)
        self.store = None

    def run(self) -> int:
        """Train, validate, write; the exit status."""
        say_grid(self)
        if self.args.store:
            started = time.monotonic()
            self.store = open_segment_store(
                self.args.store,
                self.encoder,
                self.data,
                self.cfg,
                self.bank.layers,
                views=self.args.store_views,
                dtype=self.args.store_dtype,
            )
            self.seconds['store'] = time.monotonic() - started
        if self.resumed:
            load_state(self.resumed[1], self.trainer, self._identity())
            note(f'Going on after step {self.trainer.step} of {self.resumed[1]}.')
        if interrupted := self._train():
            command = command_to_go_on(
                sys.argv, getattr(self.args, 'compared_in', None) or self.folder
            )
            print(f'Stopped after step {self.trainer.step}; go on with:\n  {command}')
            return TERMINATED if interrupted != 2 else INTERRUPTED
        finish(self, self._evaluate())
        return OK

    # -- training --------------------------------------------------------------------------------

    def _train(self) -> int:
        """Train to the end; the number of the signal that ended it earlier, or 0."""
        trainer, total = self.trainer, self.protocol.iters
        progress = Progress('train', total - trainer.step, 'steps/s')
        saved, started = time.monotonic(), time.monotonic()
        fresh = trainer.step
        with Interrupts() as interrupts:
            for patches, labels in self._batches() if trainer.step < total else ():
                trainer.train_step(patches, labels)
                progress.add(1, trainer.text)
                if trainer.step >= total or interrupts.number:
                    break
                if self.args.val_every and trainer.step % self.args.val_every == 0:
                    self._validate()
                if self._is_time(saved):
                    save_state(self.folder, trainer, self._identity())
                    saved = time.monotonic()
            if trainer.step > fresh:
                save_state(self.folder, trainer, self._identity())
            progress.close()
            self.seconds['train'] = time.monotonic() - started - self.seconds['evaluation']
            return 0 if trainer.step >= total else interrupts.number

    def _validate(self) -> None:
        """Score all probes on the way."""
        scores = self._evaluate()
        names = [spec.name for spec in self.grid.specs]
        for name, score in zip(names, scores, strict=True):
            if name not in self.trainer.stopped:
                self.trainer.scores[name].append([self.trainer.step, score.scores['mIoU']])
        best = max(score.scores['mIoU'] for score in scores)
        note(f'After step {self.trainer.step} of {self.protocol.iters}: best mIoU {best:.2f}.')

    def _is_time(self, saved: float) -> bool:
        if self.args.save_every:
            return self.trainer.step % self.args.save_every == 0
        return time.monotonic() - saved > _SAVE_SECONDS

    def _batches(self) -> Iterator[tuple[dict[int, Tensor], Tensor]]:
        device, batch = self.encoder.device, self.protocol.batch
        if self.store is not None:
            found = self.store.batches(
                batch, seed=self.args.data_seed, start=self.trainer.step, layers=self.bank.layers
            )
            for features, labels in found:
                patches = {i: f.patches.to(device) for i, f in features.items()}
                yield patches, labels.to(device)
            return
        for images, labels in self.data.batches(self.trainer.step, batch):
            measured = self.trainer.step % _CLOCK_EVERY == 0
            started = now_on(self.encoder.device) if measured else 0.0
            features = self.encoder.features(
                images.to(device), self.bank.layers, final_norm=self.protocol.final_norm
            )
            if measured:
                left = self.protocol.iters - self.trainer.step
                self.seconds['encoder'] += (now_on(self.encoder.device) - started) * min(
                    _CLOCK_EVERY, left
                )
            yield {i: f.patches for i, f in features.items()}, labels.to(device)

    # -- the rest --------------------------------------------------------------------------------

    def _evaluate(self) -> list[ProbeScore]:
        started = time.monotonic()
        progress = Progress('validate', self.data.num_val)
        scores = evaluate_probes(
            self.bank,
            self.encoder,
            self.data,
            final_norm=self.protocol.final_norm,
            progress=lambda done, total: progress.add(1),
        )
        progress.close()
        self.seconds['evaluation'] += time.monotonic() - started
        return scores

    def _find_resumed(self) -> tuple[Path, Path] | None:
        if self.args.resume is None:
            return None
        return find_resume('probe_segment', self.args.resume, self.args.out)

    def _identity(self) -> dict[str, Any]:
        """What has to be the same in a run that goes on; JSON."""
        return {
            'probes': [spec.name for spec in self.grid.specs],
            'protocol': dict(vars(self.protocol)),
            'data': [self.data.name, self.data.num_train, self.data.num_val, self.data.classes],
            'data seed': self.args.data_seed,
            'encoder': self.encoder.identity,
            'feature store': self.store.key if self.store is not None else None,
        }


def _check_numbers(args: argparse.Namespace) -> None:
    check_workers(args)
    for name in ('val_every', 'save_every'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f'--{name.replace("_", "-")} {value} is not at least 1 step.')
    if args.data_seed < 0:
        raise ValueError(f'--data-seed {args.data_seed} is below 0.')
