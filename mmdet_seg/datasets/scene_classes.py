"""Classes of the built-in scenes: names, colours and COCO's category numbers.

The names are ADE20K's; what can be counted (``THING_CLASSES``) has COCO's name and number.
"""

from collections import namedtuple

_Row = namedtuple('_Row', 'name color coco')

_ROWS = (
    _Row('building', (120, 90, 90), None),
    _Row('sky', (70, 150, 220), None),
    _Row('tree', (30, 110, 30), None),
    _Row('road', (110, 60, 130), None),
    _Row('windowpane', (245, 225, 120), None),
    _Row('grass', (140, 220, 90), None),
    _Row('sidewalk', (240, 130, 220), None),
    _Row('person', (225, 20, 50), (1, 'person')),
    _Row('mountain', (150, 120, 70), None),
    _Row('plant', (0, 170, 120), None),
    _Row('car', (20, 30, 170), (3, 'vehicle')),
    _Row('water', (40, 215, 235), None),
    _Row('fence', (200, 160, 150), None),
    _Row('boat', (255, 140, 0), (9, 'vehicle')),
    _Row('bus', (120, 40, 255), (6, 'vehicle')),
    _Row('cow', (255, 255, 255), (21, 'animal')),
)

CLASSES = tuple(row.name for row in _ROWS)
PALETTE = [list(row.color) for row in _ROWS]

# In the order of COCO's numbers, which is the order in which readers of COCO files number the
# classes.
_THINGS = sorted((row for row in _ROWS if row.coco), key=lambda row: row.coco)
THING_CLASSES = tuple(row.name for row in _THINGS)
COCO_IDS = {row.name: row.coco[0] for row in _THINGS}
COCO_SUPERCATEGORIES = {row.name: row.coco[1] for row in _THINGS}

# Values in the masks: 0 is unlabelled, as in ADE20K's annotation files.
IDS = {name: index for index, name in enumerate(CLASSES, start=1)}
UNLABELLED = 0
