"""The encoder inside a checkpoint: its names, shapes and tensors, whatever the layout.

Shapes: D channels.
"""

import json
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmdet_seg.backbones.arch_config import (
    config_keys,
    fields_from_config,
    fields_from_shapes,
    is_timm_config,
    published_like,
)
from mmdet_seg.backbones.checkpoint_files import WeightFiles
from mmdet_seg.backbones.layouts import (
    NATIVE,
    REMOTE_CODE,
    KeyMap,
    expected_shapes,
    first_few,
    locate_encoder,
)
from mmdet_seg.backbones.lora import adapted_weight
from mmdet_seg.backbones.variants import Arch, get_arch

ARCH_KEY = 'mmdet_seg.arch'  # metadata of our own files: the fields of Arch as JSON
_WINDOW_BYTES = 1 << 30  # mapped pages are given back after this much has been read
_KINDS = (
    'an InternViT, InternVL or timm repository (directory or hub id), a .pth of the authors, '
    'a segmentor checkpoint or a file of our own'
)


class Checkpoint:
    """An encoder's weights in a file, directory or hub repository; see :func:`open_checkpoint`.

    Attributes:
        source: What was opened.
        layout: ``'hub'`` (InternViT repository), ``'chat'`` (InternVL-Chat, InternVL-14B),
            ``'native'`` (transformers), ``'pth'`` (the authors' files), ``'segmentor'``, ``'timm'``
            or ``'own'``.
        names: Our name -> shape as stored, in the order of the files.
        dtypes: Our name -> dtype as stored.
        other_keys: Stored keys of other parts: language model, projectors, heads, pyramid.
        prefix: What stands before the encoder's stored names.
        fields: Fields of Arch that the files settle, by tensors or in writing.
        written: Those that a ``config.json`` or our own metadata states.
        overrides: Fields that the caller gave.
    """

    def __init__(
        self,
        source: str,
        files: WeightFiles,
        config: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        self.source = source
        self._files = files
        self.overrides = {k: v for k, v in (overrides or {}).items() if v is not None}
        keys = self._locate(config)
        self.prefix = keys.prefix
        self.other_keys = keys.other_keys
        self._adapters, self._scale = keys.adapters, self._read_scale(keys)
        order = files.in_file_order([stored[0] for stored in keys.sources.values()])
        by_first = {stored[0]: name for name, stored in keys.sources.items()}
        self._sources = {by_first[key]: keys.sources[by_first[key]] for key in order}
        self.names = {name: self._stored_shape(stored) for name, stored in self._sources.items()}
        self.dtypes = {name: files.of(s[0]).dtype(s[0]) for name, s in self._sources.items()}
        metadata = files.of(order[0]).metadata
        self.layout = _layout(keys, files.of(order[0]).wrapper, config, metadata)
        self.fields, self.written = self._settle(config, metadata)
        self._check_complete()
        if keys.naming is NATIVE:
            self._check_one_eps()

    @cached_property
    def arch(self) -> Arch:
        """Shape of the encoder: as stored, with the overrides on top.

        Raises:
            ValueError: The number of heads is not to be known from the files.
        """
        given = {**self.fields, **self.overrides}
        like = published_like(self.fields)
        for field in ('num_heads', 'layer_scale_init', 'drop_path_rate'):
            if field not in given and len({getattr(a, field) for a in like}) == 1:
                given[field] = getattr(like[0], field)
        if 'num_heads' not in given:
            raise ValueError(
                f'num_heads cannot be read from the tensors of {self.source} and '
                f'embed_dim={self.fields["embed_dim"]} is no published size; pass num_heads=...'
            )
        return get_arch(given)

    @property
    def shape_arch(self) -> Arch:
        """What the files settle, as an Arch; where they do not tell ``num_heads``, it says 1."""
        return get_arch({'num_heads': 1, **self.fields})

    def release(self) -> None:
        """Give memory of the mapped files back as far as no tensor uses it."""
        self._files.release()

    def read(self, name: str) -> Tensor:
        """The tensor of our ``name`` in its stored dtype; it may be a view of the mapped file.

        A weight with an adapter comes as their sum, in float32 at least.
        """
        parts = [self._read_part(key) for key in self._sources[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)  # q, k, v -> (3*D, ...)

    @property
    def num_adapted(self) -> int:
        """Stored weights that have a LoRA adapter beside them."""
        return len(self._adapters)

    def _read_part(self, key: str) -> Tensor:
        tensor = self._files.of(key).read(key)
        if key not in self._adapters:
            return tensor
        down, up = (self._files.of(k).read(k) for k in self._adapters[key])
        return adapted_weight(tensor, down, up, self._scale)

    def _read_scale(self, keys: KeyMap) -> float:
        """What the adapters are multiplied by, once they are seen to fit."""
        of = self._files.of
        for weight, (down, up) in keys.adapters.items():
            shapes = of(weight).shape(weight), of(down).shape(down), of(up).shape(up)
            rank = shapes[1][0]
            if shapes[1:] != ((rank, *shapes[0][1:]), (*shapes[0][:1], rank)):
                raise ValueError(
                    f'{self.source} has a LoRA adapter that does not fit: {down} is {shapes[1]} '
                    f'and {up} {shapes[2]} on a weight {shapes[0]}; give a complete checkpoint.'
                )
        if keys.adapters and keys.scale is None:
            raise ValueError(
                f'{self.source} has LoRA adapters and does not say their alpha / rank (no '
                'lora_scale): merge them into the weights where they were trained.'
            )
        return float(of(keys.scale).read(keys.scale)) if keys.scale else 1.0

    def tensors(self, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """(our name, tensor) one by one, in the order of the files.

        Mapped memory is given back on the way; a tensor that is kept should be cloned.

        Args:
            names: The ones to read; all of them by default.
        """
        read = 0
        for name in self._sources:
            if names is not None and name not in names:
                continue
            tensor = self.read(name)
            read += tensor.nbytes
            yield name, tensor
            if read >= _WINDOW_BYTES:
                del tensor
                self.release()
                read = 0
        self.release()

    def _locate(self, config: dict[str, Any] | None) -> KeyMap:
        try:
            keys = locate_encoder(self._files.owner)
        except ValueError as e:
            raise ValueError(f'{self.source} holds {e}') from None
        stored = self._files.owner
        if keys is None and any('.lora_A.' in key for key in stored):
            raise ValueError(
                f'{self.source} has LoRA adapters and not the encoder beneath them: build the '
                "model from the run's config, load the checkpoint, and merge_lora(model.backbone)."
            )
        if keys is None:
            model = (
                f' of a {config["model_type"]} model' if (config or {}).get('model_type') else ''
            )
            raise ValueError(
                f'{self.source} has no InternViT in it: {len(stored)} keys{model} '
                f'({first_few(stored)}); give {_KINDS}.'
            )
        if keys.unexpected:
            raise ValueError(
                f'{self.source} is not an InternViT: {len(keys.unexpected)} unexpected keys in the '
                f'encoder ({first_few(keys.unexpected)}); give {_KINDS}.'
            )
        return keys

    def _stored_shape(self, stored: tuple[str, ...]) -> tuple[int, ...]:
        shapes = [self._files.of(key).shape(key) for key in stored]
        if len(shapes) == 1:
            return shapes[0]
        return (sum(s[0] if s else 0 for s in shapes), *shapes[0][1:])

    def _settle(
        self, config: dict[str, Any] | None, metadata: dict[str, str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields of Arch that the tensors or what is written beside them settle, if they agree."""
        written: dict[str, Any] = {}
        where: dict[str, str] = {}  # field -> what the file calls it
        origin = ''
        if ARCH_KEY in metadata:
            origin = f'the metadata of {self.source}'
            try:
                written = get_arch(json.loads(metadata[ARCH_KEY])).to_dict()
            except (ValueError, TypeError) as e:
                raise ValueError(f'{origin} cannot be read: {e}') from None
            where = {field: field for field in written}
        elif config is not None:
            origin = f'config.json of {self.source}'
            written = fields_from_config(config, origin)
            where = {field: config_keys(config)[field] for field in written}
        try:
            tensors = fields_from_shapes(self.names)
        except ValueError as e:
            raise ValueError(f'{self.source} is not an InternViT: {e}') from None
        for field, found in tensors.items():
            said = written.get(field, found)
            close = abs(said - found) < 1e-6 if field == 'mlp_ratio' else said == found
            if not close and field not in self.overrides:
                raise ValueError(
                    f'{origin} says {field}={said} ({where[field]}), its tensors say '
                    f'{field}={found}; correct the file or pass {field}={found}.'
                )
        return {**written, **tensors}, written

    def _check_one_eps(self) -> None:
        """transformers' class uses 1e-6 inside QK-norm, whatever the other norms use."""
        eps = self.fields.get('norm_eps', 1e-6)
        if self.fields['qk_norm'] and eps != 1e-6 and 'norm_eps' not in self.overrides:
            raise ValueError(
                f'{self.source} has layer_norm_eps={eps} and QK-norm, for which transformers uses '
                f'1e-06; pass norm_eps={eps} to use that in both.'
            )

    def _check_complete(self) -> None:
        compare_shapes(
            self.names,
            expected_shapes(self.shape_arch) | {'pos_embed': self.names.get('pos_embed', ())},
            f'{self.source} is not a complete InternViT',
            f'give {_KINDS}.',
        )
        odd = [name for name, dtype in self.dtypes.items() if isinstance(dtype, str)]
        if odd:
            raise ValueError(
                f'{self.source} stores {first_few(odd)} as {self.dtypes[odd[0]]}, not as floating '
                f'point; give weights that are not quantised.'
            )


def compare_shapes(
    stored: dict[str, tuple[int, ...]],
    expected: dict[str, tuple[int, ...]],
    what: str,
    remedy: str,
) -> None:
    """Raise one line that names every kind of difference.

    Args:
        stored: Name -> shape that there is.
        expected: Name -> shape that there should be.
        what: Start of the line: what is wrong with which file.
        remedy: Its end.

    Raises:
        ValueError: The two differ.
    """
    missing = [name for name in expected if name not in stored]
    unexpected = [name for name in stored if name not in expected]
    shape = [
        f'{name} is {stored[name]} instead of {expected[name]}'
        for name in stored
        if name in expected and stored[name] != expected[name]
    ]
    parts = [
        f'{len(found)} {word} ({first_few(found)})'
        for word, found in (('missing', missing), ('unexpected', unexpected), ('misshapen', shape))
        if found
    ]
    if parts:
        raise ValueError(f'{what}: {", ".join(parts)}; {remedy}')


def _layout(
    keys: KeyMap, wrapper: tuple[str, ...], config: dict[str, Any] | None, metadata: dict[str, str]
) -> str:
    if keys.naming is NATIVE:
        return 'native'
    if keys.naming is REMOTE_CODE:
        return 'chat' if keys.prefix else 'hub'
    if ARCH_KEY in metadata:
        return 'own'
    if config is not None and is_timm_config(config):
        return 'timm'
    return 'segmentor' if keys.prefix not in ('', 'module.') or 'state_dict' in wrapper else 'pth'
