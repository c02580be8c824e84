"""Several scales and flips of every test image, averaged.

mmseg does the work (``TestTimeAug``, ``SegTTAModel``: the mean of the softmax over all views); this
puts it into a config, with the published scales.
"""

from copy import deepcopy

from mmengine.config import Config

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def add_tta(cfg: Config, ratios: tuple[float, ...] = RATIOS, flip: bool = True) -> None:
    """Change the test of a config to several scales, each as it is and mirrored.

    A short side below a sliding window is raised to the window, as the authors' ``SETR_Resize``
    does: with windows as large as the test scale, the published ratios under 1 are all 1.

    Args:
        cfg: A complete config; its test pipeline and model are replaced.
        ratios: Factors of the test scale.
        flip: Add the mirror image of every scale.

    Raises:
        ValueError: A test pipeline without loading, or ratios that are not positive.
    """
    if not ratios or min(ratios) <= 0:
        raise ValueError(f'ratios={list(ratios)} are not positive numbers.')
    dataset = cfg.test_dataloader.dataset
    steps = [deepcopy(step) for step in dataset.pipeline]
    names = [_name(step) for step in steps]
    if not names or names[0] != 'LoadImageFromFile' or names[-1] != 'PackSegInputs':
        raise ValueError(
            'Test-time augmentation needs a test pipeline from LoadImageFromFile to PackSegInputs; '
            f'this one is {", ".join(names)}.'
        )
    resize = [s for s, n in zip(steps, names, strict=True) if n.startswith('Resize')]
    annotations = [s for s, n in zip(steps, names, strict=True) if n.startswith('LoadAnn')]
    scale = next((s for s in resize if 'scale' in s), None)
    if scale is None:  # the images' own sizes
        divisor = cfg.model.data_preprocessor.test_cfg.get('size_divisor')
        views = [[dict(type='Resize', scale_factor=ratio, keep_ratio=True)] for ratio in ratios]
        if divisor:
            multiple = dict(type='ResizeToMultiple', size_divisor=divisor)
            views = [[*view, multiple] for view in views]
    else:
        views = [_scaled(resize, scale, ratio, cfg) for ratio in ratios]
    pack = steps[-1] | {'meta_keys': _META}
    dataset.pipeline = [
        steps[0],
        dict(
            type='TestTimeAug',
            transforms=[
                [dict(type='Compose', transforms=view) for view in views],
                [dict(type='RandomFlip', prob=float(p)) for p in ((0, 1) if flip else (0,))],
                annotations or [dict(type='Compose', transforms=[])],
                [pack],
            ],
        ),
    ]
    cfg.model.test_cfg.keep_logits = True
    cfg.model = dict(type='SegTTAModel', module=cfg.model)


_META = (
    'img_path', 'seg_map_path', 'ori_shape', 'img_shape', 'pad_shape', 'scale_factor', 'flip',
    'flip_direction', 'reduce_zero_label',
)  # fmt: skip


def _scaled(resize: list[dict], scale: dict, ratio: float, cfg: Config) -> list[dict]:
    """The resizing steps with a test scale times ``ratio``, no smaller than a window."""
    steps = deepcopy(resize)
    target = steps[resize.index(scale)]
    window = min(cfg.model.test_cfg.get('crop_size', (1, 1)))
    if isinstance(scale['scale'], int):
        target['scale'] = max(round(scale['scale'] * ratio), window)
    else:
        target['scale'] = tuple(round(side * ratio) for side in scale['scale'])
    return steps


def _name(step: dict) -> str:
    kind = step['type']
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else kind.__name__
