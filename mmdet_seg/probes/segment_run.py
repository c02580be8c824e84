"""The job ``segment``: from arguments to trained probes, scores and a report."""

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mmdet_seg.command_line import INTERRUPTED, OK, TERMINATED, note
from mmdet_seg.engine.progress_hook import clock
from mmdet_seg.engine.work_dir import find_resume
from mmdet_seg.probes.encoder_options import encoder_from
from mmdet_seg.probes.own_images import check_images, patch_pictures
from mmdet_seg.probes.probe_bank import Probe, ProbeBank
from mmdet_seg.probes.progress import Progress
from mmdet_seg.probes.report import write_report
from mmdet_seg.probes.run_facts import run_folder
from mmdet_seg.probes.segment_data import SegmentData, TestImage, data_config
from mmdet_seg.probes.segment_estimate import estimate, now_on
from mmdet_seg.probes.segment_evaluate import ProbeScore, evaluate_probes, hush, predict
from mmdet_seg.probes.segment_grid import (
    Grid,
    make_grid,
    parse_numbers,
    parse_options,
    resolve_protocol,
)
from mmdet_seg.probes.segment_heads import write_heads
from mmdet_seg.probes.segment_pictures import write_pictures
from mmdet_seg.probes.segment_results import Outcome, best_probe, make_results, show
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
        self.started = time.monotonic()
        self.seconds = {'encoder': 0.0, 'train': 0.0, 'evaluation': 0.0, 'store': 0.0}
        self.images = check_images(args.images)
        self.resumed = self._find_resumed()
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
        self._say_grid()
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
            command = command_to_go_on(sys.argv, self.folder)
            print(f'Stopped after step {self.trainer.step}; go on with:\n  {command}')
            return TERMINATED if interrupted != 2 else INTERRUPTED
        self._finish(self._evaluate())
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

    # -- what is said ----------------------------------------------------------------------------

    def _say_grid(self) -> None:
        protocol, number = self.protocol, len(self.grid.specs)
        layers = ', '.join(str(layer) for layer in self.bank.layers)
        probes = f'{number} probes' if number > 1 else '1 probe'
        note(
            f'{probes} on layers {layers} of {self.encoder.name}: {protocol.iters} steps of '
            f'{protocol.batch} crops of {protocol.crop} from {self.data.num_train} images, '
            f'{len(self.data.classes)} classes; {self.data.num_val} images to validate.'
        )
        for line in self.grid.notes:
            note(f'  {line}')
        if self.args.store or self.resumed:
            return
        encoder, probes = estimate(self.encoder, self.bank, self.protocol)
        note(
            f'A step takes about {encoder:.2f} s in the encoder and {probes:.2f} s in the '
            f'{"probes" if number > 1 else "probe"}: {clock((encoder + probes) * protocol.iters)} '
            'in all.'
        )

    # -- the rest --------------------------------------------------------------------------------

    def _evaluate(self) -> list:
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

    def _finish(self, scores: list[ProbeScore]) -> None:
        """Write heads, pictures, results and report, and say where they are."""
        heads, missing = write_heads(self.folder, self.encoder, self.bank, self.data, self.cfg)
        best, pictures = best_probe(self.bank, self.trainer, scores), []
        if best is not None and self.args.pictures > 0:
            pictures = patch_pictures(
                self.encoder,
                self.bank.layers,
                self.folder,
                self.images or self.data.some_files(2),
            )
            pictures += write_pictures(
                self.folder,
                partial(self._label, self.bank.probes[best]),
                self.data,
                scores[best].per_image,
                self.args.pictures,
            )
        notes = self._notes() + ([missing] if missing else [])
        outcome = Outcome(scores, notes, self._cost(), heads, pictures)
        device = str(self.encoder.device)
        results = make_results(self.encoder.describe(), device, self.data, self.trainer, outcome)
        results.write(self.folder)
        show(results, self.folder, heads, write_report(self.folder))

    def _label(self, probe: Probe, image: TestImage) -> Tensor:
        protocol = self.protocol
        [label] = predict([probe], self.bank, self.encoder, image, protocol, protocol.final_norm)
        return label

    def _notes(self) -> list[str]:
        notes = list(self.grid.notes)
        if len(self.grid.specs) > 1:
            notes.append(
                'All probes saw the same images in the same order '
                f'(data seed {self.args.data_seed}); a seed is of first weights and dropout.'
            )
        if 'bn' in {spec.norm for spec in self.grid.specs}:
            notes.append(f'Batch norm over the {self.protocol.batch} images of a step.')
        if self.store is not None:
            views = self.args.store_views
            error = max(self.store.error(layer)['rms'] for layer in self.bank.layers)
            notes.append(
                f'Features of {views} fixed views of each training image, kept as '
                f'{self.args.store_dtype} (error {error:.1e} rms); a run that draws new views '
                'each step scores otherwise.'
            )
        if report := self.encoder.quantization_report:
            notes.append(report.text())
        if self.resumed:
            notes.append('The run was interrupted and gone on with; the times are of the rest.')
        return notes

    def _cost(self) -> dict[str, Any]:
        images = self.protocol.iters * self.protocol.batch
        train = self.seconds['train']
        return {
            'seconds': round(time.monotonic() - self.started, 2),
            **{f'{k}_seconds': round(v, 2) for k, v in self.seconds.items() if v},
            'images_per_second': round(images / train, 2) if train and not self.resumed else None,
            'disk_bytes': self.store.disk_bytes if self.store is not None else None,
            'probes': len(self.grid.specs),
        }

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
