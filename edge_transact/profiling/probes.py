"""Probes: small models in the shape of a user's, whose layers differ by one width, built as DISTs with any weights.

Times of kernels follow from differences between probes (`fit`). So weights stream from memory, and launches follow each
other, as they do in a model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge_transact import costs
from edge_transact.artifacts.dist_files import TENSOR_CACHE
from edge_transact.artifacts.manifest import Manifest
from edge_transact.building.dist import model_lib_name
from edge_transact.building.stages import place_library
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.targets import get_target, library_name
from edge_transact.definition import MODEL_TYPE, Definition, load, render
from edge_transact.quantization import Quantization
from edge_transact.runtime.parameters import MOST_READ_BYTES
from edge_transact.system import memory
from edge_transact.version import __version__
from edge_transact.weights.shards import ShardRecord, TensorCache, TensorRecord
from edge_transact.widths import CACHE_HEAD_DIM_MULTIPLE, LayerWidths, WidthPlan

LAYER_BYTES = 60_000_000
"""Weights in a probe's layers, at least: more than CPUs' caches keep from one token to the next."""

MLP_STEP, HEAD_DIM_STEP = 32, 8
FUNCTIONS = ("embed", "prefill", "decode", "create_paged_kv_cache")
"""What a bench calls. A library with those for batches takes twice as long to build."""


def depth_of(plan: WidthPlan, quantization: Quantization) -> int:
    """How many layers a probe has: an even number, and at most the model's."""
    one, two = (costs.weight_bytes(plan.with_layers([plan.widest] * count), quantization) for count in (1, 2))
    nbytes = two - one
    return max(2, min(plan.num_hidden_layers, math.ceil(LAYER_BYTES / nbytes)) // 2 * 2)


@dataclass(frozen=True)
class Probe:
    """A plan to measure. `is_long` at all contexts: what it differs in concerns attention to the cache."""

    name: str
    plan: WidthPlan
    is_long: bool = False


def probes_of(plan: WidthPlan, depth: int) -> list[Probe]:
    """The probes of a model: one width changes at a time, in all layers or in every second one."""
    widest = plan.widest
    heads, dim = widest.num_key_value_heads, widest.qk_head_dim

    def model(*layers: LayerWidths, depth: int = depth) -> WidthPlan:
        repeated = [layers[i % len(layers)] for i in range(depth)]
        return replace(plan, layers=tuple(repeated), nope_layers=(), window_layers=())

    def with_heads(count: int) -> LayerWidths:
        return replace(widest, num_attention_heads=count * plan.q_per_kv, num_key_value_heads=count)

    def narrowed(size: int, share: float, step: int, least: int) -> int:
        return max(min(least, size), round(size * share / step) * step)

    probes = [Probe("whole", model(widest), True), Probe("half as deep", model(widest, depth=depth // 2))]
    for size in sorted(
        {narrowed(widest.intermediate_size, share / 8, MLP_STEP, MLP_STEP) for share in (1, 3, 5)}
        - {widest.intermediate_size}
    ):
        probes.append(Probe(f"MLP {size}", model(replace(widest, intermediate_size=size))))
    for count in sorted({1, *(range(2, heads) if heads <= 4 else (heads // 4, heads // 2, 3 * heads // 4))} - {heads}):
        probes.append(Probe(f"{count} KV heads", model(with_heads(count)), True))
    if heads > 1:
        probes.append(Probe("calls of 1 KV head", model(widest, with_heads(1)), True))
    half, most = (narrowed(widest.v_head_dim, share, HEAD_DIM_STEP, CACHE_HEAD_DIM_MULTIPLE) for share in (0.5, 0.75))
    for size in sorted({half, most} - {widest.v_head_dim}):
        probes.append(Probe(f"values of {size}", model(replace(widest, v_head_dim=size))))
    pairs = narrowed(dim, 0.5, HEAD_DIM_STEP, CACHE_HEAD_DIM_MULTIPLE)
    if not plan.use_qk_norm and pairs < dim and half < widest.v_head_dim:
        probes.append(Probe(f"queries of {pairs}", model(replace(widest, qk_head_dim=pairs))))
        probes.append(Probe(f"heads of {half}", model(replace(widest, qk_head_dim=pairs, v_head_dim=half)), True))
    probes.append(Probe("no attention", model(widest, replace(widest, num_attention_heads=0, num_key_value_heads=0))))
    probes.append(Probe("no MLP", model(widest, replace(widest, intermediate_size=0))))
    return [probe for probe in probes if probe.plan.num_hidden_layers > 1 or not probe.name.startswith("no ")]


@dataclass(frozen=True)
class Maker:
    """Makes the DISTs of probes. `config` is the model's ``config.json``, and `sizes` those of a library."""

    config: Mapping[str, Any]
    quantization: Quantization
    target: str
    sizes: Mapping[str, int]

    def make(self, plan: WidthPlan, directory: Path) -> None:
        """Writes a DIST without a tokenizer, which runners load."""
        widest = {**vars(plan.widest), "num_hidden_layers": plan.num_hidden_layers}
        layers = {"per_layer_config": plan.per_layer_config(), "max_batch_size": 1, **self.sizes}
        definition = load(plan, {**self.config, **widest, **layers})
        target = get_target(self.target)
        name = model_lib_name(render(plan), definition, self.quantization)
        library = f"lib/{name}-{target.name}{target.suffix}"
        (directory / "lib").mkdir(parents=True)
        weights_bytes = self._write_weights(definition, plan, directory)
        place_library(
            definition,
            self.quantization,
            target,
            library_name(name, target.name),
            directory / library,
            functions=FUNCTIONS,
        )
        manifest = Manifest(
            source="a probe of `profile`",
            model_type=MODEL_TYPE,
            model_lib=name,
            quantization=self.quantization.name,
            rounding=None,
            calibration=None,
            context_window_size=self.sizes["context_window_size"],
            prefill_chunk_size=self.sizes["prefill_chunk_size"],
            max_batch_size=1,
            device_profile=None,
            plan=plan,
            parameters=costs.parameters(plan),
            weights_bytes=weights_bytes,
            libraries={target.name: library},
            parity={},
            versions={"edge-transact": __version__, "apache-tvm": version("apache-tvm")},
        )
        manifest.write(directory)

    def _write_weights(self, definition: Definition, plan: WidthPlan, directory: Path) -> int:
        """Writes one shard and its index; returns the bytes of all parameters.

        Where weights are copied when they are loaded, parameters share what they are copied from.
        """
        is_large = costs.loaded_weight_bytes(plan, self.quantization) > MOST_READ_BYTES
        is_mapped = self.target == "host" and (is_large or not memory.has_huge_pages())
        places: dict[tuple[object, ...], tuple[int, np.ndarray]] = {}
        records, end = [], 0
        for name, parameter in quantize_modules(definition.model(), self.quantization, "float32").named_parameters():
            shape, dtype = [int(size) for size in parameter.shape], str(parameter.dtype)
            content = _content(name, shape, dtype)
            key = (content.dtype, name if is_mapped else name.rpartition(".")[2], content.shape)
            if key not in places:
                places[key] = end, content
                end += -(-content.nbytes // 64) * 64
            record = TensorRecord(
                name=name,
                shape=shape,
                dtype=dtype,
                format="f32-to-bf16",
                nbytes=content.nbytes,
                byteOffset=places[key][0],
            )
            records.append(record)
        path = directory / "params_shard_0.bin"
        with path.open("wb") as file:
            for offset, content in places.values():
                file.seek(offset)
                file.write(content.data)
            file.truncate(end)
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        shard = ShardRecord(dataPath=path.name, nbytes=end, records=records, md5sum=digest)
        (directory / TENSOR_CACHE).write_text(TensorCache(records=[shard]).model_dump_json(exclude_none=True))
        return sum(record.nbytes for record in records)


def _content(name: str, shape: list[int], dtype: str) -> np.ndarray:
    """Weights with which all values stay finite, as they are stored."""
    size = math.prod(shape)
    if dtype == "uint32":
        return np.resize(np.random.default_rng(0).integers(0, 1 << 32, min(size, 1 << 18), np.uint32), size)
    if dtype == "int32":  # RoPE pairs that were kept
        return np.resize(np.arange(shape[-1], dtype=np.int32), size)
    value = 0.0 if name.endswith("bias") else 0.005 if len(shape) == 2 else 1.0
    if dtype == "float16":
        return np.full(size, value, np.float16)
    return np.full(size, np.float32(value).view(np.uint32) >> 16, np.uint16)
