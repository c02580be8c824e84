"""The scenes themselves: repeatable, exactly labelled, neither trivial nor hopeless."""

import cv2
import numpy as np
import pytest

from mmdet_seg.datasets.scenes import CLASSES, PALETTE, THING_CLASSES, Scene, make_scene

NUM_CLASSES = len(CLASSES)


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return [make_scene((20, index)) for index in range(60)]


def test_a_seed_gives_the_same_scene_again_whatever_came_before() -> None:
    first = make_scene((1, 5))
    make_scene((1, 6))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1 if threads > 1 else 2)
    try:
        again = make_scene((1, 5))
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert [i.box for i in first.instances] == [i.box for i in again.instances]
    assert first.jpeg_quality == again.jpeg_quality
    assert not np.array_equal(first.image, make_scene((1, 6)).image)
    assert not np.array_equal(first.image, make_scene((2, 5)).image)


@pytest.mark.parametrize('size', [(256, 320), (96, 64), (321, 203)])
def test_size_is_height_and_width(size) -> None:
    scene = make_scene(3, size)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.mask.shape == size
    assert scene.mask.dtype == np.uint8


def test_a_size_too_small_for_a_scene_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r'^size=40x320 is too small .* 64 pixels or more\.$'):
        make_scene(0, (40, 320))


def test_instances_and_mask_agree_exactly(scenes) -> None:
    things = [CLASSES.index(name) + 1 for name in THING_CLASSES]
    crowds = 0
    for scene in scenes:
        assert scene.mask.max() <= NUM_CLASSES
        claimed = np.zeros(scene.mask.shape, int)
        for instance in scene.instances:
            assert (scene.mask[instance.mask] == instance.class_id).all()
            claimed += instance.mask
            crowds += instance.crowd
        # every pixel of a thing belongs to exactly one instance, and nothing else does
        assert np.array_equal(claimed, np.isin(scene.mask, things).astype(int))
    assert crowds > 3


def test_boxes_are_the_extents_of_the_masks(scenes) -> None:
    for scene in scenes:
        for instance in scene.instances:
            rows, columns = np.nonzero(instance.mask)
            assert instance.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert len(rows) >= 12


def test_every_class_is_common_enough_to_be_learned(scenes) -> None:
    pixels = np.zeros(NUM_CLASSES + 1)
    images = np.zeros(NUM_CLASSES + 1)
    for scene in scenes:
        counts = np.bincount(scene.mask.ravel(), minlength=NUM_CLASSES + 1)
        pixels += counts
        images += counts > 50
    share = pixels / pixels.sum()
    assert share[0] < 0.03, 'unlabelled'
    for name, pixel_share, image_share in zip(
        CLASSES, share[1:], images[1:] / len(scenes), strict=True
    ):
        assert pixel_share > 0.007, (name, pixel_share)
        assert image_share > 0.12, (name, image_share)
    # the commonest class everywhere: its IoU is its share, all others' is 0
    assert 100 * share[1:].max() / share[1:].sum() / NUM_CLASSES < 2


def test_things_are_smaller_the_farther_away_they_stand(scenes) -> None:
    feet, heights = [], []
    person = CLASSES.index('person') + 1
    for scene in scenes:
        for instance in scene.instances:
            x0, y0, x1, y1 = instance.box
            whole = y1 - y0 > 1.6 * (x1 - x0) and y1 < scene.mask.shape[0]
            if instance.class_id == person and not instance.crowd and whole:
                feet.append(y1)
                heights.append(y1 - y0)
    assert len(feet) > 40
    ranks = [np.argsort(np.argsort(values)) for values in (feet, heights)]
    assert np.corrcoef(ranks)[0, 1] > 0.5


def test_things_hide_one_another(scenes) -> None:
    overlapping = 0
    for scene in scenes:
        boxes = np.array([i.box for i in scene.instances]).reshape(-1, 4)
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        touching = (high > low).all(-1) & ~np.eye(len(boxes), dtype=bool)
        overlapping += int(touching.any(1).sum())
    total = sum(len(scene.instances) for scene in scenes)
    assert overlapping / total > 0.3


def test_palette_has_one_colour_for_each_class() -> None:
    assert len(PALETTE) == NUM_CLASSES == len(set(CLASSES))
    assert len({tuple(color) for color in PALETTE}) == NUM_CLASSES
    assert set(THING_CLASSES) < set(CLASSES)


# A classifier small enough to fit in a second stands for a model: it must find the labels in the
# pixels, and
# must do worse when the two are out of step.

_STEP = 6  # pixels between samples


def _features(image: np.ndarray, color_only: bool = False) -> np.ndarray:
    """(N, F): colour, and unless ``color_only`` its surroundings, texture and place, with
    products.
    """
    rgb = image.astype(np.float32) / 255
    parts = [rgb[..., i] for i in range(3)]
    if not color_only:
        for sigma in (3, 12):
            mean = cv2.GaussianBlur(rgb, (0, 0), sigma)
            square = cv2.GaussianBlur(rgb**2, (0, 0), sigma)
            parts += [mean[..., i] for i in range(3)]
            parts.append(np.sqrt(np.maximum(square - mean**2, 0)).mean(-1) * 4)
        h, w = rgb.shape[:2]
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        parts += [y / h, (x / w - 0.5) ** 2]
    base = np.stack([p[::_STEP, ::_STEP].ravel() for p in parts], 1)
    first, second = np.triu_indices(base.shape[1])
    return np.concatenate([np.ones((len(base), 1)), base, base[:, first] * base[:, second]], 1)


def _fit(pairs: list, **kwargs) -> np.ndarray:
    """Least squares to one-hot labels, rarer classes weighing more."""
    x = np.concatenate([_features(image, **kwargs) for image, _ in pairs])
    y = np.concatenate([mask[::_STEP, ::_STEP].ravel() for _, mask in pairs])
    x, y = x[y > 0], y[y > 0] - 1
    weight = 1 / np.sqrt(np.bincount(y, minlength=NUM_CLASSES))[y][:, None]
    target = np.eye(NUM_CLASSES)[y]
    gram = x.T @ (x * weight) + 1e-4 * np.eye(x.shape[1])
    return np.linalg.solve(gram, x.T @ (target * weight))


def _miou(weights: np.ndarray, pairs: list, **kwargs) -> float:
    table = np.zeros((NUM_CLASSES, NUM_CLASSES))
    for image, mask in pairs:
        predicted = (_features(image, **kwargs) @ weights).argmax(1)
        truth = mask[::_STEP, ::_STEP].ravel().astype(int)
        known = truth > 0
        np.add.at(table, (truth[known] - 1, predicted[known]), 1)
    hit = np.diag(table)
    return float(100 * np.nanmean(hit / (table.sum(0) + table.sum(1) - hit)))


def test_a_broken_pipeline_shows(scenes) -> None:
    training = [(s.image, s.mask) for s in scenes[:40]]
    held_out = [(s.image, s.mask) for s in scenes[40:]]
    weights = _fit(training)
    right = _miou(weights, held_out)

    def broken(change_image=lambda i: i, change_mask=lambda m: m) -> float:
        return _miou(weights, [(change_image(i), change_mask(m)) for i, m in held_out])

    by_color = _miou(_fit(training, color_only=True), held_out, color_only=True)
    results = {
        'right': right,
        'color alone': by_color,
        'channels swapped': broken(change_image=lambda i: i[..., ::-1]),
        'labels mirrored': broken(change_mask=lambda m: m[:, ::-1]),
        'labels upside down': broken(change_mask=lambda m: m[::-1]),
        'labels moved 16 pixels': broken(change_mask=lambda m: np.roll(m, 16, (0, 1))),
        'next class': broken(change_mask=lambda m: np.where(m > 0, m % NUM_CLASSES + 1, 0)),
    }
    assert right > 20, results
    for fault, most in (
        ('color alone', 0.7),
        ('channels swapped', 0.8),
        ('labels mirrored', 0.7),
        ('labels upside down', 0.3),
        ('labels moved 16 pixels', 0.8),
        ('next class', 0.15),
    ):
        assert results[fault] < most * right, (fault, results)
