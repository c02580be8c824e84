"""timm's vision transformers as frozen encoders: ``timm:NAME``, see :func:`open_timm`.

Shapes: B images, (H, W) pixels, (h, w) grid, N = h * w patches, K prefix tokens, D channels.
"""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdet_seg.backbones.arguments import resolve_dtype
from mmdet_seg.backbones.peer_libraries import import_timm
from mmdet_seg.probes.frozen_encoder import RANDOM, TIMM, FrozenEncoder, LayerFeatures


class TimmEncoder(FrozenEncoder):
    """A plain vision transformer of timm.

    Args:
        model: Without a classifier.
        name: As the user typed it.

    Raises:
        ValueError: It is no plain vision transformer.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        info = getattr(model, 'feature_info', [])
        blocks, strides = getattr(model, 'blocks', ()), {x['reduction'] for x in info}
        plain = len(strides) == 1 and len(info) == len(blocks) and hasattr(model, 'patch_embed')
        if not plain or not hasattr(model, 'forward_intermediates'):
            raise ValueError(
                f'{name} is no plain vision transformer (one grid of patches in every block); its '
                'features cannot be put beside those of one.'
            )
        self.model, self.name = model.eval().requires_grad_(False), name
        self.embed_dim, self.depth = model.embed_dim, len(blocks)
        self.num_heads = getattr(getattr(blocks[0], 'attn', None), 'num_heads', 0)
        self.patch_size = int(strides.pop())
        self.num_prefix_tokens = getattr(model, 'num_prefix_tokens', 0)
        facts = model.pretrained_cfg
        self.img_size = model.patch_embed.img_size[0] if model.patch_embed.img_size else 224
        self.mean = tuple(255 * x for x in facts['mean'])
        self.std = tuple(255 * x for x in facts['std'])
        self.has_final_norm = not isinstance(getattr(model, 'norm', None), nn.Identity | None)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """See :attr:`FrozenEncoder.blocks`."""
        return self.model.blocks

    def _structure(self) -> Any:
        return {'kind': 'timm', 'architecture': self.model.pretrained_cfg.get('architecture')}

    @torch.no_grad()
    def features(
        self, images: Tensor, layers: Sequence[int], *, final_norm: bool = False
    ) -> dict[int, LayerFeatures]:
        """See :meth:`FrozenEncoder.features`."""
        wanted = sorted(set(self.check_layers(layers)))
        self.check_size(images)
        self.check_final_norm(final_norm)
        with torch.autocast(images.device.type, enabled=False):
            found = self.model.forward_intermediates(
                images.to(self.dtype),
                indices=wanted,
                return_prefix_tokens=self.num_prefix_tokens > 0,
                norm=final_norm,
                stop_early=True,
                output_fmt='NCHW',
                intermediates_only=True,
            )
        out = {}
        for layer, entry in zip(wanted, found, strict=True):
            if self.num_prefix_tokens:
                patches, prefix = entry
            else:
                patches, prefix = entry, entry.new_zeros(len(images), 0, self.embed_dim)
            out[layer] = LayerFeatures(prefix, patches)
        return out

    @torch.no_grad()
    def attention(self, images: Tensor, layer: int) -> Tensor:
        """See :meth:`FrozenEncoder.attention`."""
        (layer,) = self.check_layers([layer])
        attn = getattr(self.model.blocks[layer], 'attn', None)
        if not hasattr(attn, 'fused_attn') or not hasattr(attn, 'attn_drop'):
            raise ValueError(f'{self.name}: attention of its blocks cannot be read.')
        found: list[Tensor] = []
        # Unfused, the weights pass through the dropout, which does nothing here.
        hook = attn.attn_drop.register_forward_hook(lambda _m, _i, out: found.append(out))
        fused, attn.fused_attn = attn.fused_attn, False
        try:
            self.features(images, [layer])
        finally:
            hook.remove()
            attn.fused_attn = fused
        return found[0].float()


def open_timm(source: str, *, dtype: torch.dtype | str | None = None) -> TimmEncoder:
    """A vision transformer of timm by name.

    Args:
        source: ``timm:NAME`` with the published weights, from the hub or its cache;
            ``timm:NAME@FILE`` with those of a local file; ``timm:random:NAME`` without (seed 0).
        dtype: Of the weights; None is bfloat16.

    Raises:
        FileNotFoundError: No such file, or the hub does not answer.
        ValueError: timm has no such model, it is no plain vision transformer, or other weights.
    """
    timm = import_timm()
    text = source.removeprefix(TIMM)
    random = text.startswith(RANDOM)
    name, _, file = text.removeprefix(RANDOM).partition('@')
    if not name or not timm.is_model(name.partition('.')[0]):
        close = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f' Did you mean {", ".join(close)}?' if close else ''
        raise ValueError(f'timm {timm.__version__} has no model {name!r}.{hint}')
    weights = None if random else _weights(name, file)  # before anything large is built
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = timm.create_model(name, num_classes=0, dynamic_img_size=True)
        except TypeError:  # for one image size
            model = timm.create_model(name, num_classes=0)
    encoder = TimmEncoder(model, source)
    if weights:
        _load(timm, model, weights, source)
    encoder.to(resolve_dtype(dtype, half=True))
    return encoder


def _load(timm: Any, model: nn.Module, file: str, source: str) -> None:
    """Load all weights; timm itself would leave what a file lacks random without a word."""
    layouts = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    try:
        state = timm.models.load_state_dict(file)
        state = layouts(state, model) if layouts else state
        lacks = model.load_state_dict(state, strict=False).missing_keys
    except (RuntimeError, KeyError, AttributeError, OSError, ValueError) as error:
        reason = ' '.join(str(error).split())[:160]
        raise ValueError(f'{source}: {file} does not fit the model ({reason}).') from error
    if lacks:
        raise ValueError(
            f'{source}: {file} does not fit the model: {len(lacks)} tensors are not in it, such as '
            f'{lacks[0]}.'
        )


def _weights(name: str, file: str) -> str:
    """Path of the weights, downloaded first where none is given."""
    if file:
        if not Path(file).expanduser().is_file():
            raise FileNotFoundError(f'No file {file!r} with weights of timm:{name}.')
        return str(Path(file).expanduser())
    from mmdet_seg.backbones.hub import resolve_hub

    facts = import_timm().get_pretrained_cfg(name)
    if facts is None or not facts.hf_hub_id:
        raise ValueError(f'timm:{name} has no published weights; give a file: timm:{name}@FILE.')
    repo = facts.hf_hub_id if facts.hf_hub_id.count('/') else f'timm/{facts.hf_hub_id}'
    try:
        return str(resolve_hub(repo, file=facts.hf_hub_filename or 'model.safetensors'))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{error} A file that is at hand: timm:{name}@FILE; without weights: '
            f'timm:random:{name}.'
        ) from None
