"""mmengine imports DeepSpeed whenever it is installed, and then fails.

``mmengine._strategy.deepspeed`` needs ``deepspeed.runtime.fp16.onebit``, which DeepSpeed 0.19 no
longer has, so its ``DeepSpeedStrategy`` cannot be made; the import alone costs every command three
seconds and a warning. Ours (:mod:`mmdet_seg.engine.strategies.zero`) imports DeepSpeed when a run
asks for it. Can be deleted when mmengine imports it on use (0.10.7 does not).
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_NAME = 'mmengine._strategy.deepspeed'


class WithoutDeepSpeed(MetaPathFinder):
    """Lets mmengine's module believe that DeepSpeed is not installed while it is imported."""

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The others' spec of mmengine's module, its loader wrapped; None for any other module."""
        if fullname != _NAME:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Blocking(spec.loader)
                return spec
        return None


class _Blocking(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        absent = object()
        found = sys.modules.get('deepspeed', absent)
        sys.modules['deepspeed'] = None  # makes the import statement raise ImportError
        try:
            self.loader.exec_module(module)
        finally:
            if found is absent:
                del sys.modules['deepspeed']
            else:
                sys.modules['deepspeed'] = found
