"""How the public data sets are published, and what ``configs/_base_/data`` expects of them."""

from dataclasses import dataclass, field

# COCO-Stuff numbers 182 things and stuffs from 0 in its maps; these 11 were never annotated.
_COCO_ABSENT = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
COCO_STUFF_TRAIN_IDS = {
    label: train_id for train_id, label in enumerate(x for x in range(182) if x not in _COCO_ABSENT)
} | {255: 255}
# labelIds of the 19 classes in the order of their train ids; the other ids are not evaluated.
_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_TRAIN_IDS = (
    dict.fromkeys(range(34), 255) | {255: 255} | {x: i for i, x in enumerate(_CITYSCAPES)}
)


@dataclass(frozen=True)
class Rule:
    """Which files go where.

    Attributes:
        pattern: Regular expression over the end of a path.
        target: Path below the data root; ``{name}`` is a group of the pattern.
        table: Label to train id, for maps that are rewritten.
    """

    pattern: str
    target: str
    table: dict[int, int] | None = None


@dataclass(frozen=True)
class Split:
    """A part of a data set: where it lies, and how much it is.

    Attributes:
        images: Folder and suffix of the images.
        masks: Folder and suffix of the masks.
        count: Published number of images.
        listed: File that lists the names; None: all images in the folder.
        numbered: Names by number from 1, where they are.
    """

    images: tuple[str, str]
    masks: tuple[str, str]
    count: int
    listed: str | None = None
    numbered: str | None = None


@dataclass(frozen=True)
class CocoSplit:
    """A part of a data set with COCO's annotations.

    Attributes:
        images: Folder of the images.
        instances: File of boxes and masks.
        panoptic: File of panoptic segments; its maps lie in a folder of the same name. May be
            absent as a whole.
        count: Published number of images.
    """

    images: str
    instances: str
    panoptic: str
    count: int


@dataclass(frozen=True)
class Layout:
    """A data set.

    Attributes:
        data: Its name in ``--data``.
        root: Where the config expects it.
        rules: The first that fits a file places it.
        splits: By name.
        labels: Values that masks may hold.
        files: What has to be downloaded, in words.
        config: One that trains on it.
    """

    data: str
    root: str
    rules: tuple[Rule, ...]
    splits: dict[str, Split | CocoSplit]
    labels: frozenset[int]
    files: str = field(default='')
    config: str = 'linear_internvit'


def _voc(year: int, masks: str, lists: str, counts: tuple[int, int]) -> dict:
    top = rf'VOC{year}/'
    return dict(
        root=f'data/VOCdevkit/VOC{year}',
        rules=(
            Rule(top + r'JPEGImages/(?P<name>\w+)\.jpg', 'JPEGImages/{name}.jpg'),
            Rule(top + masks + r'/(?P<name>\w+)\.png', masks + '/{name}.png'),
            Rule(
                rf'{top}ImageSets/{lists}/(?P<name>train|val)\.txt',
                f'ImageSets/{lists}/{{name}}.txt',
            ),
        ),
        splits={
            split: Split(
                ('JPEGImages', '.jpg'),
                (masks, '.png'),
                count,
                listed=f'ImageSets/{lists}/{split}.txt',
            )
            for split, count in zip(('train', 'val'), counts, strict=True)
        },
    )


LAYOUTS = {
    'ade20k': Layout(
        data='ade20k',
        root='data/ade/ADEChallengeData2016',
        rules=(
            Rule(
                r'images/(?P<split>training|validation)/(?P<name>ADE_\w+)\.jpg',
                'images/{split}/{name}.jpg',
            ),
            Rule(
                r'annotations/(?P<split>training|validation)/(?P<name>ADE_\w+)\.png',
                'annotations/{split}/{name}.png',
            ),
        ),
        splits={
            split: Split(
                (f'images/{split}', '.jpg'),
                (f'annotations/{split}', '.png'),
                count,
                numbered=f'ADE_{short}_{{:08}}',
            )
            for split, short, count in (('training', 'train', 20210), ('validation', 'val', 2000))
        },
        labels=frozenset(range(151)),
        files='ADEChallengeData2016.zip (data.csail.mit.edu/places/ADEchallenge)',
    ),
    'coco_stuff': Layout(
        data='coco_stuff164k',
        root='data/coco_stuff164k',
        rules=(
            Rule(r'(?P<split>(train|val)2017)/(?P<name>\d{12})\.jpg', 'images/{split}/{name}.jpg'),
            Rule(
                r'(?P<split>(train|val)2017)/(?P<name>\d{12})\.png',
                'annotations/{split}/{name}_labelTrainIds.png',
                COCO_STUFF_TRAIN_IDS,
            ),
            Rule(
                r'(?P<split>(train|val)2017)/(?P<name>\d{12}_labelTrainIds)\.png',
                'annotations/{split}/{name}.png',
            ),
        ),
        splits={
            split: Split(
                (f'images/{split}', '.jpg'), (f'annotations/{split}', '_labelTrainIds.png'), count
            )
            for split, count in (('train2017', 118287), ('val2017', 5000))
        },
        labels=frozenset({*range(171), 255}),
        files='train2017.zip, val2017.zip (cocodataset.org) and stuffthingmaps_trainval2017.zip '
        '(github.com/nightrome/cocostuff)',
    ),
    'coco': Layout(
        data='coco',
        root='data/coco',
        rules=(
            Rule(r'(?P<name>panoptic_(train|val)2017/\d{12})\.png', 'annotations/{name}.png'),
            Rule(r'(?P<name>(train|val)2017/\d{12})\.jpg', '{name}.jpg'),
            Rule(
                r'(?P<name>(instances|panoptic)_(train|val)2017)\.json', 'annotations/{name}.json'
            ),
        ),
        splits={
            split: CocoSplit(
                split,
                f'annotations/instances_{split}.json',
                f'annotations/panoptic_{split}.json',
                count,
            )
            for split, count in (('train2017', 118287), ('val2017', 5000))
        },
        labels=frozenset(),
        files='train2017.zip, val2017.zip, annotations_trainval2017.zip and, for panoptic '
        'segments, panoptic_annotations_trainval2017.zip (cocodataset.org)',
        config='mask_rcnn_internvit',
    ),
    'cityscapes': Layout(
        data='cityscapes',
        root='data/cityscapes',
        rules=(
            Rule(
                r'leftImg8bit/(?P<split>train|val)/(?P<city>[\w-]+)/(?P<name>[\w-]+_leftImg8bit)\.png',
                'leftImg8bit/{split}/{city}/{name}.png',
            ),
            Rule(
                r'gtFine/(?P<split>train|val)/(?P<city>[\w-]+)/(?P<name>[\w-]+_gtFine)_labelIds\.png',
                'gtFine/{split}/{city}/{name}_labelTrainIds.png',
                CITYSCAPES_TRAIN_IDS,
            ),
            Rule(
                r'gtFine/(?P<split>train|val)/(?P<city>[\w-]+)/'
                r'(?P<name>[\w-]+_gtFine_labelTrainIds)\.png',
                'gtFine/{split}/{city}/{name}.png',
            ),
        ),
        splits={
            split: Split(
                (f'leftImg8bit/{split}', '_leftImg8bit.png'),
                (f'gtFine/{split}', '_gtFine_labelTrainIds.png'),
                count,
            )
            for split, count in (('train', 2975), ('val', 500))
        },
        labels=frozenset({*range(19), 255}),
        files='leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (cityscapes-dataset.com, '
        'after registering)',
    ),
    'pascal_context': Layout(
        data='pascal_context',
        **_voc(2010, 'SegmentationClassContext', 'SegmentationContext', (4998, 5105)),
        labels=frozenset(range(60)),
        files='VOCtrainval_03-May-2010.tar (host.robots.ox.ac.uk/pascal/VOC/voc2010) and '
        'trainval_merged.json (the detail API of Pascal in Detail)',
    ),
    'voc12': Layout(
        data='voc12',
        **_voc(2012, 'SegmentationClass', 'Segmentation', (1464, 1449)),
        labels=frozenset({*range(21), 255}),
        files='VOCtrainval_11-May-2012.tar (host.robots.ox.ac.uk/pascal/VOC/voc2012)',
    ),
}
