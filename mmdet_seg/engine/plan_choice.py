"""Which of the plans to take on a machine, and what to type for it."""

import shlex
from typing import Any

from mmdet_seg.engine.memory_plan import Planner, StrategyPlan, strategies_for, usable


class Machine:
    """GPUs and memory; sizes in bytes."""

    def __init__(self, gpus: int, gpu_memory: int, cpu_memory: int | None = None) -> None:
        self.gpus, self.gpu_memory, self.cpu_memory = gpus, gpu_memory, cpu_memory

    def holds(self, plan: StrategyPlan) -> bool:
        """Whether a strategy fits, on the GPU and in what is known of the host."""
        in_host = not self.cpu_memory or plan.host_total * self.gpus <= self.cpu_memory
        return plan.total <= usable(self.gpu_memory) and in_host


def choose(planner: Planner, machine: Machine) -> StrategyPlan | None:
    """The strategy that sends least of those that fit; smaller steps where none does.

    Smaller steps are accumulated to the same number of images per update. Among strategies that
    send as much to a fiftieth, ``ddp``, or else the one that takes least memory.
    """
    batch, accumulate = planner.batch, planner.facts.accumulate
    for size in range(batch, planner.smallest_batch(machine.gpus) - 1, -1):
        if batch % size:
            continue
        plans = [
            planner.at(name, machine.gpus, size, accumulate * batch // size)
            for name in strategies_for(machine.gpus)
        ]
        fitting = [plan for plan in plans if machine.holds(plan)]
        if fitting:
            least = min(plan.wire + plan.bus for plan in fitting)
            near = [plan for plan in fitting if plan.wire + plan.bus <= 1.02 * least]
            return min(near, key=lambda p: (p.name != 'ddp', p.total))
    return None


def command(
    config: str, machine: Machine, recipe: dict[str, Any], batch: int, plan: StrategyPlan
) -> str:
    """The training that a plan is for, as typed."""
    words = ['python', 'tools/train.py', config]
    if machine.gpus > 1:
        words[:1] = ['torchrun', '--nproc_per_node', str(machine.gpus)]
    for name in ('arch', 'data', 'weights', 'tune', 'protocol'):
        value = recipe.get(name)
        if value and (name, value) != ('protocol', 'ours'):
            words += [f'--{name}', value]
    options = dict(recipe.get('options') or {})
    if plan.batch != batch:
        options['train_dataloader.batch_size'] = plan.batch
        options['optim_wrapper.accumulative_counts'] = plan.accumulate
    words += ['--strategy', plan.name]
    if options:
        words += ['--cfg-options', *(f'{k}={_plain(v)}' for k, v in options.items())]
    return shlex.join(words)


def _plain(value: Any) -> str:
    return str(value).replace(' ', '') if isinstance(value, list | tuple) else str(value)
