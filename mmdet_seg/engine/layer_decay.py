"""Learning rates that fall with depth, over trainable parameters only."""

from collections import defaultdict
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmdet_seg.registry import OPTIM_WRAPPER_CONSTRUCTORS

_DEFAULTS = {
    'layer_decay_rate': 1.0,
    'full_rate_blocks': 0,
    'apart': False,
    'decay_positions': False,
}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """One group per (rate, weight decay); frozen parameters are in none.

    The rate of a parameter is ``lr * layer_decay_rate ** (num_layers - 1 - depth)`` with the depth
    that the encoder's ``get_layer_depth`` reports; necks and heads have the full rate. Vectors,
    biases, the position table and the class token have no weight decay.

    ``paramwise_cfg`` takes:

    - ``layer_decay_rate`` (default 1.0): factor from one depth to the next lower one.
    - ``full_rate_blocks`` (default 0): so many of the last blocks keep the full rate; that of the
      others falls from the last block on, ``lr * layer_decay_rate ** (num_layers - 2 - depth)``.
    - ``apart`` (default False): keep the encoder's groups apart from the others and mark them
      (``'encoder': True``), for a scheduler that warms them up by themselves.
    - ``decay_positions`` (default False): decay the position table and the class token too. The
      authors' code does, because its exception list lacks the ``backbone.`` prefix.

    Raises:
        ValueError: Another key, or a rate outside (0, 1].

    Source:
        ``CustomLayerDecayOptimizerConstructor`` of OpenGVLab/InternVL, after BEiT.
    """

    def __call__(self, model: nn.Module) -> Any:
        model = getattr(model, 'module', model)
        options = {**_DEFAULTS, **(self.paramwise_cfg or {})}
        if unknown := sorted(set(options) - set(_DEFAULTS)):
            raise ValueError(
                f'paramwise_cfg has {", ".join(unknown)}; '
                f'this constructor takes {", ".join(_DEFAULTS)}.'
            )
        rate = options['layer_decay_rate']
        if not 0 < rate <= 1:
            raise ValueError(f'layer_decay_rate={rate} is not in (0, 1]; 1.0 turns it off.')
        groups = self._groups(model, options)
        trainable = sum(p.numel() for g in groups for p in g['params'])
        total = sum(p.numel() for p in model.parameters())
        print_log(
            f'Training {trainable:,} of {total:,} parameters in {len(groups)} groups.', 'current'
        )
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': groups})
        wrapper = {'type': 'OptimWrapper', **self.optim_wrapper_cfg}
        return OPTIM_WRAPPERS.build(wrapper, default_args=dict(optimizer=optimizer))

    def _groups(self, model: nn.Module, options: dict[str, Any]) -> list[dict]:
        rate, full_rate_blocks = options['layer_decay_rate'], options['full_rate_blocks']
        encoder = getattr(model, 'backbone', None)
        depth_of = getattr(encoder, 'get_layer_depth', None)
        if depth_of is None and rate != 1:
            raise ValueError(
                f'layer_decay_rate={rate} needs a backbone with get_layer_depth(); '
                f'{type(encoder).__name__} has none: set layer_decay_rate=1.0.'
            )
        lr, weight_decay = self.base_lr, self.base_wd or 0.0
        groups: dict[tuple[float, float, bool], list] = defaultdict(list)
        for name, param in model.named_parameters():
            if not param.requires_grad:
                continue
            scale = 1.0
            inside = name.startswith('backbone.')
            if depth_of is not None and inside:
                depth, num_layers = depth_of(name, 'backbone.')
                below = num_layers - 1 - depth  # 1 for the last block
                if full_rate_blocks:
                    below = max(below - 1, 0) if below > full_rate_blocks else 0
                scale = rate**below
            plain = param.ndim == 1 or name.endswith('.bias')
            if not options['decay_positions']:
                plain |= name.rsplit('.', 1)[-1] in ('pos_embed', 'cls_token')
            decay = 0.0 if plain else weight_decay
            groups[scale, decay, inside and options['apart']].append(param)
        return [
            {
                'params': params,
                'lr': lr * scale,
                'lr_scale': scale,
                'weight_decay': decay,
                **({'encoder': inside} if options['apart'] else {}),
            }
            for (scale, decay, inside), params in sorted(groups.items(), key=lambda item: item[0])
        ]
