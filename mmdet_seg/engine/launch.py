"""Processes that belong together: how many there are, and how they start to talk."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist

T = TypeVar('T')
# A process that died is noticed at once; this is for one that hangs. Preparing a large data set or
# loading 12 GB from a slow disk in the first process has to fit in.
_PATIENCE = timedelta(minutes=60)


def num_processes() -> int:
    """Processes of this run, as torchrun tells them."""
    return int(os.environ.get('WORLD_SIZE', 1))


@contextmanager
def process_group(needed: bool = False) -> Iterator[None]:
    """Join the other processes of torchrun, and leave them at the end.

    NCCL carries CUDA tensors, gloo those on the CPU; a machine without CUDA needs gloo alone. Ranks
    come from torchrun's variables.

    Args:
        needed: Make a group of one process too, which DeepSpeed and FSDP ask for.
    """
    world = num_processes()
    if dist.is_initialized() or (world == 1 and not needed):
        yield
        return
    backend = 'gloo'
    if torch.cuda.is_available():
        here, gpus = int(os.environ.get('LOCAL_WORLD_SIZE', 1)), torch.cuda.device_count()
        if here > gpus:
            raise ValueError(
                f'{here} processes on a machine with {gpus} GPUs: each needs its own; lower '
                '--nproc_per_node, or set CUDA_VISIBLE_DEVICES= for the CPU.'
            )
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', 0)) % gpus)
        backend = 'cpu:gloo,cuda:nccl'
    if world == int(os.environ.get('LOCAL_WORLD_SIZE', 1)) and sys.platform == 'linux':
        # On one machine nobody has to resolve its name, which containers often cannot.
        os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
    if world == 1:
        os.environ.setdefault('LOCAL_RANK', '0')  # DeepSpeed asks for it
        store = dist.HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=_PATIENCE)
    else:
        dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
        dist.barrier()  # gloo aborts a process that leaves while another one is still sending
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def agreed(make: Callable[[], T]) -> T:
    """Do something in the first process and give all of them its result, or its error."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return make()
    box: list = [None]
    if dist.get_rank() == 0:
        try:
            box = [(make(), None)]
        except Exception as error:
            box = [(None, error)]
    dist.broadcast_object_list(box, device=torch.device('cpu'))
    result, error = box[0]
    if error is not None:
        raise error
    return result
