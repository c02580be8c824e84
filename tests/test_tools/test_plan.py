"""tools/plan.py as a person uses it."""

import json

import pytest

from tests.small_runs import tool

CONFIG = 'upernet_internvit'


def test_table_command_and_json(tmp_path):
    out = tmp_path / 'plan.json'
    done = tool('plan', CONFIG, '--gpus', 4, '--gpu-memory', 16, '--json', out)
    assert done.returncode == 0, done.stderr
    assert '\x1b' not in done.stdout  # plain where it is no terminal
    lines = done.stdout.splitlines()
    first_words = {line.split()[0] for line in lines if line.strip()}
    assert {'weights', 'optimizer', 'gradients', 'total'} <= first_words
    command = lines[-1].strip()
    assert command == f'torchrun --nproc_per_node 4 tools/train.py {CONFIG} --strategy ddp'
    facts = json.loads(out.read_text())
    assert facts['command'] == command
    assert facts['chosen']['name'] == 'ddp'
    ddp = facts['strategies'][0]
    assert ddp['total'] == sum(ddp['parts'].values())
    again = facts['with checkpointing'][0]
    assert again['parts']['activations'] < ddp['parts']['activations'] * 0.7
    assert again['largest_batch'] > ddp['largest_batch']
    assert 'with checkpointing:' in [line.strip() for line in lines]


@pytest.mark.slow  # plans four times
def test_nothing_fits_says_what_would(tmp_path):
    done = tool(
        'plan', CONFIG, '--arch', '300m-448px', '--data', 'ade20k', '--gpus', 1, '--gpu-memory', 4
    )
    assert done.returncode == 1
    assert 'Nothing fits' in done.stdout
    assert '--tune' in done.stdout.splitlines()[-1] or 'larger GPUs' in done.stdout


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--gpus', 0, '--gpu-memory', 80], '--gpus 0 is not 1 or more'),
        (['--gpus', 1, '--gpu-memory', -3], '--gpu-memory -3 is not a positive number'),
        (['--gpus', 1, '--gpu-memory', 1], 'CUDA itself takes 1.5 GiB'),
        (['--gpus', 8], '--gpu-memory is missing'),
    ],
)
def test_mistakes_are_one_line(args, message):
    done = tool('plan', CONFIG, *args)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_config_without_a_model(tmp_path):
    path = tmp_path / 'base.py'
    path.write_text('x = 1\n')
    done = tool('plan', path, '--gpus', 1, '--gpu-memory', 80)
    assert done.returncode == 2
    assert 'has no `model`' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow  # half a minute each
@pytest.mark.parametrize(
    ('config', 'gpus', 'memory', 'fitting', 'not_fitting'),
    [
        ('upernet_internvit', 8, 80, {'zero1', 'zero2', 'zero3', 'fsdp'}, {'ddp'}),
        ('upernet_internvit', 1, 80, {'zero3_offload'}, {'single'}),
        ('upernet_internvit_frozen', 1, 24, {'zero3_offload'}, {'single'}),
    ],
)
def test_6b_before_paying(tmp_path, config, gpus, memory, fitting, not_fitting):
    out = tmp_path / 'plan.json'
    args = ['--arch', '6b-224px', '--data', 'ade20k', '--gpus', gpus, '--gpu-memory', memory]
    done = tool('plan', config, *args, '--json', out)
    assert done.returncode == 0, done.stderr
    fits = {s['name']: s['fits'] for s in json.loads(out.read_text())['strategies']}
    assert fitting <= {name for name, yes in fits.items() if yes}
    assert not_fitting <= {name for name, yes in fits.items() if not yes}
