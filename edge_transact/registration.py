"""Registers ``edge_llama`` checkpoints with transformers' Auto classes, without importing transformers.

``AutoConfig.register`` and ``AutoModelForCausalLM.register`` would do, but the Auto modules import torch: seconds that
every ``import edge_transact``, and so every start of the command line, would pay. transformers has no plugin entry
points either. So a finder on `sys.meta_path` waits until the Auto modules are imported, and adds our names to their
tables. transformers looks the names up in ``transformers.models.edge_llama`` when it first needs a class; this module
stands in for that one. (Registering the classes at that moment would import LLaMA in the middle of its own import.)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_MODEL_TYPE = "edge_llama"
_CONFIG_CLASS, _MODEL_CLASS = "EdgeLlamaConfig", "EdgeLlamaForCausalLM"
_CLASSES = {
    _CONFIG_CLASS: "edge_transact.checkpoint.configuration_edge_llama",
    _MODEL_CLASS: "edge_transact.checkpoint.modeling_edge_llama",
}
_CONFIGURATION_AUTO = "transformers.models.auto.configuration_auto"
_MODELING_AUTO = "transformers.models.auto.modeling_auto"
_TABLES = {
    _CONFIGURATION_AUTO: ("CONFIG_MAPPING_NAMES", _CONFIG_CLASS),
    _MODELING_AUTO: ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", _MODEL_CLASS),
}


def __getattr__(name: str) -> type:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_CLASSES[name]), name)


def _add_name(module: ModuleType) -> None:
    table, class_name = _TABLES[module.__name__]
    getattr(module, table)[_MODEL_TYPE] = class_name


class _AutoClassFinder:
    """A finder of transformers' two Auto modules, which adds our names to them after they execute."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in _TABLES else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_add(module: ModuleType) -> None:
            execute(module)
            _add_name(module)

        spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
        return spec


def register_auto_classes() -> None:
    """Makes ``AutoConfig`` and ``AutoModelForCausalLM`` load ``edge_llama`` checkpoints, whenever they are imported."""
    sys.modules.setdefault(f"transformers.models.{_MODEL_TYPE}", sys.modules[__name__])
    if _AutoClassFinder not in sys.meta_path:
        sys.meta_path.insert(0, _AutoClassFinder)
    if auto := sys.modules.get(_CONFIGURATION_AUTO):
        _add_name(auto)
    if auto := sys.modules.get(_MODELING_AUTO):
        # Too late for names: this module has already inverted the table of configurations.
        auto.AutoModelForCausalLM.register(__getattr__(_CONFIG_CLASS), __getattr__(_MODEL_CLASS), exist_ok=True)
