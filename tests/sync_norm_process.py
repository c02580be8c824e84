"""One of two processes of a synchronised batch norm: torchrun -m tests.sync_norm_process JOB.json

Each takes its share of a batch; the first writes how far everything is from PyTorch's batch norm
over the whole batch, and what stays in memory between the passes.
"""

import json
import sys
from copy import deepcopy
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn

from mmdet_seg.engine.launch import process_group
from mmdet_seg.ops.sync_batch_norm import SyncBatchNorm


def compare(job: dict) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    dtype, shares = getattr(torch, job['dtype']), job['shares']
    shape = (sum(shares), 6, *job['rest'])
    # Far from zero, where sums of squares would cancel.
    whole = (torch.randn(shape, generator=generator) * 3 + job['mean']).to(dtype)
    upstream = torch.randn(shape, generator=generator).to(dtype)
    whole.requires_grad_()
    theirs = nn.SyncBatchNorm(6, affine=job['affine'], momentum=job['momentum'])
    if job['affine']:
        nn.init.normal_(theirs.weight, generator=generator)
        nn.init.normal_(theirs.bias, generator=generator)
    ours = deepcopy(theirs)
    ours.__class__ = SyncBatchNorm
    theirs.__class__ = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    theirs, ours = theirs.to(exact), ours.to(exact)

    rank, start = dist.get_rank(), sum(shares[: dist.get_rank()])
    part = slice(start, start + shares[rank])
    x = whole.detach()[part].clone().requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mine = ours(x)
    mine.backward(upstream[part])
    for p in ours.parameters():
        dist.all_reduce(p.grad)
    expected = theirs(whole.to(exact))
    expected.backward(upstream.to(exact))
    pairs = {
        'out': (mine, expected[part]),
        'input': (x.grad, whole.grad[part]),
        'running_mean': (ours.running_mean, theirs.running_mean),
        'running_var': (ours.running_var, theirs.running_var),
    }
    for name, p in theirs.named_parameters():
        pairs[name] = (getattr(ours, name).grad, p.grad)
    far = {}
    for name, (got, want) in pairs.items():
        scale = float(want.abs().max()) if want.numel() else 1.0
        far[name] = float((got.to(exact) - want).abs().max()) / scale if want.numel() else 0.0
    same_type = mine.dtype == dtype and x.grad.dtype == dtype
    return {**far, 'kept': sum(kept.values()), 'input bytes': x.nbytes, 'same type': same_type}


def main(path: Path) -> None:
    torch.set_num_threads(1)
    jobs = json.loads(path.read_text())
    with process_group():
        results = {name: compare(job) for name, job in jobs.items()}
        every = [None] * dist.get_world_size()
        dist.all_gather_object(every, results)
        if dist.get_rank() == 0:
            path.with_suffix('.result.json').write_text(json.dumps(every))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
