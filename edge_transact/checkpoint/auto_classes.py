"""``edge_llama`` checkpoints in transformers' Auto classes, and their layers' names in peft."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

MODEL_TYPE = "edge_llama"
CONFIG_CLASS = "EdgeLlamaConfig"
AUTO_MODELS = {
    "AutoModel": ("EdgeLlamaModel", "MODEL_MAPPING_NAMES"),
    "AutoModelForCausalLM": ("EdgeLlamaForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "AutoModelForSequenceClassification": (
        "EdgeLlamaForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    ),
    "AutoModelForQuestionAnswering": ("EdgeLlamaForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES"),
    "AutoModelForTokenClassification": (
        "EdgeLlamaForTokenClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    ),
}
"""Our class of each of transformers' Auto classes, and the table of names in which Trainer looks for it."""


def register() -> None:
    """Lets the Auto classes load ``edge_llama`` checkpoints.

    Importing our classes takes seconds, with torch. If the Auto classes aren't imported yet, only the name goes into
    their table: transformers looks for that class in ``transformers.models.edge_llama`` when it meets a checkpoint.
    """
    sys.modules[f"transformers.models.{MODEL_TYPE}"] = sys.modules[__name__]
    if "transformers.models.auto.configuration_auto" in sys.modules:
        _register_classes()
        return
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

    CONFIG_MAPPING_NAMES[MODEL_TYPE] = CONFIG_CLASS


def __getattr__(name: str) -> Any:
    if name == CONFIG_CLASS:
        return _register_classes()
    if name in (model for model, _ in AUTO_MODELS.values()):
        from edge_transact.checkpoint import modeling_edge_llama

        return getattr(modeling_edge_llama, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _register_classes() -> type:
    import transformers
    from transformers.models.auto import modeling_auto

    from edge_transact.checkpoint import modeling_edge_llama
    from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig

    transformers.AutoConfig.register(MODEL_TYPE, EdgeLlamaConfig, exist_ok=True)
    for auto_class, (name, table) in AUTO_MODELS.items():
        getattr(transformers, auto_class).register(EdgeLlamaConfig, getattr(modeling_edge_llama, name), exist_ok=True)
        getattr(modeling_auto, table)[MODEL_TYPE] = name
    if find_spec("peft"):
        from peft.utils import constants

        # LoRA and peft's other methods change LLaMA's modules by default, and ours have the same names.
        for table in vars(constants).values():
            if isinstance(table, dict) and "llama" in table:
                table[MODEL_TYPE] = table["llama"]
    return EdgeLlamaConfig
