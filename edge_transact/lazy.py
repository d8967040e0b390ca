"""The names of `edge_transact` that load on first use, some of which are packages, too.

``edge_transact.prune`` is a package with modules in it, and what a caller wants to call. Python binds a package to its
parent whenever any of its modules is imported, which would take the place of a function of that name. So the package
itself can be called, see "Customizing module attribute access" in Python's reference of the data model.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

API = "edge_transact.api"

MODULES = {
    **dict.fromkeys(("bench", "build", "bundle", "evaluate", "export", "heal", "inspect", "load", "prune"), API),
    "BenchOptions": "edge_transact.bench.options",
    "BenchOutcome": "edge_transact.bench.session",
    "Budget": "edge_transact.prune.options",
    "Build": "edge_transact.build.dist",
    "BuildOptions": "edge_transact.build.options",
    "Checkpoint": "edge_transact.checkpoint",
    "EdgeTransactError": "edge_transact.errors",
    "Evaluations": "edge_transact.evaluate.evaluations",
    "HealOptions": "edge_transact.heal.options",
    "HealResult": "edge_transact.heal.run",
    "Inspection": "edge_transact.inspection",
    "LayerWidths": "edge_transact.widths",
    "PruneOptions": "edge_transact.prune.options",
    "PruneResult": "edge_transact.prune.run",
    "Session": "edge_transact.runtime.session",
    "UsageError": "edge_transact.errors",
    "WidthPlan": "edge_transact.widths",
}
"""Each name, and the module that has it."""


class Package(ModuleType):
    """`edge_transact` itself: the packages in it that are named as one of the functions can be called as it."""

    def __setattr__(self, name: str, value: object) -> None:
        if MODULES.get(name) == API and isinstance(value, ModuleType):
            value.__class__ = CallablePackage
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in MODULES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(MODULES[name]), name)
        # Of a function's name, its package, if there is one, is what Python would bind here later.
        return self.__dict__.get(name, value)

    def __dir__(self) -> list[str]:
        return sorted((*MODULES, "__version__"))


class CallablePackage(ModuleType):
    # Called as the function of its name, with whose signature and docstring editors and notebooks show it.

    @property
    def _function(self) -> Any:
        return getattr(import_module(API), self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Any:
        from inspect import signature

        return signature(self._function)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self._function.__doc__

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)
