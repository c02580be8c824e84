"""The job ``retrieve``: from arguments to a memory, scores and a report."""

import argparse
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmdet_seg.command_line import INTERRUPTED, OK, TERMINATED, note
from mmdet_seg.datasets.loader_processes import leave_signals
from mmdet_seg.probes.disk import gib
from mmdet_seg.probes.encoder_options import encoder_from
from mmdet_seg.probes.loading import loaded
from mmdet_seg.probes.memory_index import build_index, recall
from mmdet_seg.probes.own_images import check_images
from mmdet_seg.probes.patch_memory import PatchMemory
from mmdet_seg.probes.pixel_memory import check_pixels
from mmdet_seg.probes.progress import Progress
from mmdet_seg.probes.retrieval import Retrieval, score_rows, settings
from mmdet_seg.probes.retrieve_options import (
    choose_final_norm,
    choose_protocol,
    read_options,
    single_layers,
)
from mmdet_seg.probes.retrieve_results import finish
from mmdet_seg.probes.retrieve_state import (
    AREAS,
    MEMORY,
    check_room,
    clear,
    find_state,
    load_tensors,
    save_tensors,
)
from mmdet_seg.probes.run_facts import hush, run_folder
from mmdet_seg.probes.segment_data import SegmentData, data_config, find_data
from mmdet_seg.probes.segment_grid import parse_layers, parse_options
from mmdet_seg.probes.segment_state import Interrupts, command_to_go_on

_IMAGES_AT_ONCE = {'cpu': 4}
_OTHER_AT_ONCE = 32
_TRIED = 1000  # queries that say how good an approximate index is
_SAVE_SECONDS = 30.0  # between states, of which writing takes at most
_SAVE_SHARE = 0.05  # of the time


class RetrieveRun:
    """One run of ``tools/probe.py retrieve``.

    Args:
        args: Of the command line.

    Attributes:
        encoder: Frozen.
        data: Images and labels.
        rows: What is tried.
        images: The user's own, for pictures.
        memory: Patches of training images.
        seconds: What took how long.
        notes: What a reader must know to compare.

    Raises:
        ValueError: An option that makes no sense with this encoder and data.
        FileNotFoundError: No such encoder or data, or nothing to go on with.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        hush()
        self.args, self.started = args, time.monotonic()
        self.seconds = {'memory': 0.0, 'encoder': 0.0, 'evaluation': 0.0}
        self.notes: list[str] = []
        options = read_options(args)
        self.images = check_images(args.images)
        resumed = None
        if args.resume is not None:
            resumed = find_state(args.resume or args.out or '', Path('work_dirs/probe_retrieve'))
        changed = parse_options(args.cfg_options)
        find_data(args.data, changed)  # before anything large is read
        self.encoder = encoder_from(args)
        layers = single_layers(parse_layers(args.layers, self.encoder))
        self.rows = settings(layers, options.neighbours, options.temperatures)
        self.final_norm = choose_final_norm(args.final_norm, self.encoder)
        protocol = choose_protocol(args, options.short, self.encoder)
        crop = protocol.crop
        check_pixels(f'--crop {crop}', (crop, crop), self.encoder, self._at_once())
        cfg = data_config(
            args.data, protocol, self.encoder.patch_size, short=options.short, options=changed
        )
        self.data = SegmentData(
            args.data, cfg, self.encoder, protocol, seed=args.seed, workers=args.workers
        )
        self.memory = PatchMemory(
            layers,
            options.memory_size,
            self.data.num_train * args.views,
            self.encoder.embed_dim,
            len(self.data.classes),
            args.seed,
        )
        self.folder = resumed or run_folder('retrieve', args.out)
        self.areas: list[Tensor] = []
        self._saved, self._save_took = time.monotonic(), 0.0
        if resumed:
            self._load()

    def run(self) -> int:
        """Fill the memory, score, write; the exit status."""
        views, layers = self.memory.views_left(), self.memory.layers
        note(
            f'Memory of {self.memory.size:,} patches from {self.memory.num_views:,} views of '
            f'{self.data.num_train:,} images, {gib(self.memory.bytes_needed)}; '
            f'layer{"s" * (len(layers) > 1)} {", ".join(map(str, layers))} of {self.encoder.name}; '
            f'{self.data.num_val:,} images to score.'
        )
        check_room(self.folder, self.memory)
        with Interrupts() as interrupts:
            if views:
                self._fill(views, interrupts)
                self._save()
            if interrupts.number:
                return self._stopped(interrupts.number)
            if not len(self.memory):
                raise ValueError(f'--data {self.args.data}: no patch of the images has a label.')
            retrieval = self._retrieval()
            self._evaluate(retrieval, interrupts)
            if interrupts.number:
                return self._stopped(interrupts.number)
        scores = score_rows(self.areas, self.data.classes)
        finish(self, retrieval, scores)
        clear(self.folder)
        return OK

    def _fill(self, views: list[int], interrupts: Interrupts) -> None:
        started = time.monotonic()
        progress = Progress('memory', self.memory.num_views)
        progress.skip(self.memory.num_views - len(views))
        for view, image, label in self._until(interrupts, loaded(self._views(views))):
            patches = self._features(image)
            for i, number in enumerate(view.tolist()):
                self.memory.add(number, {n: p[i] for n, p in patches.items()}, label[i])
            progress.add(len(view), f'{len(self.memory):,} patches')
            self._save_sometimes()
        progress.close()
        self.seconds['memory'] = time.monotonic() - started

    def _features(self, images: Tensor) -> dict[int, Tensor]:
        started = time.monotonic()
        images = images.to(self.encoder.device)
        found = self.encoder.features(images, self.memory.layers, final_norm=self.final_norm)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        self.seconds['encoder'] += time.monotonic() - started
        return {layer: features.patches for layer, features in found.items()}

    def _views(self, views: list[int]) -> DataLoader:
        return DataLoader(
            _Views(self.data, views),
            batch_size=self._at_once(),
            num_workers=self.args.workers,
            worker_init_fn=leave_signals,
        )

    def _at_once(self) -> int:
        return _IMAGES_AT_ONCE.get(self.encoder.device.type, _OTHER_AT_ONCE)

    def _retrieval(self) -> Retrieval:
        memory, device = self.memory, self.encoder.device
        indexes = {}
        for layer in memory.layers:
            features = memory.features(layer)
            indexes[layer] = build_index(
                self.args.index, features, device=device, seed=self.args.seed
            )
            if not indexes[layer].exact:
                k = max(row.neighbours for row in self.rows)
                tried = features[:: max(1, len(features) // _TRIED)][:_TRIED].float()
                share = recall(indexes[layer], features, tried, min(k, len(features)))
                self.notes.append(
                    f'Approximate index: of layer {layer} it finds {share:.1f} % of the {k} true '
                    f'neighbours of {len(tried)} entries.'
                )
        labels = memory.labels().to(device)
        return Retrieval(self.encoder, indexes, labels, self.rows, final_norm=self.final_norm)

    def _evaluate(self, retrieval: Retrieval, interrupts: Interrupts) -> None:
        started, done = time.monotonic(), len(self.areas)
        progress = Progress('score', self.data.num_val)
        progress.skip(done)
        left = list(range(done, self.data.num_val))
        for image in self._until(interrupts, self.data.validation(left) if left else ()):
            self.areas.append(retrieval.areas(image))
            progress.add(1)
            self._save_sometimes()
        progress.close()
        self.seconds['evaluation'] = time.monotonic() - started

    @staticmethod
    def _until(interrupts: Interrupts, items: Iterable) -> Iterator:
        """Items until a signal."""
        for item in items:
            yield item
            if interrupts.number:
                return

    # -- going on --------------------------------------------------------------------------------

    def _stopped(self, number: int) -> int:
        if self.areas:
            self._save()
        done = f'{len(self.areas)} of {self.data.num_val} images scored'
        if self.memory.views_left():
            done = f'view {self.memory.view} of {self.memory.num_views} in the memory'
        command = command_to_go_on(sys.argv, getattr(self.args, 'compared_in', None) or self.folder)
        print(f'Stopped: {done}; go on with:\n  {command}')
        return INTERRUPTED if number == signal.SIGINT else TERMINATED

    def _save_sometimes(self) -> None:
        """So that a kill costs less than a minute or, where writing is slow, a little more."""
        between = max(_SAVE_SECONDS, self._save_took / _SAVE_SHARE)
        if time.monotonic() - self._saved > between:
            self._save()

    def _save(self) -> None:
        """Write what is new: the memory while it is filled, then the images that are scored."""
        started = time.monotonic()
        if self.areas:
            tensors = {'areas': torch.stack(self.areas)}
            save_tensors(self.folder / AREAS, tensors, self._identity() | self._scored_as())
        else:
            save_tensors(self.folder / MEMORY, self.memory.tensors(), self._identity())
        self._saved = time.monotonic()
        self._save_took = self._saved - started

    def _scored_as(self) -> dict[str, Any]:
        return {'rows': [row.name for row in self.rows], 'index': self.args.index}

    def _load(self) -> None:
        self.memory.load(load_tensors(self.folder / MEMORY, self._identity()))
        if (self.folder / AREAS).is_file():
            found = load_tensors(self.folder / AREAS, self._identity() | self._scored_as())
            self.areas = list(found['areas'])
        self.notes.append('The run was interrupted and gone on with; the times are of the rest.')

    def _identity(self) -> dict[str, Any]:
        """What has to be the same in a run that goes on; JSON."""
        return {
            'layers': list(self.memory.layers),
            'memory size': self.memory.size,
            'views': self.args.views,
            'seed': self.args.seed,
            'crop': self.data.protocol.crop,
            'final norm': self.final_norm,
            'data': [self.data.name, self.data.num_train, self.data.num_val, self.data.classes],
            'encoder': self.encoder.identity,
        }


class _Views(Dataset):
    """Augmented training views by number."""

    def __init__(self, data: SegmentData, views: list[int]) -> None:
        self.data, self.views = data, views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, place: int) -> tuple[int, Tensor, Tensor]:
        return self.views[place], *self.data.view(self.views[place])
