"""One process of DeepSpeed's own training: torchrun -m tests.deepspeed_process OUT

Writes, for every stage of ZeRO, a checkpoint of DeepSpeed's, what the model holds, and what
DeepSpeed's own script makes of the checkpoint.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault('DS_ACCELERATOR', 'cpu')
os.environ.setdefault('DS_SKIP_CUDA_CHECK', '1')

import deepspeed
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import save_file
from torch import distributed as dist
from torch import nn


class Net(nn.Module):
    """Odd sizes, two groups of parameters, a frozen layer, a shared weight, an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.norm = nn.LayerNorm(5)
        self.last = nn.Linear(5, 3, bias=False)
        self.shared = nn.Linear(5, 3, bias=False)
        self.shared.weight = self.last.weight
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.register_buffer('index', torch.arange(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x))
        return self.frozen(self.last(x) + 2 * self.shared(x)).square().sum()


def main(out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    for name in deepspeed.ops.__compatible_ops__:
        if 'shm' in name:  # it would be compiled
            deepspeed.ops.__compatible_ops__[name] = False
    for stage in (1, 2, 3):
        for precision in ('fp32', 'bf16'):
            train(out / f'{stage}_{precision}', stage, precision == 'bf16')
    dist.barrier()  # gloo aborts a process that leaves while another one is still sending
    dist.destroy_process_group()


def train(out: Path, stage: int, half: bool) -> None:
    torch.manual_seed(stage)
    net = Net()
    groups = [
        {'params': [net.first.weight, net.norm.weight], 'lr': 1e-1},
        {'params': [net.first.bias, net.norm.bias, net.last.weight], 'lr': 1e-2},
    ]
    engine, *_ = deepspeed.initialize(
        model=net,
        optimizer=torch.optim.AdamW(groups),
        config={
            'train_micro_batch_size_per_gpu': 2,
            'zero_optimization': {'stage': stage},
            'zero_allow_untested_optimizer': True,
            'zero_force_ds_cpu_optimizer': False,
            'steps_per_print': 10**9,
            'bf16': {'enabled': half},
        },
        dist_init_required=False,
    )
    for _ in range(2):
        x = torch.randn(2, 7, dtype=torch.bfloat16 if half else torch.float32)
        engine.backward(engine(x))
        engine.step()
    meta = {'dataset_meta': {'classes': ('sky', 'grass'), 'palette': [[0, 0, 0], [1, 2, 3]]}}
    engine.save_checkpoint(str(out), client_state={'meta': meta})
    with deepspeed.zero.GatheredParameters(list(net.parameters()), enabled=stage == 3):
        held = {k: v.detach().clone() for k, v in net.state_dict().items()}
    if dist.get_rank() == 0:
        save_file(held, out / 'held.safetensors')
        theirs = get_fp32_state_dict_from_zero_checkpoint(str(out))
        theirs = {k: v.detach().clone().contiguous() for k, v in theirs.items()}
        save_file(theirs, out / 'theirs.safetensors')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
    # DeepSpeed's threads may outlive it: "terminate called without an active exception".
    sys.stdout.flush()
    os._exit(0)
