"""Opens a checkpoint or a DIST for export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from pydantic import BaseModel, Field, PositiveInt

from edge_transact import costs
from edge_transact.artifacts.dist_files import CHAT_CONFIG, MANIFEST, MODEL_FILES
from edge_transact.artifacts.manifest import Manifest
from edge_transact.artifacts.outputs import scratch_directory
from edge_transact.building.dist import definition_config, takes_trained
from edge_transact.building.options import BuildOptions
from edge_transact.building.stages import Rounding, place_weights
from edge_transact.cache.sources import source_of
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import ROPE_PAIRS
from edge_transact.checkpoint.schema import Configuration, Number, Rope
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.definition import load
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.exporting.tensors import CheckpointTensors, ShardTensors, Tensors
from edge_transact.gguf import layout, q4_0
from edge_transact.inputs.models import resolve_model
from edge_transact.layerwise.options import CalibrationOptions
from edge_transact.quantization import get_quantization
from edge_transact.reading import checked, read_object
from edge_transact.runtimes import gguf_architecture
from edge_transact.weights import ShardReader
from edge_transact.weights.trained import TRAINED
from edge_transact.widths import WidthPlan

QUANTIZATION = "q4f16_0"
"""A checkpoint exported as Q4_0 gets this quantization's codes and scales, which `build` uses for phones."""


@dataclass(frozen=True)
class Model:
    """A model to export; `source` is the MODEL, or that of the DIST, and `kind` the type of most matrices."""

    source: str
    directory: Path
    config: Mapping[str, Any]
    plan: WidthPlan
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None
    context_length: int
    rope_pairs: Sequence[np.ndarray]
    kind: Kind
    places: Mapping[str, layout.Place]
    tensors: Tensors

    @property
    def whole(self) -> WidthPlan:
        """The widths that llama.cpp computes with."""
        return layout.computed(self.plan)

    @property
    def architecture(self) -> str:
        return gguf_architecture(self.plan)[0]

    @property
    def rms_norm_eps(self) -> float:
        return float(self.config.get("rms_norm_eps", 1e-6))  # transformers' default


@contextmanager
def open_model(model: str, kind: str | None) -> Iterator[Model]:
    """Opens a MODEL or a DIST for the body of a ``with``.

    `kind` is one of `options.KINDS`; `None` for ``f16``, or for the DIST's own: another one is a `UsageError`.
    """
    if (Path(model) / MANIFEST).is_file():
        yield _dist(Path(model), kind)
        return
    wanted = Kind[(kind or "f16").upper()]
    checkpoint = Checkpoint.open(resolve_model(model))
    _require_loadable(model, checkpoint.plan, checkpoint.rope_scaling)
    _require_groups(model, checkpoint.plan, wanted)
    pairs = [checkpoint.rope_pairs(index).numpy() for index in range(len(checkpoint.plan.layers))]
    places = layout.places(checkpoint.plan, pairs)
    with scratch_directory() as scratch:
        tensors: Tensors = CheckpointTensors(checkpoint, places, wanted)
        if wanted == Kind.Q4_0:
            tensors = _quantized(checkpoint, scratch, places)
        yield Model(
            source=model,
            directory=checkpoint.path,
            config=checkpoint.config,
            plan=checkpoint.plan,
            rope_theta=checkpoint.rope_theta,
            rope_scaling=checkpoint.rope_scaling,
            context_length=checkpoint.config.get("max_position_embeddings") or costs.DEFAULT_CONTEXT,
            rope_pairs=pairs,
            kind=wanted,
            places=places,
            tensors=tensors,
        )


def _quantized(checkpoint: Checkpoint, directory: Path, places: Mapping[str, layout.Place]) -> Tensors:
    """A checkpoint's tensors as `build` quantizes them, from the cache if possible."""
    sizes = {"context_window_size": 1, "prefill_chunk_size": 1, "max_batch_size": 1}  # weights don't depend on them
    definition = load(checkpoint.plan, definition_config(checkpoint, sizes))
    quantization = get_quantization(QUANTIZATION)
    rounding = TRAINED if takes_trained(checkpoint, quantization, BuildOptions()) else "search"
    place_weights(checkpoint, definition, quantization, Rounding(rounding, CalibrationOptions()), directory)
    return ShardTensors(ShardReader(directory), definition.parameter_sources(), quantization, checkpoint.plan, places)


def _dist(directory: Path, kind: str | None) -> Model:
    manifest = Manifest.read(directory)
    manifest.verify(directory, *MODEL_FILES, CHAT_CONFIG, PROVENANCE_FILE)
    plan, quantization = manifest.plan, get_quantization(manifest.quantization)
    stored = Kind.F16 if quantization.model_dtype == "float16" else Kind.BF16
    if quantization.grid == q4_0.GRID:
        stored = Kind.Q4_0
    if kind is not None and Kind[kind.upper()] != stored:
        raise UsageError(
            f"{directory} was built as {quantization.name}, which is {stored.name} in GGUF, not {kind}",
            fix="Leave out --type, or export the checkpoint it was built from.",
        )
    _require_groups(str(directory), plan, stored)
    path = directory / CHAT_CONFIG
    config = read_object(path)
    checked(_ChatConfig, config, path, "Build the model again.")
    model_config = config["model_config"]
    _require_loadable(str(directory), plan, model_config["rope_scaling"])
    # Never from the DIST's own Python: a DIST to export is data.
    definition = load(plan, {**model_config, "num_hidden_layers": plan.num_hidden_layers})
    reader = ShardReader(directory, verified=True)
    pairs = [_stored_pairs(reader, plan, index) for index in range(len(plan.layers))]
    places = layout.places(plan, pairs)
    return Model(
        source=source_of(directory / MANIFEST, manifest.source),
        directory=directory,
        config=_config(config, manifest),
        plan=plan,
        rope_theta=model_config["rope_theta"],
        rope_scaling=model_config["rope_scaling"],
        context_length=manifest.context_window_size,
        rope_pairs=pairs,
        kind=stored,
        places=places,
        tensors=ShardTensors(reader, definition.parameter_sources(), quantization, plan, places),
    )


class _ModelConfig(Configuration):
    rope_theta: Number
    rope_scaling: Rope | None
    context_window_size: PositiveInt
    prefill_chunk_size: PositiveInt
    max_batch_size: PositiveInt
    tensor_parallel_shards: PositiveInt


class _ChatConfig(BaseModel):
    """The fields of a DIST's ``mlc-chat-config.json`` that a GGUF file gets."""

    of_model: _ModelConfig = Field(alias="model_config")
    bos_token_id: int
    eos_token_id: int | list[int]
    pad_token_id: int


def _config(chat_config: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """As much of ``config.json`` as a DIST holds."""
    model_config = chat_config["model_config"]
    ours = ("rope_theta", "rope_scaling", "prefill_chunk_size", "max_batch_size", "tensor_parallel_shards")
    rope = {"rope_type": "default", **(model_config["rope_scaling"] or {}), "rope_theta": model_config["rope_theta"]}
    return {
        **{key: value for key, value in model_config.items() if key not in (*ours, "context_window_size")},
        "model_type": "edge_llama",
        "max_position_embeddings": manifest.context_window_size,
        "rope_parameters": rope,
        **{name: chat_config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }


def _stored_pairs(reader: ShardReader, plan: WidthPlan, index: int) -> np.ndarray:
    layer = plan.layers[index]
    if plan.has_rope_pairs(layer):
        return reader.array(f"model.layers.{index}.{ROPE_PAIRS}.indices")
    return np.tile(np.arange(plan.head_dim // 2, dtype=np.int32), (layer.num_key_value_heads, 1))


def _require_loadable(model: str, plan: WidthPlan, rope_scaling: Mapping[str, Any] | None) -> None:
    architecture, misfit = gguf_architecture(plan)
    fixed = {"beta_fast": 32, "beta_slow": 1, "truncate": True}  # no GGUF key changes them in these architectures
    scaling = rope_scaling or {}
    for name, value in fixed.items() if scaling.get("rope_type") == "yarn" else ():
        if (own := scaling.get(name)) not in (None, value):
            misfit = misfit or f"its YaRN has {name} {value}, and this model's {own}"
    if misfit:
        raise EdgeTransactError(
            f"{model}: llama.cpp's {architecture} can't load it: {misfit}", fix="Use it in MLC-LLM, or cut it that way."
        )


def _require_groups(model: str, plan: WidthPlan, kind: Kind) -> None:
    """Refuses a type in groups if most matrices can't be stored in it."""
    size, _ = GGML_QUANT_SIZES[kind]
    if plan.hidden_size % size:
        raise EdgeTransactError(
            f"{model}: {kind.name} stores groups of {size}, but the hidden size is {plan.hidden_size}",
            fix="Export the checkpoint with --type f16.",
        )
