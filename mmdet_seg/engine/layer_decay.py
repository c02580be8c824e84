"""Learning rates that fall with depth, over trainable parameters only."""

from collections import defaultdict
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmdet_seg.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """One group per (rate, weight decay); frozen parameters are in none.

    The rate of a parameter is ``lr * layer_decay_rate ** (num_layers - 1 - depth)`` with the depth
    that the encoder's ``get_layer_depth`` reports; necks and heads have the full rate. Vectors,
    biases, the position table and the class token have no weight decay.

    ``paramwise_cfg`` takes:

    - ``layer_decay_rate`` (default 1.0): factor from one depth to the next lower one.
    - ``decay_positions`` (default False): decay the position table and the class token too. The
      authors' code does, because its exception list lacks the ``backbone.`` prefix.

    Raises:
        ValueError: Another key, or a rate outside (0, 1].

    Source:
        ``CustomLayerDecayOptimizerConstructor`` of OpenGVLab/InternVL, after BEiT.
    """

    def __call__(self, model: nn.Module) -> Any:
        model = getattr(model, 'module', model)
        options = {'layer_decay_rate': 1.0, 'decay_positions': False, **(self.paramwise_cfg or {})}
        if unknown := sorted(set(options) - {'layer_decay_rate', 'decay_positions'}):
            raise ValueError(
                f'paramwise_cfg has {", ".join(unknown)}; '
                'this constructor takes layer_decay_rate and decay_positions.'
            )
        rate = options['layer_decay_rate']
        if not 0 < rate <= 1:
            raise ValueError(f'layer_decay_rate={rate} is not in (0, 1]; 1.0 turns it off.')
        groups = self._groups(model, rate, options['decay_positions'])
        trainable = sum(p.numel() for g in groups for p in g['params'])
        total = sum(p.numel() for p in model.parameters())
        print_log(
            f'Training {trainable:,} of {total:,} parameters in {len(groups)} groups.', 'current'
        )
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': groups})
        wrapper = {'type': 'OptimWrapper', **self.optim_wrapper_cfg}
        return OPTIM_WRAPPERS.build(wrapper, default_args=dict(optimizer=optimizer))

    def _groups(self, model: nn.Module, rate: float, decay_positions: bool) -> list[dict]:
        encoder = getattr(model, 'backbone', None)
        depth_of = getattr(encoder, 'get_layer_depth', None)
        if depth_of is None and rate != 1:
            raise ValueError(
                f'layer_decay_rate={rate} needs a backbone with get_layer_depth(); '
                f'{type(encoder).__name__} has none: set layer_decay_rate=1.0.'
            )
        lr, weight_decay = self.base_lr, self.base_wd or 0.0
        groups: dict[tuple[float, float], list] = defaultdict(list)
        for name, param in model.named_parameters():
            if not param.requires_grad:
                continue
            scale = 1.0
            if depth_of is not None and name.startswith('backbone.'):
                depth, num_layers = depth_of(name, 'backbone.')
                scale = rate ** (num_layers - 1 - depth)
            plain = param.ndim == 1 or name.endswith('.bias')
            if not decay_positions:
                plain |= name.rsplit('.', 1)[-1] in ('pos_embed', 'cls_token')
            groups[scale, 0.0 if plain else weight_decay].append(param)
        return [
            {'params': params, 'lr': lr * scale, 'lr_scale': scale, 'weight_decay': decay}
            for (scale, decay), params in sorted(groups.items(), key=lambda item: item[0])
        ]
