"""The measuring commands run, compare like with like, and refuse what they cannot measure."""

import pytest

from mmdet_seg.engine import frozen_benchmark, slide_benchmark, train_benchmark
from tests.small_runs import tool


def test_slide_compares_the_same_logits():
    rows = slide_benchmark.run(arch='tiny', sizes=[(504, 518)], rounds=1, progress=lambda _: None)
    assert rows[0].windows == 2
    assert rows[0].difference < 1e-5
    assert rows[0].labels_differ == 0
    assert '504 x 518' in slide_benchmark.table(rows)


def test_frozen_recipe_trains_the_head_alone():
    row = frozen_benchmark.measure(frozen_benchmark.OURS, '300m-448px', 28, 1, 1)
    # 1024 channels: batch norm, 1x1 convolution to 150 classes
    assert row.trainable == 2 * 1024 + 1024 * 150 + 150
    assert row.peak_gib > row.base_gib > 0


@pytest.mark.slow  # makes the scenes where they are missing
def test_training_steps_beside_mmengine():
    ways = [('mmengine', 1), ('single', 1), ('mmengine', 2), ('zero3', 2)]
    rows = train_benchmark.run('upernet_internvit', 'tiny', ways, 1, 1, 4, lambda _: None)
    assert [(row.strategy, row.processes) for row in rows] == ways
    assert all(row.seconds > 0 and 1 < row.loss < 6 for row in rows)
    last = train_benchmark.table(rows).splitlines()[-1]
    assert f'{rows[3].seconds / rows[2].seconds:.2f} x' in last  # beside as many processes


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['slide', '--sizes', '504'], '--sizes 504 is not HEIGHTxWIDTH'),
        (['train', '--ways', 'zero2'], '--ways zero2 is not STRATEGY:PROCESSES'),
        (['train', '--ways', 'zero5:2'], '--ways zero5:2: there are mmengine, single, ddp'),
        (['train', '--batch', '3'], '--batch 3 cannot be shared by 2 processes'),
        (['frozen', '--arch', '6b-224px'], 'the stock way is timm, which has 300M encoders only'),
    ],
)
def test_mistakes(args, message):
    done = tool('benchmark', *args)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
