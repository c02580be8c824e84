"""Weights from a Hugging Face hub: the one file that imports huggingface_hub.

Its settings are honoured: ``HF_ENDPOINT`` (a mirror), ``HF_HOME`` and ``HF_HUB_CACHE`` (where files
are kept), ``HF_HUB_OFFLINE=1`` (use what is there), ``HF_TOKEN``.
"""

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mmdet_seg.backbones.checkpoint_files import read_weight_map
from mmdet_seg.backbones.layouts import locate_encoder

# In the order of preference; every published repository has one of them.
_WEIGHTS = (
    'model.safetensors.index.json',
    'model.safetensors',
    'pytorch_model.bin.index.json',
    'pytorch_model.bin',
)


def resolve_hub(
    repo_id: str, revision: str | None = None, *, file: str = '', weights: bool = True
) -> Path:
    """Download what the encoder needs of a repository, or find it in the cache.

    Of a sharded chat model only the shards with encoder tensors are fetched.

    Args:
        repo_id: ``owner/name``.
        revision: Branch, tag or commit; ``main`` by default.
        file: The one file to fetch; empty for the repository's weights.
        weights: False fetches ``config.json`` alone.

    Returns:
        The directory in the cache, or the file.

    Raises:
        FileNotFoundError: No such repository, revision or file, no access, or no connection and not
            in the cache.
    """
    if file:
        found = _fetch(repo_id, file, revision)
        if found is None:
            raise FileNotFoundError(
                f'{_name(repo_id, revision)} on {constants.ENDPOINT} has no file {file}; '
                f'look at its list of files.'
            )
        return found
    config = _fetch(repo_id, 'config.json', revision)
    if config is not None:
        revision = config.parent.name  # the commit: whatever follows comes from the same one
        if not weights:
            return config.parent
    for name in _WEIGHTS:
        found = _fetch(repo_id, name, revision)
        if found is None:
            continue
        if name.endswith('.index.json'):
            weight_map = read_weight_map(found)
            keys = locate_encoder(weight_map)
            stored = [key for thirds in keys.sources.values() for key in thirds] if keys else []
            for shard in sorted({weight_map[key] for key in stored}):
                if _fetch(repo_id, shard, found.parent.name) is None:
                    raise FileNotFoundError(
                        f'{_name(repo_id, revision)} lacks {shard}, which its {name} names.'
                    )
        return found.parent
    raise FileNotFoundError(
        f'{_name(repo_id, revision)} on {constants.ENDPOINT} has none of {", ".join(_WEIGHTS)}; '
        f'name one of its files as {repo_id}/FILE.'
    )


def resolve_repository(repo_id: str, revision: str | None = None) -> Path:
    """Download what transformers needs of a repository, whatever the model, or find it.

    Returns:
        The directory in the cache.

    Raises:
        FileNotFoundError: As :func:`resolve_hub`.
    """
    folder = resolve_hub(repo_id, revision, weights=False)
    if not (folder / 'config.json').is_file():
        raise FileNotFoundError(f'{_name(repo_id, revision)} has no config.json.')
    for name in ('preprocessor_config.json', 'processor_config.json'):
        _fetch(repo_id, name, folder.name)
    for name in _WEIGHTS:
        found = _fetch(repo_id, name, folder.name)
        if found is None:
            continue
        if name.endswith('.index.json'):
            for shard in sorted(set(read_weight_map(found).values())):
                _fetch(repo_id, shard, folder.name)
        return folder
    raise FileNotFoundError(f'{_name(repo_id, revision)} has none of {", ".join(_WEIGHTS)}.')


def _fetch(repo_id: str, file: str, revision: str | None) -> Path | None:
    """A file in the cache, fetched first where needed; None where the repository lacks it."""
    name = _name(repo_id, revision)
    try:
        offline = not _answers(constants.ENDPOINT)
        return Path(hf_hub_download(repo_id, file, revision=revision, local_files_only=offline))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(
            f'{file} of {name} is not in the cache ({constants.HF_HUB_CACHE}) and '
            f'{_why_offline()}; set HF_ENDPOINT to a hub or mirror that answers, fill the cache on '
            f'a machine that is connected, or give a local directory.'
        ) from None
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        why = 'asks for consent: accept its terms there, then set HF_TOKEN'
    except RepositoryNotFoundError:
        why = 'is not there, or is private: check the name, or set HF_TOKEN'
    except RevisionNotFoundError:
        why = 'has no such revision: name a branch, tag or commit after the @'
    except HFValidationError:
        why = 'is not a name that a hub can have: it looks like owner/name'
    except HfHubHTTPError as e:
        why = f'cannot be read ({" ".join(str(e).split())[:120]})'
    raise FileNotFoundError(f'{name} on {constants.ENDPOINT} {why}.')


def _answers(endpoint: str) -> bool:
    """Whether something listens there: huggingface_hub would try for 23 s before it gives up."""
    parts = urlsplit(endpoint)
    if constants.HF_HUB_OFFLINE or parts.scheme in getproxies():
        return not constants.HF_HUB_OFFLINE  # a proxy stands between: only a request can tell
    try:
        port = parts.port or (443 if parts.scheme == 'https' else 80)
        socket.create_connection((parts.hostname or '', port), timeout=5).close()
    except OSError:
        return False
    return True


def _why_offline() -> str:
    if constants.HF_HUB_OFFLINE:
        return 'HF_HUB_OFFLINE forbids to fetch it'
    return f'{constants.ENDPOINT} did not answer'


def _name(repo_id: str, revision: str | None) -> str:
    return f'{repo_id}@{revision}' if revision else repo_id
