"""One pair of a benchmark in processes of its own: python -m ... JOB.json

With ``WORLD_SIZE`` above 1 the processes share the images and the first one merges what they count.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_rank, is_main_process
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmdet_seg import command_line
from mmdet_seg.engine.checkpoint import load_weights
from mmdet_seg.engine.preflight import check_data
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.report_hook import peak_memory
from mmdet_seg.engine.runner import build_runner
from mmdet_seg.engine.tta import add_tta


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Evaluate one pair.

    Args:
        job: ``config``, ``checkpoint``, ``arch``, ``data``, ``options``, ``protocol``, ``tta`` and
            ``work_dir``.

    Returns:
        ``metrics`` and ``per_class_iou`` in percent; ``images``; ``seconds_per_image``, the wall
        time of the evaluation with loading, over all images; ``peak_memory_mib`` of the process
        that took most, of the accelerator where there is one.
    """
    recipe = {k: job[k] for k in ('arch', 'data', 'options', 'protocol')}
    cfg = load_recipe(job['config'], **recipe)
    cfg.work_dir = job['work_dir']
    cfg.load_from, cfg.resume = None, False
    check_data(cfg, ('test',))
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    if get_rank():
        barrier()
    DATASETS.build(cfg.test_dataloader.dataset)  # may write files, which only one should do
    if is_main_process():
        barrier()
    if job['tta']:
        add_tta(cfg)
    # The samplers and metrics share by themselves once there is a process group; the model does
    # not have to be wrapped for that.
    runner = build_runner(cfg)
    load_weights(runner.model.module if job['tta'] else runner.model, job['checkpoint'])
    images = len(runner.build_dataloader(cfg.test_dataloader).dataset)
    barrier()
    start = time.perf_counter()
    metrics = runner.test()
    barrier()
    seconds = time.perf_counter() - start
    memory = peak_memory()
    peak = torch.tensor(memory.get('cuda', memory['host']))
    all_reduce(peak, 'max')
    table = {}
    for metric in runner.test_evaluator.metrics:
        table.update(getattr(metric, 'table', {}))
    return {
        'metrics': {k: float(v) for k, v in metrics.items()},
        'per_class_iou': table,
        'images': images,
        'seconds_per_image': seconds / images,
        'peak_memory_mib': int(peak),
        'device': 'cuda' if 'cuda' in memory else 'cpu',
    }


def main(path: Path) -> int:
    """Run the job at ``path`` and write its result beside it; an error is a result too."""
    rank, world = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    job = json.loads(path.read_text())
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    if world > 1:
        torch.distributed.init_process_group('gloo')  # counts per class are all that travels
    try:
        result = measure(job)
    except Exception as error:  # whatever it is, it is this pair's only
        traceback.print_exc()
        result = {'error': command_line.one_line(error)}
    if rank == 0 or 'error' in result:
        out = path.with_suffix(f'.result_{rank}.json')
        aside = out.with_suffix('.part')
        aside.write_text(json.dumps(result, allow_nan=True))
        aside.replace(out)
    if 'error' in result:
        sys.stderr.flush()
        os._exit(command_line.FAILED)  # the others may be waiting in a collective
    return command_line.OK


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1])))
