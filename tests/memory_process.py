"""One process that measures what a training step takes: python -m tests.memory_process JOB.json

Bytes are counted where they are made: in PyTorch's allocator, as its profiler reports every
allocation, on top of every tensor that was there before the step. Nothing of the plan is used.
"""

import gc
import json
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from mmdet_seg.engine.launch import num_processes, process_group
from mmdet_seg.engine.recipe import load_recipe
from mmdet_seg.engine.strategies import build_strategy
from mmdet_seg.ops.sync_batch_norm import sync_on_cpu


def storages(tensors) -> dict[int, int]:
    found = {}
    for tensor in tensors:
        if isinstance(tensor, DTensor):
            tensor = tensor.to_local()
        if tensor.device.type == 'cpu' and tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    found.pop(0, None)
    return found


def everything() -> dict[int, int]:
    gc.collect()
    return storages(x for x in gc.get_objects() if isinstance(x, torch.Tensor))


def states_of(optimizer) -> dict[int, int]:
    values = (v for s in optimizer.state.values() for v in s.values())
    return storages(v for v in values if torch.is_tensor(v) and v.ndim)


def sent() -> int:
    """Bytes that this process has sent, as the kernel counts them for each of its connections."""
    total = 0
    for number in os.listdir('/proc/self/fd'):
        with suppress(OSError), socket.socket(fileno=os.dup(int(number))) as found:
            info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            total += struct.unpack_from('Q', info, 200)[0]  # tcpi_bytes_sent, since Linux 4.19
    return total


def batch_of(cfg, batch: int) -> dict:
    crop = cfg.crop_size
    data = dict(inputs=[], data_samples=[])
    for _ in range(batch):
        data['inputs'].append(torch.randint(0, 255, (3, *crop), dtype=torch.uint8))
        sample = SegDataSample(metainfo=dict(img_shape=crop, ori_shape=crop, pad_shape=crop))
        labels = torch.randint(0, cfg.num_classes, (1, *crop))
        sample.set_data(dict(gt_sem_seg=PixelData(data=labels)))
        data['data_samples'].append(sample)
    return data


def measure(cfg) -> dict[str, int] | None:
    """Bytes of the fourth step, in the first process."""
    init_default_scope('mmseg')
    torch.manual_seed(0)
    strategy = build_strategy(cfg)
    with process_group(strategy.needs_group):
        model = MODELS.build(cfg.model)
        model.init_weights()
        if num_processes() > 1:
            model = sync_on_cpu(convert_sync_batchnorm(model, 'torch'))
        else:
            model = revert_sync_batchnorm(model)
        wrapper = dict(cfg.optim_wrapper)
        constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(
                type=wrapper.pop('constructor'),
                paramwise_cfg=wrapper.pop('paramwise_cfg'),
                optim_wrapper_cfg=wrapper,
            )
        )
        wrapped, optim = strategy.prepare(model, constructor)
        wrapped.train()
        seen = {}
        stepper = getattr(optim, 'engine', optim)
        step = stepper.step

        def watched(*args, **kwargs):
            # A gradient that nobody has looked at is no Python object yet.
            grads = [p.grad for p in strategy.model.parameters() if p.grad is not None]
            seen['before the update'] = everything() | storages(grads)
            del grads
            return step(*args, **kwargs)

        stepper.step = watched
        for _ in range(3):  # ZeRO-3 learns the order in the first, DDP builds its buckets anew
            data = batch_of(cfg, cfg.train_dataloader.batch_size)
            wrapped.train_step(data, optim)
        states = states_of(strategy._optimizer)
        still = everything()
        data = batch_of(cfg, cfg.train_dataloader.batch_size)
        before = sent()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
            wrapped.train_step(data, optim)
        after = sent()
        events = prof.profiler.kineto_results.events()
        events = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == '[memory]')
        swing = int(np.cumsum([size for _, size in events]).max())
        weights = storages([*strategy.model.parameters(), *strategy.model.buffers()])
        if hasattr(strategy, '_zero') and strategy.stage == 3:
            weights |= storages(p.ds_tensor for p in strategy.model.parameters())
        images = sum(x.numel() for x in data['inputs'])
        images += sum(8 * x.gt_sem_seg.data.numel() for x in data['data_samples'])
        sizes = dict(weights=weights, states=states, still=still, **seen)
        result = {name: sum(found.values()) for name, found in sizes.items()}
        result['sent'] = after - before
        result['peak'] = result['still'] + swing + images
        return result if not dist.is_initialized() or dist.get_rank() == 0 else None


def main(path: Path) -> None:
    torch.set_num_threads(1)
    job = json.loads(path.read_text())
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in job['options'].items()}
    cfg = load_recipe('upernet_internvit', arch='small', options=options, tune=job['tune'])
    cfg.strategy = job['strategy']
    if result := measure(cfg):
        path.with_suffix('.result.json').write_text(json.dumps(result))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
