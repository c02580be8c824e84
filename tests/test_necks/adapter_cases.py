"""Our ViT-Adapter at the sizes of the golden ones."""

from mmdet_seg.necks import ViTAdapter
from tests.golden_data import Case

INTERNVIT = (
    'C_internvit_adapter',
    'C_internvit_adapter_3out',
    'C_internvit_adapter_plain',
    'N_eps_internvit_adapter',
)
ORIGINAL = ('C_vitadapter', 'C_vitadapter_window')
_SAME = (
    'interaction_indexes',
    'conv_inplane',
    'n_points',
    'deform_num_heads',
    'deform_ratio',
    'with_cffn',
    'cffn_ratio',
    'use_extra_extractor',
    'out_indices',
)


def encoder_of(config: dict, original: bool) -> dict:
    """Config of our encoder for an authors' config of an adapter."""
    fields = ('embed_dim', 'depth', 'num_heads', 'mlp_ratio', 'patch_size', 'img_size')
    arch = {k: config[k] for k in fields if k in config}
    encoder = dict(arch=arch)
    if original:
        arch.update(qkv_bias=True, qk_norm=False, norm='layer')
    if 'window_size' in config:
        encoder.update(window_size=[w or 0 for w in config['window_size']])
        encoder.update(window_padding='zeros')
    return encoder


def arguments_of(config: dict, original: bool) -> dict:
    """Our arguments for theirs."""
    found = {k: config[k] for k in _SAME if k in config}
    found['final_norm'] = config.get('use_final_norm', True)
    found['vit_feature'] = 'last' if config.get('add_vit_feature', True) else None
    if original:
        found.update(norm='sync_bn', vit_feature='each')
    return found


def build(case: Case, **changes) -> ViTAdapter:
    """The adapter of a case, with its weights, names as they are there."""
    original = case.name.startswith('C_vitadapter')
    config = case.meta['config']
    kwargs = {**arguments_of(config, original), **changes}
    model = ViTAdapter(encoder_of(config, original), **kwargs).eval()
    model.load_state_dict(case.state_dict)
    return model
