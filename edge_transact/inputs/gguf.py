"""Converts a LLaMA in a ``.gguf`` file to a Hugging Face directory.

transformers reads the tokenizer only: for the rest, it has no layers of different widths and needs far more memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt

from edge_transact import costs
from edge_transact.architecture.families import FAMILIES, family_of, translated
from edge_transact.architecture.unsupported import unsupported
from edge_transact.checkpoint.layout import ROPE_PAIRS, tensor_shapes
from edge_transact.checkpoint.schema import Configuration
from edge_transact.checkpoint.writer import MODEL_CARD, stock_config, write_config, write_shards
from edge_transact.errors import EdgeTransactError
from edge_transact.gguf import layout
from edge_transact.gguf.q4_0 import BLOCK_BYTES
from edge_transact.progress import track, working
from edge_transact.reading import AGAIN, checked, parsed
from edge_transact.widths import WidthPlan

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gguf import GGUFReader, ReaderTensor

T = TypeVar("T")

LLAMA3_LOW_FREQ_FACTOR, LLAMA3_HIGH_FREQ_FACTOR, LLAMA3_ORIGINAL_CONTEXT = 1.0, 4.0, 8192
"""RoPE scaling of all models from Llama 3.1 on; only the factor differs."""

ARCHITECTURES = (layout.VARIABLE, *dict.fromkeys(family.gguf for family in FAMILIES.values()))
"""llama.cpp's architectures that are read. Mistral's is ``llama``."""

NOT_A_LLAMA = "Use a GGUF of a LLaMA model."

_LAYER = re.compile(r"blk\.(\d{1,4})\.")

_MOST_VALUES = 1 << 24
"""Of an array in metadata; the largest vocabularies have 300,000 tokens."""


def convert_gguf(file: Path, directory: Path) -> None:
    """Fills `directory` with the model and the tokenizer of a GGUF file; an `EdgeTransactError` if it can't be read.

    A file with F16 or F32 matrices becomes float32, exactly. Other files become bfloat16, whose rounding is far below
    their quantization steps. The blocks of Q4_0 matrices are kept as well, for builds to use their codes.
    """
    with working(f"open {file.name}"):
        model = _Model(file, _open(file))
        import torch
        from gguf import GGMLQuantizationType
        from safetensors.numpy import save_file
        from transformers import GenerationConfig, LlamaConfig

        _write_tokenizer(directory, file)
    exact = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    matrices = [tensor for tensor in model.tensors.values() if len(tensor.shape) > 1]
    dtype = torch.float32 if any(tensor.tensor_type in exact for tensor in matrices) else torch.bfloat16

    # One more than a small weight has more digits than bf16.
    is_exact = family_of(model.config).norm_offset != 0

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and not (is_exact and tensor.dim() == 1) else tensor

    shapes = tensor_shapes(model.plan)
    values = track(model.values(), f"convert {file.name}", total=len(shapes))
    write_shards(directory, shapes, ((name, cast(tensor)) for name, tensor in values))
    if blocks := dict(model.blocks()):
        save_file(blocks, directory / layout.BLOCKS_FILE)
    _write_config(directory, model, dtype)
    if license := model.field("general.license"):
        (directory / MODEL_CARD).write_text(f"---\nlicense: {license}\n---\n")
    ids = {name: value for name, value in model.config.items() if name.endswith("_token_id")}
    GenerationConfig.from_model_config(LlamaConfig(**ids)).save_pretrained(directory)


def _write_tokenizer(directory: Path, file: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    # AutoTokenizer, which chooses this class for a LLaMA, would first read the configuration.
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # tokenizers raises nothing narrower
        raise EdgeTransactError(
            f"transformers can't make a tokenizer of what {file} says: {error}",
            fix="Use the model that the file was made from. A --pre that is another tokenizer's can be the cause.",
        ) from error
    tokenizer.save_pretrained(directory)


def _write_config(directory: Path, model: _Model, dtype: torch.dtype) -> None:
    """A stock model's ``config.json`` where its layers are alike and its tensors not fused: everything reads it."""
    plan = model.plan
    if not plan.is_stock or family_of(model.config).fused:
        write_config(directory, model.config, plan, dtype)
        return
    config = stock_config(model.config, plan) | {"dtype": str(dtype).removeprefix("torch.")}
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@dataclass
class _Model:
    file: Path
    reader: GGUFReader

    def field(self, name: str, default: Any = None) -> Any:
        """A metadata value; `None` and 0 stand for the default."""
        field = self.reader.get_field(name)
        try:
            return (field.contents() if field else None) or default
        except (ValueError, IndexError, TypeError, KeyError) as error:
            raise EdgeTransactError(f"{self.file}: {name} can't be read: {error}", fix=AGAIN) from error

    def _json(self, name: str, schema: type[T]) -> T:
        where = f"{self.file}, {name}"
        return checked(schema, parsed(checked(str, self.field(name, "{}"), where), where), where)

    @cached_property
    def tensors(self) -> dict[str, ReaderTensor]:
        return {tensor.name: tensor for tensor in self.reader.tensors}

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``: the one that `export` kept, or what the metadata says."""
        config = self._json(layout.CONFIG, dict[str, Any]) or self._config()
        checked(Configuration, config, f"{self.file}, its configuration")
        self._check_layers(config.get("num_hidden_layers"))
        return config

    def _check_layers(self, claimed: object) -> None:
        # A layer can lack attention or the MLP, and one that lacks both isn't the last in llama.cpp.
        stored = 1 + max((int(found[1]) for found in map(_LAYER.match, self.tensors) if found), default=-1)
        if claimed != stored:
            raise EdgeTransactError(f"{self.file} has {stored} layers, its metadata says {claimed!r}", fix=AGAIN)

    @cached_property
    def plan(self) -> WidthPlan:
        config = self.config
        try:
            plan = WidthPlan.from_config(config)
        except EdgeTransactError as error:
            raise EdgeTransactError(f"{self.file}: {error.message}", fix=error.fix) from error
        stored = sum(tensor.n_elements for tensor in self.tensors.values())
        if costs.parameters(plan) > stored:
            raise EdgeTransactError(
                f"{self.file} has {stored:,} parameters, its metadata says {costs.parameters(plan):,}", fix=AGAIN
            )
        return plan

    @cached_property
    def rope_pairs(self) -> Sequence[np.ndarray]:
        import numpy as np

        kept = self._json(layout.PAIRS, dict[str, list[list[Annotated[int, Field(ge=0, lt=self.plan.head_dim // 2)]]]])
        every = np.arange(self.plan.head_dim // 2, dtype=np.int32)
        found = []
        for index, layer in enumerate(self.plan.layers):
            shape = (layer.num_key_value_heads, layer.qk_head_dim // 2)
            table = kept.get(str(index), [every] * shape[0])
            if [len(row) for row in table] != [shape[1]] * shape[0]:
                raise EdgeTransactError(f"{self.file}, {layout.PAIRS}: layer {index} has other than {shape}", fix=AGAIN)
            found.append(np.array(table, np.int32))
        return found

    @cached_property
    def places(self) -> Mapping[str, layout.Place]:
        return layout.places(self.plan, self.rope_pairs, self.field("general.architecture"))

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Rows of each GGUF tensor, which may be several of the checkpoint's, one below the other."""
        return {place.name: place.first + place.shape[0] for place in self.places.values()}

    def values(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors in transformers' names and order: float32, and tables of RoPE pairs in int32."""
        import gguf
        import torch

        for name in tensor_shapes(self.plan):
            if name.endswith(ROPE_PAIRS):
                yield name, torch.from_numpy(self.rope_pairs[int(name.split(".")[2])])
                continue
            place = self.places[name]
            found = self.tensors.get(place.name)
            if found is None or tuple(map(int, reversed(found.shape))) != (self.rows[place.name], *place.shape[1:]):
                raise EdgeTransactError(f"{self.file} has no {name} of {list(place.shape)}", fix=NOT_A_LLAMA)
            rows = slice(place.first, place.first + place.shape[0])
            # A vector's data can be bytes, of which a value has several.
            if len(place.shape) > 1:
                values = gguf.dequantize(found.data[rows], found.tensor_type)
            else:
                values = gguf.dequantize(found.data, found.tensor_type)[rows]
            tensor = place.take_rows(values.reshape(place.shape))
            yield name, torch.tensor(tensor if place.columns is None else tensor[:, place.columns])

    def blocks(self) -> Iterator[tuple[str, np.ndarray]]:
        """The blocks of the Q4_0 matrices by the checkpoint's names, uint8 ``[rows, groups, 18]``."""
        import numpy as np
        from gguf import GGMLQuantizationType

        for name, place in self.places.items():
            tensor = self.tensors[place.name]
            if tensor.tensor_type == GGMLQuantizationType.Q4_0 and place.keeps_groups and len(place.shape) > 1:
                rows = place.take_rows(np.asarray(tensor.data[place.first : place.first + place.shape[0]]))
                blocks, columns = rows.reshape(len(rows), -1, BLOCK_BYTES), place.group_columns
                yield name, np.ascontiguousarray(blocks if columns is None else blocks[:, columns])

    def _config(self) -> dict[str, Any]:
        def size(name: str, default: Any = None) -> Any:
            value = self.field(f"{self.field('general.architecture')}.{name}", default)
            if value is None:
                raise EdgeTransactError(f"{self.file}: its metadata has no {name}", fix=NOT_A_LLAMA)
            return value

        def count(name: str, default: Any = None) -> int:
            return checked(PositiveInt, size(name, default), f"{self.file}, {name}")

        layers, hidden = count("block_count"), count("embedding_length")
        self._check_layers(layers)
        heads = self._of_layers(size("attention.head_count"), "attention.head_count", layers)
        groups = self._of_layers(size("attention.head_count_kv", heads), "attention.head_count_kv", layers)
        dims = self._of_layers(size("feed_forward_length"), "feed_forward_length", layers)
        head_dim = count("attention.key_length", hidden // (max(heads) or hidden))
        rotated = count("rope.dimension_count", head_dim)
        widths = {"num_attention_heads": heads, "num_key_value_heads": groups, "intermediate_size": dims}
        if "token_embd.weight" not in self.tensors:
            raise EdgeTransactError(f"{self.file} has no token_embd.weight", fix=NOT_A_LLAMA)
        architecture = self.field("general.architecture")
        config: dict[str, Any] = {
            "model_type": next((f.model_type for f in FAMILIES.values() if f.gguf == architecture), "llama"),
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            **{name: max(values) for name, values in widths.items()},
            "head_dim": head_dim,
            "vocab_size": int(self.tensors["token_embd.weight"].shape[1]),
            "max_position_embeddings": count("context_length", 2048),
            "rms_norm_eps": size("attention.layer_norm_rms_epsilon", 1e-6),
            "sliding_window": self.field(f"{architecture}.attention.sliding_window"),
            # In llama.cpp, that of all Gemma 3 models but the largest.
            **({"query_pre_attn_scalar": head_dim} if architecture == "gemma3" else {}),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": size("rope.freq_base", 10000.0),
                **({"partial_rotary_factor": rotated / head_dim} if rotated < head_dim else {}),
            },
            "attention_bias": any(name.endswith(".attn_q.bias") for name in self.tensors),
            "attention_out_bias": any(name.endswith(".attn_output.bias") for name in self.tensors),
            "mlp_bias": any(name.endswith(".ffn_gate.bias") for name in self.tensors),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "per_layer_config": {
                str(index): {name: values[index] for name, values in widths.items()} for index in range(layers)
            },
        }
        names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
        ids = {name: self.reader.get_field(f"tokenizer.ggml.{theirs}_token_id") for name, theirs in names.items()}
        config |= {f"{name}_token_id": int(field.contents()) for name, field in ids.items() if field}
        scaling = self.field(f"{architecture}.rope.scaling.type", "none")
        if factors := layout.stored_factors({name: tensor.data for name, tensor in self.tensors.items()}):
            config["original_max_position_embeddings"] = count("rope.scaling.original_context_length")
            config["rope_parameters"] |= {"rope_type": "longrope", **factors}
        elif scaling != "none":
            raise EdgeTransactError(
                f"{self.file}: RoPE scaling {scaling!r} is not read from GGUF",
                fix="Use the Hugging Face checkpoint of this model.",
            )
        config["rope_parameters"] |= self._llama3_scaling(config) or {}
        if refused := unsupported(config):
            raise EdgeTransactError(f"{self.file}: {refused[0]}", fix=refused[1])
        return translated(config)

    def _of_layers(self, value: Any, name: str, layers: int) -> list[int]:
        values = value if isinstance(value, list) else [value] * layers
        checked(list[NonNegativeInt], values, f"{self.file}, {name}")
        if len(values) != layers:
            raise EdgeTransactError(f"{self.file}: {name}: it has {len(values)} for {layers} layers", fix=NOT_A_LLAMA)
        return values

    def _llama3_scaling(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """Llama 3's RoPE scaling from `layout.ROPE_FREQS`: GGUF stores the divisors of the frequencies instead."""
        import numpy as np

        if layout.ROPE_FREQS not in self.tensors:
            return None
        stored = self.tensors[layout.ROPE_FREQS].data
        scaling = {
            "rope_type": "llama3",
            "factor": round(float(stored.max()), 3),
            "low_freq_factor": LLAMA3_LOW_FREQ_FACTOR,
            "high_freq_factor": LLAMA3_HIGH_FREQ_FACTOR,
            "original_max_position_embeddings": LLAMA3_ORIGINAL_CONTEXT,
        }
        divisors = layout.rope_divisors(config["rope_parameters"]["rope_theta"], scaling, config["head_dim"])
        if not np.allclose(divisors, stored, rtol=1e-3):
            raise EdgeTransactError(
                f"{self.file}: its RoPE frequencies ({layout.ROPE_FREQS}) are not Llama 3's",
                fix="Use the Hugging Face checkpoint of this model.",
            )
        return scaling


def _open(file: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader, GGUFValueType
    except ImportError as error:
        raise EdgeTransactError(
            f"{file}: reading GGUF needs the package {error.name}", fix="pip install 'edge-transact[gguf]'"
        ) from error

    class Reader(GGUFReader):
        """Raises a `ValueError` for what the file's length contradicts; the package would go on with less."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            found = super()._get(offset, dtype, count, override_order)
            if len(found) != count:
                raise ValueError(f"it has {len(found)} of {count} values at byte {offset}")
            return found

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == GGUFValueType.ARRAY and (length := self._get(orig_offs + 4, "u8")[0]) > _MOST_VALUES:
                raise ValueError(f"it has an array of {length} values")
            return super()._get_field_parts(orig_offs, raw_type)

    try:
        reader = Reader(file)
        field = reader.get_field("general.architecture")
        architecture = field.contents() if field else None
    except (ValueError, IndexError, KeyError, AttributeError, OSError, RecursionError, OverflowError) as error:
        raise EdgeTransactError(
            f"{file} is not a GGUF file, or it is truncated: {error}", fix="Copy or download the file again."
        ) from error
    if architecture not in ARCHITECTURES:
        raise EdgeTransactError(
            f"{file}: its architecture is {architecture!r}, and only {', '.join(ARCHITECTURES)} are read from GGUF",
            fix=NOT_A_LLAMA,
        )
    return reader
