"""Detectors beside mmdet's own."""

import pytest


@pytest.mark.slow
def test_detectors_beside_mmdets_own():
    """100 boxes and masks of both; 44.4 M parameters is what mmdet's Mask R-CNN is known for."""
    import torch

    from mmdet_seg.engine import detector_benchmark as benchmark

    names = ('mask_rcnn_internvit',)
    stock, own = benchmark.run(names, 'tiny', 224, 1, lambda _: None)
    assert (stock.config, own.config) == (benchmark.STOCK[names[0]], *names)
    assert stock.ratio == 1
    assert round(stock.total, -5) == 44_400_000
    for row in (stock, own):
        assert 0 < row.rest < row.seconds
        found = benchmark.detect(benchmark.build(row.config, 'tiny'), torch.randn(1, 3, 224, 224))
        assert found.pred_instances.masks.shape == (100, 224, 224)
    assert len(benchmark.table([stock, own]).splitlines()) == 4


def test_what_has_no_peer_is_refused():
    from mmdet_seg.engine import detector_benchmark as benchmark

    with pytest.raises(ValueError, match='upernet_internvit: mmdet has no peer'):
        benchmark.run(('upernet_internvit',), 'tiny', 224, 1, lambda _: None)
