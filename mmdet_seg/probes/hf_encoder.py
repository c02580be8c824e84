"""Vision transformers of transformers as frozen encoders: ``hf:PATH``, see :func:`open_hf`.

The tokens are taken where a block ends, so nothing behind the deepest block that is asked for runs,
and a last norm that a library may count into the last state is not in them.

Shapes: B images, (H, W) pixels, (h, w) grid, N = h * w patches, K prefix tokens, D channels.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdet_seg.backbones.arguments import resolve_dtype
from mmdet_seg.backbones.checkpoint_files import read_json
from mmdet_seg.backbones.peer_libraries import import_transformers
from mmdet_seg.probes.frozen_encoder import HF, FrozenEncoder, LayerFeatures

_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# What the models of a kind were published with, for directories without a preprocessor's file.
_PIXELS = {'clip': _CLIP, 'vit': (_HALF, _HALF), 'siglip': (_HALF, _HALF)}
# Parts that classification and image-text models have and features do not come through.
_UNUSED = ('pooler.', 'head.', 'vision_model.head.', 'embeddings.mask_token', 'mask_token')
_FINAL_NORMS = ('layernorm', 'norm', 'post_layernorm', 'ln_post')


class _Enough(Exception):
    """Ends a pass behind the deepest block that is asked for."""


class HfEncoder(FrozenEncoder):
    """A plain vision transformer of transformers.

    Args:
        model: The vision model.
        name: As the user typed it.
        pixels: Mean and standard deviation of the pixels, 0 to 1.

    Raises:
        ValueError: It is no plain vision transformer.
    """

    def __init__(
        self, model: nn.Module, name: str, pixels: tuple[Sequence[float], Sequence[float]]
    ) -> None:
        super().__init__()
        config = model.config
        refusal = (
            f'{name} ({config.model_type}) is no plain vision transformer over a grid of patches; '
            'its features cannot be put beside those of one.'
        )
        try:
            self.depth, self.embed_dim = config.num_hidden_layers, config.hidden_size
            self.num_heads = config.num_attention_heads
            self.patch_size, self.img_size = _side(config.patch_size), _side(config.image_size)
        except (AttributeError, TypeError, ValueError):
            raise ValueError(refusal) from None
        self.model, self.name = model.eval().requires_grad_(False), name
        lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
        self._blocks = [list(m) for m in lists if len(m) == self.depth][:1]
        self.mean = tuple(255 * x for x in pixels[0])
        self.std = tuple(255 * x for x in pixels[1])
        norms = (getattr(model, x, None) for x in _FINAL_NORMS)
        self._norm = [x for x in norms if x is not None and not isinstance(x, nn.Identity)][:1]
        self.has_final_norm = bool(self._norm)
        takes = inspect.signature(model.forward).parameters
        self._options = {'interpolate_pos_encoding': True} & takes.keys()
        self.num_prefix_tokens = self._count_prefix(refusal)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """See :attr:`FrozenEncoder.blocks`."""
        return self._blocks[0]

    def _structure(self) -> Any:
        config = self.model.config.to_dict()
        paths = ('_name_or_path', 'transformers_version', 'dtype', 'torch_dtype')
        return {'kind': 'hf', **{k: v for k, v in config.items() if k not in paths}}

    def _count_prefix(self, refusal: str) -> int:
        """K: what one block gives beyond the patches of a native image."""
        side = self.img_size // self.patch_size
        zeros = torch.zeros(1, 3, side * self.patch_size, side * self.patch_size)
        try:
            shape = self._pass(zeros.to(self.device), {0: True})[0].shape
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            shape = ()
        if len(shape) != 3 or shape[2] != self.embed_dim or shape[1] < side * side:
            raise ValueError(refusal)
        return shape[1] - side * side

    def _pass(self, images: Tensor, wanted: Any) -> dict[int, Tensor]:
        """Tokens (B, K + N, D) behind the blocks in ``wanted``."""
        found: dict[int, Tensor] = {}
        last = max(wanted)

        def keep(layer: int, out: Any) -> None:
            found[layer] = out[0] if isinstance(out, tuple) else out
            if layer == last:
                raise _Enough

        hooks = [
            self._blocks[0][i].register_forward_hook(lambda _m, _in, out, i=i: keep(i, out))
            for i in wanted
        ]
        try:
            with torch.autocast(images.device.type, enabled=False), torch.no_grad():
                self.model(images.to(self.dtype), **dict.fromkeys(self._options, True))
        except _Enough:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def features(
        self, images: Tensor, layers: Sequence[int], *, final_norm: bool = False
    ) -> dict[int, LayerFeatures]:
        """See :meth:`FrozenEncoder.features`."""
        wanted, grid = set(self.check_layers(layers)), self.check_size(images)
        self.check_final_norm(final_norm)
        out, K = {}, self.num_prefix_tokens
        for layer, tokens in self._pass(images, wanted).items():
            if final_norm:
                with torch.no_grad():
                    tokens = self._norm[0](tokens)
            patches = tokens[:, K:].unflatten(1, grid).permute(0, 3, 1, 2)
            out[layer] = LayerFeatures(tokens[:, :K], patches)
        return out

    def attention(self, images: Tensor, layer: int) -> Tensor:
        """See :meth:`FrozenEncoder.attention`."""
        (layer,) = self.check_layers([layer])
        self.check_size(images)
        found: list[Tensor] = []

        def keep(_module: nn.Module, _in: Any, out: Any) -> None:
            if isinstance(out, tuple) and len(out) > 1 and isinstance(out[1], Tensor):
                found.append(out[1])

        hooks = [m.register_forward_hook(keep) for m in self._blocks[0][layer].modules()]
        try:
            with self._eager():
                self._pass(images, {layer})
        finally:
            for hook in hooks:
                hook.remove()
        weights = [x for x in found if x.dim() == 4 and x.shape[2] == x.shape[3]]
        if not weights:
            raise ValueError(f'{self.name}: attention of its blocks cannot be read.')
        return weights[0].float()

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """With attention that hands its weights out."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation('eager')
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)


def open_hf(source: str, *, dtype: torch.dtype | str | None = None) -> HfEncoder:
    """A vision transformer that transformers knows; of an image-text model, its vision part.

    Args:
        source: ``hf:`` and a local directory or a hub id; no code that comes with it is run.
        dtype: Of the weights; None is bfloat16.

    Raises:
        FileNotFoundError: Nothing there, or the hub does not answer.
        ValueError: It is no plain vision transformer, or its weights do not fit.
    """
    transformers = import_transformers()
    folder = _locate(source.removeprefix(HF))
    wanted = resolve_dtype(dtype, half=True)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = getattr(config, 'vision_config', config)
        model, report = transformers.AutoModel.from_pretrained(
            folder, config=config, dtype=wanted, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if 'remote code' in str(error) or 'trust_remote_code' in str(error):
            raise ValueError(
                f'{source} is not known to transformers without code of its own, which is not run '
                f'here; an InternViT opens without the prefix: {source.removeprefix(HF)}.'
            ) from error
        raise ValueError(f'{source}: {" ".join(str(error).split())[:200]}') from error
    lacks = [x for x in sorted(report['missing_keys']) if not x.startswith(_UNUSED)]
    if lacks:
        raise ValueError(
            f'{source} has no weights for {len(lacks)} tensors of its vision model, such as '
            f'{lacks[0]}: it is laid out in another way.'
        )
    return HfEncoder(model, source, _pixels(folder, config.model_type))


def _locate(path: str) -> Path:
    """The directory, downloaded first where ``path`` is a hub id."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or path.count('/') != 1 or path[0] in './~':
        raise FileNotFoundError(
            f'hf:{path} is no directory in the layout of transformers, and no hub id (owner/name).'
        )
    from mmdet_seg.backbones.hub import resolve_repository

    name, _, revision = path.partition('@')
    return resolve_repository(name, revision or None)


def _pixels(folder: Path, kind: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation from the preprocessor's file, else those of the kind of model."""
    for name in ('preprocessor_config.json', 'processor_config.json'):
        facts = read_json(folder / name) if (folder / name).is_file() else {}
        facts = facts.get('image_processor', facts)
        mean, std = facts.get('image_mean'), facts.get('image_std')
        if isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == 3:
            return tuple(mean), tuple(std)
    return next((v for k, v in _PIXELS.items() if kind.startswith(k)), _IMAGENET)


def _side(value: Any) -> int:
    """One side of a square given as ``14`` or ``[14, 14]``."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    (side,) = sides
    return int(side)
