"""Where weights, gradients and optimizer states live: one process, replicas, or shards."""

from mmengine.config import Config

from mmdet_seg.engine.launch import num_processes
from mmdet_seg.engine.strategies.base import Strategy

NAMES = ('single', 'ddp', 'zero1', 'zero2', 'zero3', 'zero3_offload', 'fsdp')

__all__ = ['NAMES', 'Strategy', 'build_strategy']


def build_strategy(cfg: Config) -> Strategy:
    """The strategy that ``cfg.strategy`` names: without one, ``ddp`` for several processes.

    Raises:
        ValueError: No such strategy, ``single`` in several processes, or a setting of the optimizer
            wrapper that the strategy does not know.
    """
    world = num_processes()
    name = cfg.get('strategy') or ('single' if world == 1 else 'ddp')
    if name not in NAMES:
        raise ValueError(f'--strategy {name}: there are {", ".join(NAMES)}.')
    accumulate = cfg.optim_wrapper.get('accumulative_counts', 1)
    steps = cfg.train_cfg.get('max_iters')
    if steps and steps % accumulate:
        raise ValueError(
            f'max_iters={steps} is not a multiple of accumulative_counts={accumulate}: the last '
            f'gradients would be lost; {steps - steps % accumulate} is.'
        )
    if name not in ('single', 'ddp') and 'AmpOptimWrapper' in str(cfg.optim_wrapper.get('type')):
        raise ValueError(
            f'optim_wrapper.type=AmpOptimWrapper scales losses, which --strategy {name} does not; '
            'set it to AutocastOptimWrapper (bfloat16 needs no scale) or choose ddp.'
        )
    if name == 'single':
        if world > 1:
            raise ValueError(
                f'--strategy single runs in one process, not in {world}: leave torchrun out, or '
                'choose ddp.'
            )
        return Strategy()
    if name == 'ddp':
        from mmdet_seg.engine.strategies.replicated import Replicated

        return Replicated(cfg.get('find_unused_parameters', False))
    if name == 'fsdp':
        from mmdet_seg.engine.strategies.fsdp import FullyShard

        return FullyShard()
    from mmdet_seg.engine.strategies.zero import Zero

    return Zero(
        stage=int(name[4]),
        offload=name.endswith('offload'),
        micro_batch=cfg.train_dataloader.batch_size,
        accumulate=accumulate,
        clip_norm=_clip_norm(cfg, name),
        whole_blocks=bool(cfg.get('compile_blocks')),
    )


def _clip_norm(cfg: Config, name: str) -> float:
    clip = dict(cfg.optim_wrapper.get('clip_grad') or {})
    if not clip:
        return 0.0
    if clip.pop('type', 'norm') != 'norm' or clip.pop('norm_type', 2) != 2:
        raise ValueError(
            f'--strategy {name} clips by the 2-norm only; set '
            'optim_wrapper.clip_grad=dict(max_norm=...) or choose ddp.'
        )
    if 'max_norm' not in clip:
        raise ValueError('optim_wrapper.clip_grad needs max_norm, as dict(max_norm=0.1).')
    return float(clip['max_norm'])
