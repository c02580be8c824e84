"""Golden encoders written out in every layout that people have, by means independent of ours.

Names come from the golden files: the authors' ``state_dict``, the key map of case J (checked there
against transformers) and the renames of case L (the authors' own converter).
"""

import json
import re
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from torch import Tensor

from tests.golden_data import Case, load_meta

# One has layer norms and biases, the other RMS norms, QK-norm and no biases; both are committed.
CASES = ('A_internvit_300m_like', 'N_eps_internvit_6b_like')
OTHERS = {
    'language_model.model.layers.0.mlp.up_proj.weight': torch.ones(4, 3),
    'mlp1.0.weight': torch.ones(5),
    'mlp1.0.bias': torch.ones(5),
}


def authors_state(case: Case) -> dict[str, Tensor]:
    """The names of the ``.pth`` files, as in the notes of case L."""
    renames = (
        (r'^embeddings\.class_embedding$', 'cls_token'),
        (r'^embeddings\.position_embedding$', 'pos_embed'),
        (r'^embeddings\.patch_embedding\.', 'patch_embed.proj.'),
        (r'^encoder\.layers\.', 'blocks.'),
        (r'\.ls([12])$', r'.ls\1.gamma'),
    )
    state = {}
    for key, tensor in case.state_dict.items():
        for pattern, new in renames:
            key = re.sub(pattern, new, key)
        state[key] = tensor
    return state


def native_state(case: Case, prefix: str = '') -> dict[str, Tensor]:
    """transformers' names, by the key map of case J (its first block stands for all)."""
    key_map = load_meta('J_hf_vision_mixed')['key_map_official_to_hf']
    state = {}
    for key, tensor in case.state_dict.items():
        block = re.match(r'encoder\.layers\.(\d+)\.', key)
        new = key_map[re.sub(r'layers\.\d+\.', 'layers.0.', key)]
        names = [new] if isinstance(new, str) else new
        for name, part in zip(names, tensor.chunk(len(names)), strict=True):
            if block:
                name = name.replace('layer.0.', f'layer.{block[1]}.')
            state[prefix + name] = part.clone()
    return state


def native_config(case: Case) -> dict:
    """What transformers writes for the same encoder."""
    config = case.meta['config']
    return {
        'model_type': 'internvl_vision',
        'hidden_size': config['hidden_size'],
        'num_hidden_layers': config['num_hidden_layers'],
        'num_attention_heads': config['num_attention_heads'],
        'intermediate_size': config['intermediate_size'],
        'image_size': [config['image_size']] * 2,
        'patch_size': [config['patch_size']] * 2,
        'attention_bias': config['qkv_bias'],
        'use_qk_norm': config['qk_normalization'],
        'norm_type': config['norm_type'],
        'layer_norm_eps': config['layer_norm_eps'],
    }


def write_repository(
    folder: Path,
    state: dict[str, Tensor],
    config: dict | None,
    kind: str = 'safetensors',
    num: int = 1,
) -> Path:
    """A directory as on a hub: ``config.json``, ``num`` weight files, an index if several."""
    folder.mkdir(parents=True)
    if config is not None:
        (folder / 'config.json').write_text(json.dumps(config))
    stem = 'model' if kind == 'safetensors' else 'pytorch_model'
    keys = list(state)
    weight_map = {}
    for i in range(num):
        name = f'{stem}.{kind}' if num == 1 else f'{stem}-{i + 1:05d}-of-{num:05d}.{kind}'
        part = {key: state[key].contiguous() for key in keys[i::num]}
        weight_map |= dict.fromkeys(part, name)
        if kind == 'safetensors':
            save_file(part, folder / name, metadata={'format': 'pt'})
        else:
            torch.save(part, folder / name)
    if num > 1:
        index = {'metadata': {'total_size': 1}, 'weight_map': weight_map}
        (folder / f'{stem}.{kind}.index.json').write_text(json.dumps(index))
    return folder


def write_pth(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def _prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def _runner_checkpoint(case: Case) -> dict:
    """What mmengine's Runner saves."""
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    state = _prefixed('backbone.', authors_state(case))
    return {
        'meta': {'epoch': 1, 'iter': 10, 'cfg': 'a = 1', 'seed': 0},
        'state_dict': {**state, 'decode_head.conv_seg.weight': torch.ones(3, 4, 1, 1)},
        'message_hub': {'log_scalars': {'train/loss': history}, 'runtime_info': {'iter': 10}},
        'optimizer': {'state': {}, 'param_groups': []},
    }


def _timm_config(case: Case) -> dict:
    config = case.meta['config']
    return {
        'architecture': 'vit_intern300m_patch14_448',
        'num_classes': 0,
        'model_args': {
            'img_size': config['image_size'],
            'patch_size': config['patch_size'],
            'embed_dim': config['hidden_size'],
            'depth': config['num_hidden_layers'],
            'num_heads': config['num_attention_heads'],
            'mlp_ratio': config['intermediate_size'] / config['hidden_size'],
        },
        'pretrained_cfg': {'tag': 'ogvl_dist'},
    }


def write_layout(kind: str, case: Case, folder: Path) -> tuple[Path, str, set[str]]:
    """Write a case in one layout.

    Returns:
        Where it is, the layout that we call it, and the groups of its other keys.
    """
    config, theirs, ours = case.meta['config'], case.state_dict, authors_state(case)
    head = {'head.weight': torch.ones(10, 8), 'norm.running_mean': torch.ones(8)}
    clip = {'clip_projector.norm1_q.weight': torch.ones(8)}
    root = folder / kind
    chat = {'model_type': 'internvl_chat', 'vision_config': config, 'llm_config': {}}
    chat_state = {**_prefixed('vision_model.', theirs), **OTHERS}
    native_chat = {'model_type': 'internvl', 'vision_config': native_config(case)}
    native_others = {
        'model.language_model.norm.weight': torch.ones(3),
        'lm_head.weight': torch.ones(3),
    }
    renamed = {
        key.replace('attention.q_norm', 'attn.q_norm').replace('attention.k_norm', 'attn.k_norm'): t
        for key, t in native_state(case, 'model.vision_tower.').items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    match kind:
        case 'hub':
            return write_repository(root, theirs, config), 'hub', set()
        case 'hub_sharded':
            return write_repository(root, theirs, config, num=3), 'hub', set()
        case 'hub_bin':
            return write_repository(root, theirs, config, 'bin'), 'hub', set()
        case 'hub_bin_sharded':
            return write_repository(root, theirs, config, 'bin', num=2), 'hub', set()
        case 'hub_file':
            return write_repository(root, theirs, config) / 'model.safetensors', 'hub', set()
        case 'chat':
            return (
                write_repository(root, chat_state, chat, num=2),
                'chat',
                {'language_model', 'mlp1'},
            )
        case 'internvl_14b':
            state = {**_prefixed('vision_model.', theirs), 'qllama.lm_head.weight': torch.ones(2)}
            state |= clip | {'query_tokens': torch.ones(2)}
            config_14b = {'model_type': 'internvl', 'vision_config': config, 'qllama_config': {}}
            others = {'qllama', 'clip_projector', 'query_tokens'}
            return write_repository(root, state, config_14b), 'chat', others
        case 'native':
            path = write_repository(root, native_state(case), native_config(case))
            return path, 'native', set()
        case 'native_chat':  # shards that keep q, k and v apart
            state = {**native_state(case, 'model.vision_tower.'), **native_others}
            others = {'model.language_model', 'lm_head'}
            return write_repository(root, state, native_chat, num=4), 'native', others
        case 'native_chat_old':
            state = {
                **native_state(case, 'vision_tower.'),
                'multi_modal_projector.a': torch.ones(2),
            }
            return write_repository(root, state, native_chat), 'native', {'multi_modal_projector'}
        case 'native_by_authors_converter':
            return write_repository(root, renamed, native_chat), 'native', set()
        case 'pth':
            return write_pth(folder / 'flat.pth', ours), 'pth', set()
        case 'pth_module':
            path = write_pth(folder / 'module.pth', {'module': {**ours, **clip}})
            return path, 'pth', {'clip_projector'}
        case 'pth_before_torch_1_6':
            path = folder / 'legacy.pth'
            torch.save({'module': ours}, path, _use_new_zipfile_serialization=False)
            return path, 'pth', set()
        case 'classification':
            return (
                write_pth(folder / 'cls.pth', {'module': {**ours, **head}}),
                'pth',
                {'head', 'norm'},
            )
        case 'internvl_c':
            text = {'transformer.norm.weight': torch.ones(2), 'logit_scale': torch.ones([])}
            others = {'transformer', 'logit_scale', 'clip_projector'}
            return write_pth(folder / 'c.pth', {**ours, **text, **clip}), 'pth', others
        case 'segmentor':
            state = {**_prefixed('backbone.', ours), 'backbone.up1.0.weight': torch.ones(2)}
            state['decode_head.conv_seg.weight'] = torch.ones(2)
            path = write_pth(folder / 'segmentor.pth', state)
            return path, 'segmentor', {'backbone.up1', 'decode_head'}
        case 'segmentor_module':  # MMDetSeg's release.py
            state = {'module': _prefixed('backbone.', ours)}
            return write_pth(folder / 'released.pth', state), 'segmentor', set()
        case 'segmentor_runner':
            path = write_pth(folder / 'iter_10.pth', _runner_checkpoint(case))
            return path, 'segmentor', {'decode_head'}
        case 'timm':
            return write_repository(root, ours, _timm_config(case)), 'timm', set()
    raise KeyError(kind)


KINDS = (
    *('hub', 'hub_sharded', 'hub_bin', 'hub_bin_sharded', 'hub_file', 'chat', 'internvl_14b'),
    *('native', 'native_chat', 'native_chat_old', 'native_by_authors_converter'),
    *('pth', 'pth_module', 'pth_before_torch_1_6', 'classification', 'internvl_c'),
    *('segmentor', 'segmentor_module', 'segmentor_runner', 'timm'),
)


def num_heads(case: Case) -> int:
    return case.meta['config']['num_attention_heads']
