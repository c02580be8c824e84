"""The planner's answer: a table, one recommendation and its command."""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mmdet_seg.command_line import FAILED, OK
from mmdet_seg.engine.config_mistakes import one_line_mistakes
from mmdet_seg.engine.config_numbers import check_numbers
from mmdet_seg.engine.memory_plan import (
    CONTEXT,
    FRAGMENTATION,
    GIB,
    Planner,
    StrategyPlan,
    strategies_for,
    usable,
)
from mmdet_seg.engine.plan_choice import Machine, choose, command
from mmdet_seg.engine.recipe import load_recipe

_CHECKPOINTING = 'model.backbone.grad_checkpointing'
# Tried in this order where nothing fits.
_WAYS_OUT = (
    {'options': {_CHECKPOINTING: True}},
    {'tune': 'lora'},
    {'tune': 'head'},
)


def plan_training(
    config: str,
    gpus: int,
    gpu_memory: float,
    cpu_memory: float | None = None,
    *,
    json_file: str | None = None,
    **recipe: Any,
) -> int:
    """Print what a training takes, which strategy to take, and the command.

    Args:
        config: Path or name of a config.
        gpus: Processes, one on each GPU.
        gpu_memory: GiB of one GPU.
        cpu_memory: GiB of the machine; None leaves it untested.
        json_file: Where to write it all.
        recipe: Of :func:`mmdet_seg.engine.recipe.load_recipe`.

    Returns:
        Exit status: 0, or 1 where nothing fits.

    Raises:
        ValueError: Numbers that are not positive, or a recipe that cannot be built.
    """
    if gpus < 1:
        raise ValueError(f'--gpus {gpus} is not 1 or more.')
    if not 0 < gpu_memory < float('inf'):
        raise ValueError(f'--gpu-memory {gpu_memory:g} is not a positive number of GiB, as 80.')
    if cpu_memory is not None and not 0 < cpu_memory < float('inf'):
        raise ValueError(f'--cpu-memory {cpu_memory:g} is not a positive number of GiB, as 512.')
    if usable(int(gpu_memory * GIB)) <= 0:
        raise ValueError(
            f'--gpu-memory {gpu_memory:g}: CUDA itself takes {CONTEXT / GIB:g} GiB of it; give the '
            "GPU's whole memory in GiB."
        )
    if json_file and not Path(json_file).absolute().parent.is_dir():
        raise FileNotFoundError(f'--json {json_file}: there is no such folder; make it first.')
    if json_file and Path(json_file).is_dir():
        raise ValueError(f'--json {json_file} is a folder; name a file.')
    logging.disable(logging.INFO)  # that a run would train so and so many parameters
    machine = Machine(gpus, int(gpu_memory * GIB), cpu_memory and int(cpu_memory * GIB))
    with Console(stderr=True).status('Going through a training step without memory'):
        planner, plans, chosen = _plans(config, machine, recipe)
        other = _other_way(config, machine, recipe, planner)
        way_out = None if chosen else _way_out(config, machine, recipe)
    print(_headline(config, planner, machine))
    _print_table(plans, other, machine)
    lines = _advice(config, machine, recipe, plans, chosen)
    if not chosen:
        lines += [way_out or 'Nor does any way of tuning: take more or larger GPUs.']
    print('\n'.join(lines))
    if json_file:
        _write_json(Path(json_file), planner, machine, plans, other, chosen, lines)
    return OK if chosen else FAILED


def _plans(
    config: str, machine: Machine, recipe: dict[str, Any]
) -> tuple[Planner, list[StrategyPlan], StrategyPlan | None]:
    cfg = load_recipe(config, **recipe)
    check_numbers(cfg)
    with one_line_mistakes(cfg):
        planner = Planner(cfg)
        plans = planner.all(strategies_for(machine.gpus), machine.gpus, machine.gpu_memory)
        return planner, plans, choose(planner, machine)


def _other_way(
    config: str, machine: Machine, recipe: dict[str, Any], planner: Planner
) -> tuple[str, list[StrategyPlan]] | None:
    """The same with checkpointing where the config is without, and the other way round."""
    if getattr(planner.model.backbone, 'grad_checkpointing', None) is None:
        return None
    before = planner.model.backbone.grad_checkpointing
    options = {**(recipe.get('options') or {}), _CHECKPOINTING: not before}
    second, plans, _ = _plans(config, machine, {**recipe, 'options': options})
    if np.array_equal(planner.step(2).alive, second.step(2).alive):
        return None  # a frozen encoder keeps nothing that could be made again
    return f'with{"out" * before} checkpointing', plans


def _way_out(config: str, machine: Machine, recipe: dict[str, Any]) -> str | None:
    """What makes it fit, as a command."""
    for change in _WAYS_OUT:
        changed = {**recipe, **change}
        if 'options' in change:
            changed['options'] = {**(recipe.get('options') or {}), **change['options']}
        planner = Planner(load_recipe(config, **changed))
        if chosen := choose(planner, machine):
            return f'This fits:\n  {command(config, machine, changed, planner.batch, chosen)}'
    return None


def _headline(config: str, planner: Planner, machine: Machine) -> str:
    facts, (H, W) = planner.facts, planner.crop
    whole = f'{machine.gpu_memory / GIB:g} GiB'
    frozen = f', {facts.frozen / GIB:.1f} GiB are frozen' if facts.frozen > GIB // 20 else ''
    return (
        f'{Path(config).stem}: {facts.elements:,} numbers train'
        f'{frozen}; {planner.batch} images of {H} x {W} per GPU.\n'
        f'{machine.gpus} x {whole}, of which tensors may take '
        f'{usable(machine.gpu_memory) / GIB:.1f}: {FRAGMENTATION:.0%} is left for fragmentation, '
        f'{CONTEXT / GIB:g} GiB for CUDA, NCCL and workspaces.'
    )


def _print_table(
    plans: list[StrategyPlan], other: tuple[str, list[StrategyPlan]] | None, machine: Machine
) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column('GiB per GPU')
    for plan in plans:
        table.add_column(plan.name, justify='right')
    names = dict.fromkeys(name for plan in plans for name in plan.parts)
    for name in names:
        values = [plan.parts.get(name, 0) for plan in plans]
        if any(value >= GIB // 200 for value in values):
            table.add_row(name, *(_gib(value) for value in values))
    table.add_row('total', *(_gib(plan.total) for plan in plans))
    table.add_row('fullest at', *(plan.moment for plan in plans))
    _add_verdict(table, plans, machine)
    table.add_row('sent per update', *(_gib(plan.wire) for plan in plans))
    if any(plan.bus for plan in plans):
        table.add_row('host to GPU and back', *(_gib(plan.bus) for plan in plans))
    whole = f'host memory, {machine.gpus} GPUs'
    table.add_row(whole, *(_gib(plan.host_total * machine.gpus) for plan in plans))
    if other:
        title, plans = other
        table.add_row()
        table.add_row(f'{title}:')
        kept = [plan.parts.get('activations', 0) for plan in plans]
        table.add_row('activations', *(_gib(value) for value in kept))
        table.add_row('total', *(_gib(plan.total) for plan in plans))
        _add_verdict(table, plans, machine)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table)


def _add_verdict(table: Table, plans: list[StrategyPlan], machine: Machine) -> None:
    table.add_row('fits', *('yes' if machine.holds(plan) else 'no' for plan in plans))
    table.add_row('largest batch per GPU', *(str(plan.largest_batch or '-') for plan in plans))


def _gib(size: float) -> str:
    return f'{size / GIB:.2f}' if size else '-'


def _advice(
    config: str,
    machine: Machine,
    recipe: dict[str, Any],
    plans: list[StrategyPlan],
    chosen: StrategyPlan | None,
) -> list[str]:
    batch = plans[0].batch
    if chosen is None:
        least = min(plans, key=lambda p: p.total)
        return [f'Nothing fits, whatever the batch; {least.name} needs least.']
    why = f'of those that fit, none sends less than its {_gib(chosen.wire)} GiB per update'
    if any(p.wire < chosen.wire and machine.holds(p) for p in plans):
        why = (
            f'it sends {_gib(chosen.wire)} GiB per update, about the least, and takes least memory'
        )
    if machine.gpus == 1:
        why = 'nothing has to move' if not chosen.bus else 'the rest does not fit the GPU'
    lines = [f'Take {chosen.name}: {why}.']
    if chosen.batch != batch:
        lines.append(
            f'{batch} images at once do not fit; {chosen.batch} at a time, {chosen.accumulate} '
            'steps per update, see the same images per update (and need as many times '
            'train_cfg.max_iters).'
        )
    needed = chosen.host_total * machine.gpus / GIB
    if needed >= 8 and not machine.cpu_memory:
        lines.append(f'The machine needs {needed:.0f} GiB of memory (not tested: --cpu-memory).')
    return [*lines, f'  {command(config, machine, recipe, batch, chosen)}']


def _write_json(
    path: Path,
    planner: Planner,
    machine: Machine,
    plans: list[StrategyPlan],
    other: tuple[str, list[StrategyPlan]] | None,
    chosen: StrategyPlan | None,
    lines: list[str],
) -> None:
    def all_of(plans: list[StrategyPlan]) -> list[dict[str, Any]]:
        return [
            asdict(p) | {'total': p.total, 'host_total': p.host_total, 'fits': machine.holds(p)}
            for p in plans
        ]

    facts = {
        'machine': vars(machine) | {'usable': usable(machine.gpu_memory)},
        'model': asdict(planner.facts),
        'strategies': all_of(plans),
        **({other[0]: all_of(other[1])} if other else {}),
        'chosen': asdict(chosen) if chosen else None,
        'command': lines[-1].strip() if chosen else None,
    }
    path.write_text(json.dumps(facts, indent=1) + '\n')
    print(f'Wrote {path}.', file=sys.stderr)
