"""Few-shot training: a fixed part of any data set's training images.

The published few-shot results shuffled the names with an unknown seed and kept the first n // k;
their lists were not published. Here the seed is part of the config and the list lies beside the
run, so that whoever has either can repeat it.

Source: OpenGVLab/InternVL ``segmentation`` (ADE20K: 20210 // 16 = 1263 images).
"""

import hashlib
import os
import random
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmdet_seg.command_line import note

_KEYS = {'fraction', 'seed', 'drawn'}


def draw_subset(names: list[str], fraction: int, seed: int) -> list[str]:
    """One ``fraction``-th of the names: sorted, shuffled by the seed, the first n // fraction.

    Raises:
        ValueError: ``fraction`` is not a whole number from 1 to the number of names, or ``seed`` is
            not one of at least 0.
    """
    for key, value in (('fraction', fraction), ('seed', seed)):
        if not isinstance(value, int) or isinstance(value, bool) or value < (key == 'fraction'):
            raise ValueError(
                f'subset.{key}={value} is not a whole number of at least '
                f'{int(key == "fraction")}; subset.fraction=16 takes one image of 16.'
            )
    if fraction > len(names):
        raise ValueError(
            f'subset.fraction={fraction} leaves none of {len(names)} training images; '
            f'{len(names)} at most.'
        )
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    return shuffled[: len(names) // fraction]


def apply_subset(cfg: Config, folder: str | Path) -> None:
    """Train on ``subset = dict(fraction=16, seed=0)`` of a config, if it has that entry.

    Writes the names to ``<folder>/subset_1of16_seed0.txt`` and points the training set's
    ``ann_file`` there. What was drawn from and the list's SHA-256 are added to the entry
    (``drawn``), so that they stand in the log, and a run's own config draws the same again.

    Args:
        cfg: A complete config; changed in place.
        folder: The run's folder.

    Raises:
        ValueError: The entry is wrong, the list in the folder is another one, or the data have
            changed since the list was drawn.
    """
    subset = cfg.get('subset')
    if not subset:
        return
    if not isinstance(subset, dict) or 'fraction' not in subset or not set(subset) <= _KEYS:
        raise ValueError(f'subset={dict(subset)} is not as dict(fraction=16, seed=0).')
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset:  # RepeatDataset and other wrappers
        dataset = dataset.dataset
    fraction, seed = subset.fraction, subset.get('seed', 0)
    subset.seed = seed
    source, before = dataset.get('ann_file', ''), subset.get('drawn') or {}
    if source and source == before.get('list'):  # a run's own config: not a subset of the subset
        source = before['source']
    else:
        before = {}
    everything = _names({**dataset, 'ann_file': source, 'pipeline': []}, cfg)
    names = draw_subset(everything, fraction, seed)
    text = ''.join(f'{name}\n' for name in names)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = (Path(folder) / f'subset_1of{fraction}_seed{seed}.txt').resolve()
    same = (before.get('fraction'), before.get('seed')) == (fraction, seed)
    if (same and before['sha256'] != digest) or (path.exists() and path.read_text() != text):
        raise ValueError(
            f'{path.name} was drawn from other images than the {len(everything)} that are there '
            f'now (sha256 of the list would be {digest[:12]}): restore the data, or start with '
            'another --work-dir from the original config.'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f'.{path.name}.{os.getpid()}')
    aside.write_text(text)
    os.replace(aside, path)
    subset.drawn = ConfigDict(
        fraction=fraction,
        seed=seed,
        images=len(names),
        total=len(everything),
        sha256=digest,
        source=source,
        list=str(path),
    )
    dataset.ann_file = str(path)
    note(
        f'Training on {len(names)} of {len(everything)} images (1/{fraction}, seed {seed}): '
        f'{path}, sha256 {digest}.'
    )


def _names(dataset: dict, cfg: Config) -> list[str]:
    """Names of all training images, as ``ann_file`` has them."""
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    built = DATASETS.build(dataset)
    infos = [built.get_data_info(i) for i in range(len(built))]
    if hasattr(built, 'name_of'):
        return [built.name_of(info) for info in infos]
    root = built.data_prefix['img_path']
    return [
        Path(os.path.relpath(info['img_path'], root)).as_posix().removesuffix(built.img_suffix)
        for info in infos
    ]
