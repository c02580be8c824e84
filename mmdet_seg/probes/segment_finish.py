"""The end of a run of ``segment``: heads, pictures, results and report."""

import time
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmdet_seg.probes.own_images import patch_pictures
from mmdet_seg.probes.report import write_report
from mmdet_seg.probes.segment_data import TestImage
from mmdet_seg.probes.segment_evaluate import ProbeScore, predict
from mmdet_seg.probes.segment_heads import write_heads
from mmdet_seg.probes.segment_pictures import write_pictures
from mmdet_seg.probes.segment_results import Outcome, best_probe, make_results, show

if TYPE_CHECKING:
    from mmdet_seg.probes.segment_run import SegmentRun


def finish(run: 'SegmentRun', scores: list[ProbeScore]) -> None:
    """Write what the run leaves, and say where it is.

    Args:
        run: With its probes trained.
        scores: Of its probes, in order.
    """
    heads, missing = write_heads(run.folder, run.encoder, run.bank, run.data, run.cfg)
    best = best_probe(run.bank, run.trainer, scores)
    pictures = []
    if best is not None and run.args.pictures > 0:
        pictures = _pictures(run, best, scores[best])
    notes = _notes(run) + ([missing] if missing else [])
    outcome = Outcome(scores, notes, _cost(run), heads, pictures)
    device = str(run.encoder.device)
    results = make_results(run.encoder.describe(), device, run.data, run.trainer, outcome)
    results.write(run.folder)
    show(results, run.folder, heads, write_report(run.folder))


def _pictures(run: 'SegmentRun', best: int, score: ProbeScore) -> list[dict[str, Any]]:
    """Patches of the user's images, or of two that are scored; then the worst and best images."""
    probe, protocol = run.bank.probes[best], run.protocol

    def label(image: TestImage) -> Tensor:
        [found] = predict([probe], run.bank, run.encoder, image, protocol, protocol.final_norm)
        return found

    images = run.images or run.data.some_files(2)
    return patch_pictures(run.encoder, run.bank.layers, run.folder, images) + write_pictures(
        run.folder, label, run.data, score.per_image, run.args.pictures
    )


def _notes(run: 'SegmentRun') -> list[str]:
    notes = list(run.grid.notes)
    if len(run.grid.specs) > 1:
        notes.append(
            'All probes saw the same images in the same order '
            f'(data seed {run.args.data_seed}); a seed is of first weights and dropout.'
        )
    if 'bn' in {spec.norm for spec in run.grid.specs}:
        notes.append(f'Batch norm over the {run.protocol.batch} images of a step.')
    if run.store is not None:
        error = max(run.store.error(layer)['rms'] for layer in run.bank.layers)
        notes.append(
            f'Features of {run.args.store_views} fixed views of each training image, kept as '
            f'{run.args.store_dtype} (error {error:.1e} rms); a run that draws new views '
            'each step scores otherwise.'
        )
    if report := run.encoder.quantization_report:
        notes.append(report.text())
    if run.resumed:
        notes.append('The run was interrupted and gone on with; the times are of the rest.')
    return notes


def _cost(run: 'SegmentRun') -> dict[str, Any]:
    images = run.protocol.iters * run.protocol.batch
    train = run.seconds['train']
    return {
        'seconds': round(time.monotonic() - run.started, 2),
        **{f'{k}_seconds': round(v, 2) for k, v in run.seconds.items() if v},
        'images_per_second': round(images / train, 2) if train and not run.resumed else None,
        'disk_bytes': run.store.disk_bytes if run.store is not None else None,
        'probes': len(run.grid.specs),
    }
