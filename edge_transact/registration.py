"""Registers ``edge_llama`` checkpoints with transformers' Auto classes and with peft, without importing either.

``AutoConfig.register`` and ``AutoModelForCausalLM.register`` would do, but the Auto modules import torch: seconds that
every ``import edge_transact``, and so every start of the command line, would pay. transformers has no plugin entry
points either. So a finder on `sys.meta_path` waits until the Auto modules are imported, and adds our names to their
tables. transformers looks the names up in ``transformers.models.edge_llama`` when it first needs a class; this module
stands in for that one. (Registering the classes at that moment would import LLaMA in the middle of its own import.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

AUTO_MODELS = {
    "AutoModel": ("MODEL_MAPPING_NAMES", "EdgeLlamaModel"),
    "AutoModelForCausalLM": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "EdgeLlamaForCausalLM"),
    "AutoModelForSequenceClassification": (
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        "EdgeLlamaForSequenceClassification",
    ),
    "AutoModelForQuestionAnswering": ("MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", "EdgeLlamaForQuestionAnswering"),
    "AutoModelForTokenClassification": (
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
        "EdgeLlamaForTokenClassification",
    ),
}
"""transformers' Auto classes: the table in which each looks names up, and the class that it loads."""

_MODEL_TYPE = "edge_llama"
_CONFIG_CLASS = "EdgeLlamaConfig"
_CLASSES = {_CONFIG_CLASS: "edge_transact.checkpoint.configuration_edge_llama"} | {
    name: "edge_transact.checkpoint.modeling_edge_llama" for _, name in AUTO_MODELS.values()
}
_CONFIGURATION_AUTO = "transformers.models.auto.configuration_auto"
_MODELING_AUTO = "transformers.models.auto.modeling_auto"
_PEFT = "peft.utils.constants"


def __getattr__(name: str) -> type:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_CLASSES[name]), name)


def _add_configuration(module: ModuleType) -> None:
    module.CONFIG_MAPPING_NAMES[_MODEL_TYPE] = _CONFIG_CLASS


def _add_models(module: ModuleType) -> None:
    for table, name in AUTO_MODELS.values():
        getattr(module, table)[_MODEL_TYPE] = name


def _add_targets(module: ModuleType) -> None:
    """The modules that LoRA and peft's other methods change by default: LLaMA's, which have the same names."""
    for table in vars(module).values():
        if isinstance(table, dict) and "llama" in table:
            table[_MODEL_TYPE] = table["llama"]


_AFTER_IMPORT: dict[str, Callable[[ModuleType], None]] = {
    _CONFIGURATION_AUTO: _add_configuration,
    _MODELING_AUTO: _add_models,
    _PEFT: _add_targets,
}


class _Finder:
    """A finder of the modules in `_AFTER_IMPORT`, which adds our names to them after they execute."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in _AFTER_IMPORT else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_add(module: ModuleType) -> None:
            execute(module)
            _AFTER_IMPORT[name](module)

        spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
        return spec


def register_auto_classes() -> None:
    """Makes the Auto classes load ``edge_llama`` checkpoints and peft know their modules, imported now or later."""
    sys.modules.setdefault(f"transformers.models.{_MODEL_TYPE}", sys.modules[__name__])
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    for name in (_CONFIGURATION_AUTO, _PEFT):
        if module := sys.modules.get(name):
            _AFTER_IMPORT[name](module)
    if auto := sys.modules.get(_MODELING_AUTO):
        # Too late for names: this module has already inverted the table of configurations.
        for auto_class, (_, name) in AUTO_MODELS.items():
            getattr(auto, auto_class).register(__getattr__(_CONFIG_CLASS), __getattr__(name), exist_ok=True)
