"""Kill a training at random moments, resume it, and compare it with one that nobody killed.

    python -m tests.kill_and_resume --times 20 [--strategy zero2 --processes 2]

Every kill is SIGKILL to all processes; one in three waits for a checkpoint that is being written.
Prints what happened, and ends with status 1 if the last loss or the weights differ.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.small_runs import ROOT, launcher, run_options


def command(root: Path, name: str, args: argparse.Namespace, resume: bool) -> list[str]:
    """The main job on small scenes, saving often."""
    options = run_options(
        root / 'scenes',
        args.iterations,
        **{
            'train_cfg.val_interval': 25,
            'default_hooks.checkpoint.interval': 5,
            'model.backbone.drop_path_rate': 0.2,
            'train_dataloader.num_workers': 1,
            'ema.decay': 0.9,
        },
    )
    tool = [str(ROOT / 'tools/train.py'), 'configs/upernet_internvit.py', '--arch', 'tiny']
    tool += ['--work-dir', str(root / name), '--strategy', args.strategy]
    return [*launcher(args.processes), *tool, *(['--resume'] if resume else ()), *options]


def start(args: list[str], log: Path) -> subprocess.Popen:
    """In a process group of its own, so that all of it can be killed."""
    with log.open('a') as file:
        return subprocess.Popen(
            args,
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )


def kill_at_random(process: subprocess.Popen, folder: Path, rng: random.Random) -> str | None:
    """Wait, then kill; None if the run ended by itself."""
    first = time.monotonic()
    begun = set(folder.glob('iter_*'))
    while process.poll() is None and set(folder.glob('iter_*')) == begun:
        time.sleep(0.02)  # the first new checkpoint: there is always some progress
        if time.monotonic() - first > 300:
            raise SystemExit(f'No checkpoint in 300 s; see {folder.parent}/log.txt')
    until = time.monotonic() + rng.uniform(0, 1.5)
    writing = rng.random() < 1 / 3
    while process.poll() is None:
        parts = list(folder.glob('.iter_*.part')) if writing else ()
        if parts or time.monotonic() > until + (5 if writing else 0):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f'while {parts[0].name} was written' if parts else 'between checkpoints'
        time.sleep(0.0005 if writing else 0.01)
    return None


def outcome(folder: Path, iterations: int) -> tuple[float, dict[str, str]]:
    """Last loss, and the hashes of the last checkpoint's tensors."""
    lines = [json.loads(x) for p in sorted(folder.rglob('scalars.json')) for x in p.open()]
    loss = [x['loss'] for x in lines if x.get('step') == iterations and 'loss' in x][-1]
    manifest = json.loads((folder / f'iter_{iterations}/manifest.json').read_text())
    files = manifest['files'].items()
    return loss, {k: v['sha256'] for k, v in files if k.endswith('.safetensors')}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--times', type=int, default=20)
    parser.add_argument('--iterations', type=int, default=150)
    parser.add_argument('--strategy', default='single')
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        calm = start(command(root, 'calm', args, resume=False), root / 'calm.txt')
        if calm.wait():
            raise SystemExit((root / 'calm.txt').read_text()[-3000:])
        kills, folder = 0, root / 'killed'
        while True:
            process = start(command(root, 'killed', args, resume=kills > 0), root / 'log.txt')
            where = None
            if kills < args.times:
                where = kill_at_random(process, folder, rng)
            elif process.wait():
                raise SystemExit((root / 'log.txt').read_text()[-3000:])
            if where is None:
                break
            kills += 1
            newest = max((int(p.name[5:]) for p in folder.glob('iter_*')), default=0)
            print(f'kill {kills}: {where}; newest complete checkpoint: {newest}', flush=True)
        loss, weights = outcome(root / 'calm', args.iterations)
        found, killed = outcome(folder, args.iterations)
    print(
        f'{kills} kills, {args.iterations} iterations, {args.strategy} in {args.processes}: '
        f'last loss {found!r} beside {loss!r}; weights, average and optimizer '
        f'{"identical" if killed == weights else "DIFFER"}.'
    )
    return int(found != loss or killed != weights)


if __name__ == '__main__':
    sys.exit(main())
