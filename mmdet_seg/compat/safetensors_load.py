"""Checkpoints in safetensors for all that loads by way of mmengine.

Needed because mmengine 0.10.7 hands every local file to ``torch.load``, so that neither
``load_from='x.safetensors'`` nor ``init_model(config, 'x.safetensors')`` works. Delete
:func:`patch` when its ``load_from_local`` reads such files.
"""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError, safe_open

DATASET_META = 'mmdet_seg.dataset_meta'  # metadata of a file: classes and palette as JSON


def load_safetensors(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """A safetensors file as the checkpoint that mmengine would have written.

    Args:
        path: The file.
        map_location: A device; anything else that ``torch.load`` takes means the CPU.

    Returns:
        ``state_dict`` and ``meta`` (with ``dataset_meta`` where the file has it).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a safetensors file, or damaged.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; name a checkpoint file.')
    device = str(map_location) if type(map_location).__name__ in ('str', 'device') else 'cpu'
    try:
        with safe_open(path, framework='pt', device=device) as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        meta = json.loads(metadata.get(DATASET_META, 'null'))
    except (SafetensorError, ValueError) as error:
        text = ' '.join(str(error).split())
        raise ValueError(f'{path} is not a safetensors file that can be read ({text}).') from error
    return {'state_dict': state, 'meta': {} if meta is None else {'dataset_meta': meta}}


def patch(module: ModuleType) -> None:
    """Let ``mmengine.runner.checkpoint`` read local ``.safetensors`` files too."""
    loader = module.CheckpointLoader
    before = loader._schemes['']
    if getattr(before, 'reads_safetensors', False):
        return

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        if str(filename).endswith('.safetensors'):
            return load_safetensors(filename, map_location)
        return before(filename, map_location)

    load_from_local.reads_safetensors = True
    loader.register_scheme(prefixes='', loader=load_from_local, force=True)
