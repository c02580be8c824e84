"""``zero1``, ``zero2``, ``zero3``, ``zero3_offload``: DeepSpeed; the one place that imports it.

mmengine 0.10.7's ``DeepSpeedStrategy`` cannot be imported with DeepSpeed 0.19, ignores clipping,
accumulation and ``strict``, and reads nothing but DeepSpeed's own folders. This one is given a
model that has its weights and whose frozen parameters are out of the way, so that DeepSpeed never
sees them, and checkpoints are written by name as for every other strategy.
"""

import logging
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, nn
from torch import distributed as dist

from mmdet_seg.engine.strategies.base import BuildOptim, Strategy

if not torch.cuda.is_available():
    os.environ.setdefault('DS_ACCELERATOR', 'cpu')  # it warns where it has to guess
os.environ.setdefault('DS_SKIP_CUDA_CHECK', '1')
try:
    import deepspeed
except ImportError as error:
    raise ValueError(
        f"--strategy zero... needs DeepSpeed ({error}): pip install 'mmdet_seg[deepspeed]', or "
        'shard with --strategy fsdp.'
    ) from error

_BUCKET = 200_000_000  # elements that are reduced or gathered together, at most
_PERSISTENT = 100_000  # elements below which ZeRO-3 leaves a parameter whole


class Zero(Strategy):
    """DeepSpeed's ZeRO in float32; the precision of the forward pass is the model's matter.

    Args:
        stage: 1 shards optimizer states, 2 gradients too, 3 weights too.
        offload: Keep optimizer states (stage 3: weights too) in the host's memory.
        micro_batch: Images of one process in one step.
        accumulate: Steps per update.
        clip_norm: Largest norm of the gradient, 0 without limit.
        whole_blocks: Stage 3 gathers the encoder's blocks as wholes, as compiled ones need.
    """

    needs_group = True

    def __init__(
        self,
        stage: int,
        offload: bool = False,
        micro_batch: int = 1,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        whole_blocks: bool = False,
    ) -> None:
        self.stage, self.offload, self.whole_blocks = stage, offload, whole_blocks
        self.sharded = stage == 3
        self.settings = {
            'train_micro_batch_size_per_gpu': micro_batch,
            'gradient_accumulation_steps': accumulate,
            'gradient_clipping': clip_norm,
            'steps_per_print': 2**62,
            'zero_allow_untested_optimizer': True,
            'zero_force_ds_cpu_optimizer': False,  # theirs is compiled on first use
        }

    def _wrap(self, model: nn.Module, build_optim: BuildOptim) -> tuple[nn.Module, Any]:
        logging.getLogger('DeepSpeed').setLevel(logging.ERROR)
        _compile_nothing()
        built = build_optim(model)
        trained = sum(p.numel() for p in model.parameters())
        bucket = min(_BUCKET, trained)
        zero = {
            'stage': self.stage,
            'reduce_bucket_size': bucket,
            'allgather_bucket_size': bucket,
            'overlap_comm': torch.cuda.is_available(),
            'contiguous_gradients': True,
        }
        place = {'device': 'cpu', 'pin_memory': torch.cuda.is_available()}
        if self.offload:
            zero['offload_optimizer'] = place
        if self.stage == 3:
            zero['stage3_param_persistence_threshold'] = _PERSISTENT
            zero['stage3_prefetch_bucket_size'] = bucket
            if self.offload:
                zero['offload_param'] = place
        config = {**self.settings, 'zero_optimization': zero}
        if self.stage == 3:
            if self.whole_blocks:
                _gather_whole_blocks(model)
            # Left to itself, `initialize` would first move the whole model to the accelerator.
            remote = 'cpu' if self.offload else None
            pinned = place['pin_memory'] and self.offload
            deepspeed.zero.Init(
                model, config_dict_or_path=config, remote_device=remote, pin_memory=pinned
            )
        model.to(get_device())
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=built.optimizer,
            config=config,
            dist_init_required=False,
        )
        self._zero = self.engine.optimizer
        if self.stage == 3 and hasattr(model, 'roi_head'):
            self._keep_whole(model.roi_head)
        wrapper = ZeroOptimWrapper(self.engine, built)
        return ZeroModel(self.engine), wrapper

    def _keep_whole(self, part: nn.Module) -> None:
        """Take a part of the model out of the gathering of weights; gradients stay in shards.

        Which layers of a second stage run depends on the boxes of a process. One that gathers other
        weights than the rest, or in another order, waits for them for ever.
        """
        for module in part.modules():
            module._forward_pre_hooks.clear()
            module._forward_hooks.clear()
        parameters = [p for p in part.parameters() if not p.ds_persist]
        for parameter in parameters:
            parameter.ds_persist = True
        self._zero.persistent_parameters.extend(parameters)  # they are gathered after updates
        parameters = [*part.parameters()]
        parameters[0].all_gather(parameters)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self._zero.optimizer  # of the flat parts

    def shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        return tuple(getattr(parameter, 'ds_shape', parameter.shape))

    def whole(self, parameter: nn.Parameter) -> Tensor:
        if self.stage < 3:
            return parameter.detach()
        return self.whole_of_local(parameter, parameter.ds_tensor)

    @torch.no_grad()
    def set_whole(self, parameter: nn.Parameter, value: Tensor) -> None:
        if self.stage < 3:
            parameter.copy_(value)
            at = parameter._hp_mapping
            if at is not None:
                at.hp_fragment.copy_(self._cut(value, at.lp_fragment_address))
            return
        part = self.part_of_whole(parameter, value)
        parameter.ds_tensor.copy_(part)
        self._zero.set_local_hp_param(part, parameter)

    def local(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach() if self.stage < 3 else parameter.ds_tensor.detach()

    @torch.no_grad()
    def set_local(self, parameter: nn.Parameter, value: Tensor) -> None:
        self.local(parameter).copy_(value)
        # Small parameters lie beside their parts in whole, and that is what the layers use.
        if self.stage == 3 and parameter.numel() == parameter.ds_numel:
            parameter.data.copy_(self.whole_of_local(parameter, parameter.ds_tensor))

    def whole_of_local(self, parameter: nn.Parameter, part: Tensor) -> Tensor:
        if self.stage < 3:
            return part
        part = part.detach().to(self.engine.device).contiguous().view(-1)
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part)
        return torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)

    def part_of_whole(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        if self.stage < 3:
            return value
        size = parameter.ds_tensor.numel()
        padded = value.new_zeros(size * dist.get_world_size())
        padded[: value.numel()] = value.reshape(-1)
        part = padded[dist.get_rank() * size :][:size]
        return part.to(parameter.ds_tensor.device).view_as(parameter.ds_tensor)

    def _flat(self, parameter: nn.Parameter) -> Tensor | None:
        """The optimizer's own tensor in which (a part of) a parameter lies in this process."""
        if self.stage == 3:
            group, _, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
            return self._zero.fp32_partitioned_groups_flat[group]
        at = parameter._hp_mapping
        return None if at is None else self._zero.single_partition_of_fp32_groups[_group(at)]

    def _keys(self, wanted: Callable[[Any, nn.Parameter], bool]) -> list[str]:
        found = [super()._keys(wanted)]
        every = [None] * dist.get_world_size()  # a process may hold no part of anything
        dist.all_gather_object(every, found[0])
        return list(dict.fromkeys(k for keys in every for k in keys))

    def whole_state(self, parameter: nn.Parameter, key: str) -> Tensor:
        flat = self._flat(parameter)
        state = {} if flat is None else self._optimizer.state.get(flat, {})
        if self.stage == 3:
            _, start, length = self._zero.grad_position[self._zero.get_param_id(parameter)]
            part = state[key][start : start + length] if key in state else None
            if part is None:
                part = torch.zeros_like(parameter.ds_tensor)
            return self.whole_of_local(parameter, part)
        # DeepSpeed 0.19's own accessor knows the states of the first group only.
        whole = torch.zeros(parameter.numel(), device=parameter.device)
        if key in state:
            at = parameter._hp_mapping
            fragment = self._cut(state[key], at.hp_fragment_address)
            self._cut(whole, at.lp_fragment_address).copy_(fragment)
        dist.all_reduce(whole)
        return whole.view_as(parameter)

    def scalar(self, parameter: nn.Parameter, key: str) -> float:
        flat = self._flat(parameter)
        state = {} if flat is None else self._optimizer.state.get(flat, {})
        value = torch.tensor(float(state.get(key, 0.0)))
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value.item()

    @torch.no_grad()
    def load_states(
        self, tensors: Callable[[str, str], Tensor], keys: list[str], scalars: dict[str, dict]
    ) -> None:
        for name, parameter in self.trained.items():
            flat = self._flat(parameter)
            if flat is None:
                continue
            state = self._optimizer.state[flat]
            for key in keys:
                target = state.setdefault(key, torch.zeros_like(flat))
                self._fill(parameter, target, tensors(name, key))
            for key, values in scalars.items():
                state[key] = self._scalar_tensor(flat, values[name])

    def _fill(self, parameter: nn.Parameter, target: Tensor, value: Tensor) -> None:
        if self.stage == 3:
            _, start, length = self._zero.grad_position[self._zero.get_param_id(parameter)]
            part = self.part_of_whole(parameter, value).reshape(-1)
            target[start : start + length] = part[:length]
            return
        at = parameter._hp_mapping
        fragment = self._cut(value.reshape(-1), at.lp_fragment_address)
        self._cut(target, at.hp_fragment_address).copy_(fragment)

    @staticmethod
    def _cut(flat: Tensor, address: Any) -> Tensor:
        return flat.view(-1).narrow(0, address.start, address.numel)


@MODEL_WRAPPERS.register_module()
class ZeroModel:
    """A DeepSpeed engine with mmengine's ``train_step``, ``val_step`` and ``test_step``."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.module = engine.module

    def __getattr__(self, name: str) -> Any:
        if name in ('engine', 'module'):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.module, name)

    def train(self, mode: bool = True) -> 'ZeroModel':
        self.engine.train(mode)
        return self

    def eval(self) -> 'ZeroModel':
        return self.train(False)

    def train_step(self, data: Any, optim_wrapper: 'ZeroOptimWrapper') -> dict[str, Tensor]:
        with optim_wrapper.optim_context(self.module):
            data = self.module.data_preprocessor(data, True)
            losses = self.engine(**data, mode='loss')
        loss, log_vars = self.module.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data: Any) -> list:
        return self.module.val_step(data)

    def test_step(self, data: Any) -> list:
        return self.module.test_step(data)


class ZeroOptimWrapper(OptimWrapper):
    """Backward pass and update through the engine; the precision is that of the config's wrapper.

    Args:
        engine: DeepSpeed's.
        built: The wrapper that the config describes, around the optimizer that DeepSpeed took over.
    """

    def __init__(self, engine: Any, built: Any) -> None:
        self.optimizer = engine.optimizer  # not super(): DeepSpeed's has no `defaults`
        self.engine, self.built = engine, built
        self.base_param_settings = built.base_param_settings

    @property
    def defaults(self) -> dict[str, Any]:
        return self.built.optimizer.defaults

    def optim_context(self, model: nn.Module) -> Any:
        return self.built.optim_context(model)

    def update_params(self, loss: Tensor, **kwargs: Any) -> None:
        self.engine.backward(loss)
        update = self.engine.is_gradient_accumulation_boundary()
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if update else None
        if norm is not None and math.isfinite(norm):
            hub = MessageHub.get_current_instance()
            hub.update_scalar('train/grad_norm', float(norm))

    def initialize_count_status(self, model: nn.Module, done: int, total: int) -> None:
        """Accumulation is counted by the engine, from the start or the resumed step."""

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self.engine.backward(loss)

    def step(self, **kwargs: Any) -> None:
        self.engine.step()

    def zero_grad(self, **kwargs: Any) -> None:
        self.engine.zero_grad()


def _group(mapping: Any) -> int:
    return mapping.param_group_index


def _gather_whole_blocks(model: nn.Module) -> None:
    """No hooks inside of blocks, where a compiled one would not run them.

    Raises:
        ValueError: Weights of blocks train while nothing before them does: DeepSpeed 0.19 would let
            go of a block's weights before its backward pass.
    """
    names = [name for name, _ in model.named_parameters() if name.startswith('backbone.')]
    if names and all('.blocks.' in name for name in names):
        raise ValueError(
            'compile_blocks with zero3 needs an encoder that trains from its stem on: leave '
            'compile_blocks out, or choose --strategy fsdp or zero2.'
        )
    for kind in {type(block) for block in getattr(model.backbone, 'blocks', ())}:
        deepspeed.utils.set_z3_leaf_modules(model, [kind])


def _compile_nothing() -> None:
    """DeepSpeed would build a shared-memory all-reduce with the host's compiler on the CPU."""
    operators = deepspeed.ops.__compatible_ops__
    for name in operators:
        if 'shm' in name:
            operators[name] = False
