"""What a checkpoint's ``config.json`` and tensor shapes say about its encoder, and the way back.

Four kinds of ``config.json`` exist: InternViT's own (class InternVisionConfig), a chat or 14B
model's with that under ``vision_config``, transformers' InternVLVisionConfig (bare or under
``vision_config``), and timm's.
"""

import math
from collections.abc import Mapping
from typing import Any

from mmdet_seg.backbones.variants import ARCHS, Arch

_NORMS = {'rms_norm': 'rms', 'layer_norm': 'layer'}
# Field of Arch -> key of the class; a key that has its default may be absent from the file.
_REMOTE_CODE_KEYS = {
    'embed_dim': 'hidden_size',
    'depth': 'num_hidden_layers',
    'num_heads': 'num_attention_heads',
    'mlp_ratio': 'intermediate_size',
    'patch_size': 'patch_size',
    'img_size': 'image_size',
    'qkv_bias': 'qkv_bias',
    'qk_norm': 'qk_normalization',
    'norm': 'norm_type',
    'norm_eps': 'layer_norm_eps',
    'layer_scale_init': 'initializer_factor',
    'drop_path_rate': 'drop_path_rate',
}
_NATIVE_KEYS = _REMOTE_CODE_KEYS | {
    'qkv_bias': 'attention_bias',
    'qk_norm': 'use_qk_norm',
    'layer_scale_init': 'layer_scale_init_value',
}
_NATIVE_DEFAULTS = {
    'hidden_size': 1024,
    'num_hidden_layers': 24,
    'num_attention_heads': 16,
    'intermediate_size': 4096,
    'patch_size': 14,
    'image_size': 448,
    'attention_bias': False,
    'use_qk_norm': False,
    'norm_type': 'layer_norm',
}
_REMOTE_CODE_DEFAULTS = {
    'hidden_size': 3200,
    'num_hidden_layers': 48,
    'num_attention_heads': 25,
    'intermediate_size': 12800,
    'patch_size': 14,
    'image_size': 224,
    'qkv_bias': False,
    'qk_normalization': True,
    'norm_type': 'rms_norm',
}
_TIMM_KEYS = {
    'embed_dim': 'embed_dim',
    'depth': 'depth',
    'num_heads': 'num_heads',
    'mlp_ratio': 'mlp_ratio',
    'patch_size': 'patch_size',
    'img_size': 'img_size',
    'layer_scale_init': 'init_values',
    'drop_path_rate': 'drop_path_rate',
}
TIMM_NAME = 'vit_intern300m_patch14_448'


def is_timm_config(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is timm's."""
    return 'architecture' in config and 'pretrained_cfg' in config


def describes_encoder(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is surely that of an InternViT, alone or inside a larger model."""
    if is_timm_config(config):
        return config['architecture'].startswith(TIMM_NAME)
    vision = _vision_part(config)
    return (
        _is_native(vision)
        or vision.get('model_type') == 'intern_vit_6b'
        or ('qk_normalization' in vision)
    )


def config_keys(config: Mapping[str, Any]) -> dict[str, str]:
    """Field of :class:`Arch` -> key that this ``config.json`` uses for it."""
    if is_timm_config(config):
        return _TIMM_KEYS
    return _NATIVE_KEYS if _is_native(_vision_part(config)) else _REMOTE_CODE_KEYS


def fields_from_config(
    config: Mapping[str, Any], origin: str, *, defaults: bool = False
) -> dict[str, Any]:
    """Fields of :class:`Arch` that a ``config.json`` states.

    Args:
        config: The parsed file.
        origin: Its path, for messages.
        defaults: Fill keys that the file leaves out with the defaults of the class that wrote it.

    Raises:
        ValueError: A value is not of the kind that the key has.
    """
    keys = config_keys(config)
    if is_timm_config(config):
        values = dict(config.get('model_args') or {})
        if config['architecture'].startswith(TIMM_NAME):
            published = ARCHS['300m-448px']
            values = {
                **{k: getattr(published, f) for f, k in keys.items()},
                'init_values': 0.1,  # timm's default for this model
                **values,
            }
    else:
        values = dict(_vision_part(config))
        if defaults:
            native = _is_native(values)
            values = {**(_NATIVE_DEFAULTS if native else _REMOTE_CODE_DEFAULTS), **values}
    stated = {field: values[key] for field, key in keys.items() if values.get(key) is not None}
    if is_timm_config(config) and defaults:
        stated |= {'qkv_bias': True, 'qk_norm': False, 'norm': 'layer_norm'}
    for field in ('patch_size', 'img_size'):
        if field in stated:
            stated[field] = _side(stated[field], f'{keys[field]} in {origin}')
    for field in ('embed_dim', 'depth', 'num_heads', 'mlp_ratio', 'norm_eps'):
        value = stated.get(field, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f'{keys[field]}={value!r} in {origin} is not a positive number.')
    if 'norm' in stated:
        if stated['norm'] not in _NORMS:
            raise ValueError(
                f'norm_type={stated["norm"]!r} in {origin} is not one of {", ".join(_NORMS)}.'
            )
        stated['norm'] = _NORMS[stated['norm']]
    if 'mlp_ratio' in stated and not is_timm_config(config):
        if 'embed_dim' in stated:
            stated['mlp_ratio'] = stated['mlp_ratio'] / stated['embed_dim']
        else:
            del stated['mlp_ratio']
    return stated


def fields_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Fields of :class:`Arch` that the shapes of the tensors (our names) settle.

    Raises:
        ValueError: The shapes are not those of a plain ViT on square images.
    """
    kernel = shapes['patch_embed.proj.weight']
    if len(kernel) != 4 or kernel[1] != 3 or kernel[2] != kernel[3]:
        raise ValueError(f'patch_embed.proj.weight is {kernel}, not (D, 3, P, P).')
    stated: dict[str, Any] = {
        'embed_dim': kernel[0],
        'patch_size': kernel[2],
        'num_prefix_tokens': int('cls_token' in shapes),
        'qkv_bias': 'blocks.0.attn.qkv.bias' in shapes,
        'qk_norm': 'blocks.0.attn.q_norm.weight' in shapes,
        'norm': 'layer' if 'blocks.0.norm1.bias' in shapes else 'rms',
    }
    blocks = {int(name.split('.')[1]) for name in shapes if name.startswith('blocks.')}
    if not blocks:
        raise ValueError('it has patches and no blocks.')
    stated['depth'] = max(blocks) + 1
    if 'blocks.0.mlp.fc1.weight' in shapes:
        stated['mlp_ratio'] = shapes['blocks.0.mlp.fc1.weight'][0] / kernel[0]
    if 'pos_embed' in shapes:
        stated['img_size'] = split_rows(shapes['pos_embed'])[1] * kernel[2]
    return stated


def split_rows(table: tuple[int, ...]) -> tuple[int, int]:
    """Prefix rows K and side n of the square grid of a position table (1, K + n*n, D).

    The two cannot be confused: n*n and n*n + 1 are not both squares.

    Raises:
        ValueError: Neither fits.
    """
    if len(table) == 3:
        for prefix in (1, 0):
            side = math.isqrt(table[1] - prefix) if table[1] > prefix else 0
            if side and side * side + prefix == table[1]:
                return prefix, side
    raise ValueError(f'pos_embed is {table}, not (1, K + n*n, D) with a class row (K=1) or none.')


def published_like(stated: Mapping[str, Any]) -> list[Arch]:
    """Encoders of the table that are of this kind.

    For a published width, norm and biases say which; the small ones of our own count only where
    everything but the image size agrees, because others may have their width.
    """
    kind = ('embed_dim', 'qk_norm', 'norm', 'qkv_bias')
    every = (*kind, 'depth', 'mlp_ratio', 'patch_size')
    return [
        arch
        for arch in ARCHS.values()
        if all(getattr(arch, f) == stated.get(f) for f in (kind if arch.hub_id else every))
    ]


def remote_code_config(arch: Arch, dtype: str) -> dict[str, Any]:
    """``config.json`` of an InternViT repository; the code is the published repository's."""
    home = f'{ARCHS["300m-448px-v2-5"].hub_id}--'
    return {
        'architectures': ['InternVisionModel'],
        'auto_map': {
            'AutoConfig': f'{home}configuration_intern_vit.InternVisionConfig',
            'AutoModel': f'{home}modeling_intern_vit.InternVisionModel',
        },
        'model_type': 'intern_vit_6b',
        **_written(arch, _REMOTE_CODE_KEYS),
        'hidden_act': 'gelu',
        'dropout': 0.0,
        'attention_dropout': 0.0,
        'initializer_range': 0.02 if arch.norm == 'layer' else 1e-10,  # as published
        'num_channels': 3,
        'use_flash_attn': True,
        'torch_dtype': dtype,
    }


def native_config(arch: Arch, dtype: str) -> dict[str, Any]:
    """``config.json`` of transformers' InternVLVisionModel, which has no drop path."""
    written = _written(arch, _NATIVE_KEYS)
    del written['drop_path_rate']
    return {
        'architectures': ['InternVLVisionModel'],
        'model_type': 'internvl_vision',
        **written,
        'image_size': [arch.img_size] * 2,
        'patch_size': [arch.patch_size] * 2,
        'hidden_act': 'gelu',
        'num_channels': 3,
        'use_absolute_position_embeddings': True,
        'use_mean_pooling': True,  # False would add a norm that no InternViT has
        'dtype': dtype,
    }


def timm_config(arch: Arch, dtype: str) -> dict[str, Any]:
    """``config.json`` for ``timm.create_model('local-dir:...')``."""
    size = [3, arch.img_size, arch.img_size]
    return {
        'architecture': TIMM_NAME,
        'num_classes': 0,
        'num_features': arch.embed_dim,
        'model_args': {
            **{key: getattr(arch, field) for field, key in _TIMM_KEYS.items()},
            'qkv_bias': arch.qkv_bias,
            'num_classes': 0,
        },
        'torch_dtype': dtype,
        'pretrained_cfg': {
            'tag': 'ogvl',
            'custom_load': False,
            'input_size': size,
            'fixed_input_size': False,
            'interpolation': 'bicubic',
            'crop_pct': 1.0,
            'mean': [0.485, 0.456, 0.406],
            'std': [0.229, 0.224, 0.225],
            'num_classes': 0,
            'pool_size': None,
            'first_conv': 'patch_embed.proj',
            'classifier': 'head',
        },
    }


def _written(arch: Arch, keys: Mapping[str, str]) -> dict[str, Any]:
    names = {short: long for long, short in _NORMS.items()}
    values = {key: getattr(arch, field) for field, key in keys.items()}
    return values | {'intermediate_size': arch.mlp_dim, 'norm_type': names[arch.norm]}


def _vision_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    part = config.get('vision_config', config)
    return part if isinstance(part, Mapping) else {}


def _is_native(vision: Mapping[str, Any]) -> bool:
    return vision.get('model_type') == 'internvl_vision' or 'use_qk_norm' in vision


def _side(value: Any, what: str) -> int:
    """One side of a square given as ``14`` or ``[14, 14]``."""
    sides = value if isinstance(value, list | tuple) else [value]
    if not sides or len(set(sides)) > 1 or not isinstance(sides[0], int):
        raise ValueError(f'{what} is {value!r}; the encoder needs a square, one number.')
    return sides[0]
