"""Where stand-ins enter Python's import system.

Imports nothing heavy: what a hook leads to is imported when the module it is for is.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType


class StandInFinder(MetaPathFinder):
    """Finds modules that are not installed in a package of ours.

    Belongs at the end of ``sys.meta_path``: a module that is installed is found before, and this
    finder is never asked for it.

    Args:
        stand_ins: Name of the absent module -> module of ours that holds its content.
    """

    def __init__(self, stand_ins: dict[str, str]) -> None:
        self.stand_ins = stand_ins

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Spec of a stand-in, None for any other module."""
        source = self.stand_ins.get(fullname)
        if source is None:
            return None
        return spec_from_loader(fullname, _StandInLoader(source), origin=source)


class _StandInLoader(Loader):
    """Fills a module with the public names of another."""

    def __init__(self, source: str) -> None:
        self.source = source

    def exec_module(self, module: ModuleType) -> None:
        content = import_module(self.source)
        module.__doc__ = content.__doc__
        module.__all__ = list(content.__all__)
        for name in content.__all__:
            setattr(module, name, getattr(content, name))
        if hasattr(content, '__getattr__'):
            module.__getattr__ = content.__getattr__


class AfterImport(MetaPathFinder):
    """Runs a function on a module right after its first import.

    Belongs at the front of ``sys.meta_path``; it leaves finding and loading to the others.

    Args:
        name: The module.
        action: Called with it.
    """

    def __init__(self, name: str, action: Callable[[ModuleType], None]) -> None:
        self.name = name
        self.action = action

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The others' spec of the module, its loader wrapped; None for any other module."""
        if fullname != self.name:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ActingLoader(spec.loader, self.action)
                return spec
        return None


class _ActingLoader(Loader):
    """Loads with another loader, hands the module back to it, then acts on the module."""

    def __init__(self, loader: Loader, action: Callable[[ModuleType], None]) -> None:
        self.loader = loader
        self.action = action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.action(module)

    def __getattr__(self, name: str) -> object:
        """What else a loader can do (``get_source``, ``is_package``), the other one does."""
        return getattr(self.loader, name)
