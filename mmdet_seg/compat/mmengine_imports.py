"""mmengine imports large packages whenever they are installed, used or not.

DeepSpeed: ``mmengine._strategy.deepspeed`` needs ``deepspeed.runtime.fp16.onebit``, which DeepSpeed
0.19 no longer has, so its ``DeepSpeedStrategy`` cannot be made; the import alone costs every
command three seconds and a warning. Ours (:mod:`mmdet_seg.engine.strategies.zero`) imports
DeepSpeed when a run asks for it.

transformers: ``mmengine.optim.optimizer.builder`` takes one optimizer from it, Adafactor (PyTorch
has its own, registered as TorchAdafactor). That brings in peft and torchao: seven seconds for every
command, and their warnings.

Can be deleted when mmengine imports them on use (0.10.7 does not).
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_WITHOUT = {
    'mmengine._strategy.deepspeed': 'deepspeed',
    'mmengine.optim.optimizer.builder': 'transformers',
}


class WithoutLargePackages(MetaPathFinder):
    """Lets modules of mmengine believe that a package is not installed while they are imported."""

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The others' spec of mmengine's module, its loader wrapped; None for any other module."""
        if fullname not in _WITHOUT:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Blocking(spec.loader, _WITHOUT[fullname])
                return spec
        return None


class _Blocking(Loader):
    def __init__(self, loader: Loader, package: str) -> None:
        self.loader, self.package = loader, package

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        absent = object()
        found = sys.modules.get(self.package, absent)
        sys.modules[self.package] = None  # makes the import statement raise ImportError
        try:
            self.loader.exec_module(module)
        finally:
            if found is absent:
                del sys.modules[self.package]
            else:
                sys.modules[self.package] = found
