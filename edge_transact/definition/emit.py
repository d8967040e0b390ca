"""Renders the definition's files for a plan, and executes the model file that it renders, never one from disk."""

from __future__ import annotations

import hashlib
import linecache
import sys
import weakref
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from types import ModuleType

from edge_transact.architecture.matrices import ATTENTION_INPUTS, DOWN, MLP_INPUTS, OUTPUT
from edge_transact.artifacts.templates import template
from edge_transact.definition.loaded import Definition
from edge_transact.errors import EdgeTransactError
from edge_transact.widths import LayerWidths, WidthPlan

MODEL_TYPE = "edge_llama"
"""The architecture's name in config.json, in MLC's registry and in a library's metadata."""

MODEL_FILE = "edge_llama_model.py"
FILES = (MODEL_FILE, "edge_llama_loader.py", "edge_llama_register.py", "__init__.py")


def render(plan: WidthPlan) -> dict[str, str]:
    """The definition's package, file name to text: the model, with the plan's widths; the loader; the registration.

    An `EdgeTransactError` if the definition has no form of what the model's layers compute.
    """
    if plan.window_layers or plan.embedding_multiplier != 1 or plan.query_pre_attn_scalar != plan.head_dim:
        raise EdgeTransactError(
            "libraries of models with sliding windows or scaled embeddings, such as Gemma 3, can't be built yet",
            fix="Use the model in transformers, or in llama.cpp by `edge-transact export`.",
        )
    roles = {"attention_inputs": ATTENTION_INPUTS, "attention_output": [OUTPUT], "mlp_inputs": MLP_INPUTS}
    roles["mlp_output"] = [DOWN]
    names = {role: [matrix.name.rpartition(".")[2] for matrix in matrices] for role, matrices in roles.items()}
    context = {"plan": plan, "runs": list(_runs(plan)), "model_type": MODEL_TYPE, **names}
    return {name: template(f"{name}.j2").render(context) for name in FILES}


def _runs(plan: WidthPlan) -> Iterator[dict[str, str | LayerWidths]]:
    """Runs of layers with the same widths, the rows of the emitted table."""
    start = 0
    for widths, layers in groupby(plan.layers):
        end = start + len(list(layers)) - 1
        yield {"layers": f"{start}" if start == end else f"{start}-{end}", "widths": widths}
        start = end + 1


def load(plan: WidthPlan, config: Mapping[str, object]) -> Definition:
    """The model file of a plan, executed, with a config.json that has the library's sizes.

    An `EdgeTransactError` if that contradicts itself or the plan.
    """
    module = _executed(render(plan)[MODEL_FILE])
    try:
        return Definition(module, module.EdgeLlamaConfig.from_dict(config))
    except (TypeError, ValueError) as error:
        raise EdgeTransactError(f"config.json: {error}", fix="Prune the model again.") from error


@lru_cache(maxsize=8)
def _executed(text: str) -> ModuleType:
    """The module of a model file. Processes that build many models keep the latest alone."""
    name = f"edge_transact_emitted_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    file, module = f"<{name}>", ModuleType(name)
    # TVM's parser and tracebacks find the source there.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    weakref.finalize(module, linecache.cache.pop, file, None)
    sys.modules[name] = module  # dataclasses look up their module
    try:
        exec(compile(text, file, "exec"), vars(module))
    finally:
        del sys.modules[name]
    return module
