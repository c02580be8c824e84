"""The measuring commands run, compare like with like, and refuse what they cannot measure."""

import pytest

from mmdet_seg.engine import frozen_benchmark, slide_benchmark
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


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['slide', '--sizes', '504'], '--sizes 504 is not HEIGHTxWIDTH'),
        (['frozen', '--arch', '6b-224px'], 'the stock way is timm, which has 300M encoders only'),
    ],
)
def test_mistakes(args, message):
    done = tool('benchmark', *args)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
