"""Writes a checkpoint with new widths, tensor by tensor. transformers loads it with and without edge-transact."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact import costs
from edge_transact.architecture.families import SOURCE_TYPE, family_of, rope_parameters
from edge_transact.artifacts.digests import SEAL
from edge_transact.artifacts.dist_files import LICENCE_FILES, TOKENIZER_FILES
from edge_transact.artifacts.listing import FILES, write_listing
from edge_transact.artifacts.outputs import new_directory, new_file
from edge_transact.artifacts.templates import markdown, template
from edge_transact.cache.sources import public, remember_source, source_of
from edge_transact.checkpoint.auto_classes import AUTO_MODELS
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.checkpoint.reader import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.reading import checked, read_object
from edge_transact.version import __version__
from edge_transact.widths import WIDTH_FIELDS, WidthPlan, describe

if TYPE_CHECKING:
    import torch

    from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig

COPIED_FILES = (*TOKENIZER_FILES, *LICENCE_FILES, "generation_config.json")
"""The files that a checkpoint copies from its source."""

_PLACES = {"name_or_path", "_name_or_path", "special_tokens_map_file", "tokenizer_file"}

CODE_FILES = ("configuration_edge_llama.py", "modeling_edge_llama.py")
"""The files that load the checkpoint without edge-transact."""

PROVENANCE_FILE, MODEL_CARD = "edge_transact.json", "README.md"

MAX_SHARD_BYTES = 1 << 30
"""The most bytes of a shard, and so of memory while a checkpoint is written: 1 GiB."""

HEALED = "healed"
"""The key of `PROVENANCE_FILE` with a list of what each training did."""


def write_checkpoint(
    source: Checkpoint,
    plan: WidthPlan,
    tensors: Iterable[tuple[str, torch.Tensor]],
    provenance: Mapping[str, object],
    output: str | Path,
    *,
    also: Callable[[Path], object] | None = None,
    force: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Checkpoint:
    """Writes a checkpoint directory, complete or not at all, and opens it. Memory holds at most one shard.

    Args:
        source: The source of everything that isn't a width: configuration, tokenizer, ``generation_config.json``.
        tensors: Each tensor of `plan` once, in any order, with the shapes of `tensor_shapes(plan)`.
        provenance: How the model was made, as JSON values, for ``edge_transact.json`` and the model card.
        also: Writes more files into the directory that it is given, before that is complete.
        max_shard_bytes: The most bytes of a weight file, unless one tensor is larger.

    Raises:
        EdgeTransactError: `output` exists and `force` is off.
        ValueError: `tensors` are not those of `plan`.
    """
    output = Path(output)
    versions = {"edge-transact": __version__, **{name: version(name) for name in ("torch", "transformers")}}
    license = license_of(source.path)
    made = {key: value for key, value in provenance.items() if key not in ("license", "versions")}
    record = {**made, **({"license": license} if license else {}), "versions": versions}
    with new_directory(output, force=force) as directory:
        dtype = write_shards(directory, tensor_shapes(plan), tensors, max_shard_bytes)
        write_config(directory, source.config, plan, dtype)
        copy_files(source.path, directory, COPIED_FILES)
        card = template("model_card.md.j2").render(
            name=output.name,
            provenance=public(record),
            parameters=costs.parameters(plan),
            source_parameters=costs.parameters(source.plan),
            cut_ratio=costs.cut_ratio(plan, source.plan),
            widths=describe(plan),
        )
        (directory / MODEL_CARD).write_text(card)
        if also:
            also(directory)
        write_provenance(directory, record)
    return Checkpoint.open(output)


def write_quality(directory: Path, figures: Mapping[str, str]) -> None:
    """Adds what was measured to the model card of a checkpoint that was just written, once."""
    card = directory / MODEL_CARD
    before, heading, after = card.read_text().partition("## How it was made\n")
    if heading and "## Quality\n" not in before:
        lines = "".join(f"- {markdown(name)}: {markdown(value)}\n" for name, value in figures.items())
        with new_file(card, b"---", own=True) as fresh:
            fresh.write_text(f"{before}## Quality\n\n{lines}\n{heading}{after}")


def write_shards(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, torch.Tensor]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> torch.dtype:
    """Writes ``model.safetensors``, or several ``model-0000i-of-0000n.safetensors`` and their index.

    Args:
        tensors: Each tensor once, in any order. Memory holds at most one shard of them.
        max_shard_bytes: The most bytes of a file, unless one tensor is larger.

    Returns:
        The floating-point dtype that most bytes have.

    Raises:
        ValueError: `tensors` are not those of `shapes`.
    """
    from safetensors.torch import save_file

    missing = dict(shapes)
    dtype_bytes: Counter[torch.dtype] = Counter()
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    pending_bytes = 0

    def flush() -> None:
        nonlocal pending_bytes
        save_file(pending, directory / f"{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()
        pending_bytes = 0

    for name, tensor in tensors:
        if missing.get(name) != tuple(tensor.shape):
            raise ValueError(f"{name} {list(tensor.shape)}: the plan has {missing.get(name, 'no such tensor left')}")
        del missing[name]
        dtype_bytes[tensor.dtype] += tensor.nbytes
        if pending and pending_bytes + tensor.nbytes > max_shard_bytes:
            flush()
        pending[name] = tensor.contiguous()
        pending_bytes += tensor.nbytes
    if missing:
        raise ValueError(f"{len(missing)} tensors of the plan were not given, {next(iter(missing))} among them")
    flush()

    # Each file's name has the number of shards, which is known only now.
    if len(shards) == 1:
        (directory / "0.safetensors").rename(directory / "model.safetensors")
    else:
        weight_map: dict[str, str] = {}
        for index, names in enumerate(shards):
            file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
            (directory / f"{index}.safetensors").rename(directory / file)
            weight_map |= dict.fromkeys(names, file)
        content = {"metadata": {"total_size": dtype_bytes.total()}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n")
    return max((dtype for dtype in dtype_bytes if dtype.is_floating_point), key=dtype_bytes.__getitem__)


def copy_files(source: Path, directory: Path, names: Iterable[str]) -> None:
    """Copies those of these files that there are, without the places of a stranger's disk in `_PLACES`."""
    for file in (source / name for name in names if (source / name).is_file()):
        shutil.copyfile(file, directory / file.name)
        if file.name == "tokenizer_config.json" and _PLACES & set(config := read_object(file)):
            kept = {key: value for key, value in config.items() if key not in _PLACES}
            (directory / file.name).write_text(json.dumps(kept, indent=2) + "\n")


def write_provenance(directory: Path, record: Mapping[str, object]) -> None:
    """Writes ``edge_transact.json`` into a complete checkpoint, with the sha256 of all files but the model card.

    It has the last part of local paths only; `provenance_of` knows on this machine where the source lies.
    """
    write_listing(directory / PROVENANCE_FILE, public(record), apart_from=MODEL_CARD)
    remember_source(directory / PROVENANCE_FILE, record.get("source"))


@dataclass
class _Provenance:
    """What is read of ``edge_transact.json``, which may be a stranger's; there is more."""

    source: str = ""
    method: str = ""
    budget: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    healed: Sequence[Mapping[str, Any]] = ()


def provenance_of(directory: Path) -> dict[str, Any]:
    """How a checkpoint was made, without what is of its files; empty if there is no record of it."""
    found = read_object(directory / PROVENANCE_FILE, optional=True)
    checked(_Provenance, found, directory / PROVENANCE_FILE, what="how a checkpoint was made")
    made = {key: value for key, value in found.items() if key not in (FILES, SEAL)}
    return made | ({"source": source_of(directory / PROVENANCE_FILE, made["source"])} if "source" in made else {})


def license_of(directory: Path) -> str | None:
    """The licence that a checkpoint's model card names."""
    from huggingface_hub import ModelCard

    card = directory / MODEL_CARD
    if not card.is_file():
        return None
    try:
        return ModelCard.load(card).data.license
    except ValueError:
        return None  # a card is prose, and its metadata may be malformed


def model_config(config: Mapping[str, Any], plan: WidthPlan, **changes: object) -> EdgeLlamaConfig:
    """The configuration of a model with other widths, and with `changes`.

    Everything that isn't a width comes from `config`, the source's ``config.json``.
    """
    from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig

    ours = ("model_type", "architectures", "auto_map", "per_layer_config", "dtype", "torch_dtype", *WIDTH_FIELDS)
    fields = {key: value for key, value in config.items() if key not in ours}
    fields |= asdict(plan.widest) | {"head_dim": plan.head_dim, "num_hidden_layers": plan.num_hidden_layers}
    try:
        return EdgeLlamaConfig(**fields | {"per_layer_config": plan.per_layer_config() or None} | changes)
    except Exception as error:  # of several packages
        raise EdgeTransactError(
            f"transformers can't use config.json: {' '.join(str(error).split())}", fix="Correct that field."
        ) from error


def write_config(directory: Path, config: Mapping[str, Any], plan: WidthPlan, dtype: torch.dtype) -> None:
    """Writes ``config.json``, with `dtype` as that of most weights, and the files that load it without edge-transact.

    Everything that isn't a width comes from `config`, another ``config.json``.
    """
    own = model_config(
        config,
        plan,
        architectures=["EdgeLlamaForCausalLM"],
        dtype=dtype,
        auto_map={"AutoConfig": "configuration_edge_llama.EdgeLlamaConfig"}
        | {auto: f"modeling_edge_llama.{name}" for auto, (name, _) in AUTO_MODELS.items()},
    )
    (directory / "config.json").write_text(own.to_json_string())
    for name in CODE_FILES:
        shutil.copyfile(Path(__file__).with_name(name), directory / name)


def stock_config(config: Mapping[str, Any], plan: WidthPlan) -> dict[str, Any]:
    """The ``config.json`` of the model's own family, which everything reads; `plan` must be `WidthPlan.is_stock`.

    Everything that isn't a width comes from `config`, another ``config.json``.
    """
    (layer,) = set(plan.layers)
    family = family_of(config)
    own = ("_name_or_path", "auto_map", "per_layer_config", "qk_head_dim", "v_head_dim", SOURCE_TYPE, *family.fixed)
    return {
        **{key: value for key, value in config.items() if key not in own},
        **{name: value for name, value in rope_parameters(config).items() if name in family.defaults},
        **({"sliding_window": None} if "sliding_window" in family.dropped else {}),
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "num_attention_heads": layer.num_attention_heads,
        "num_key_value_heads": layer.num_key_value_heads,
        "head_dim": plan.head_dim,
        "intermediate_size": layer.intermediate_size,
    }
