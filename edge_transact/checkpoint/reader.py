"""A LLaMA checkpoint on disk: checked when it is opened, read one tensor at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from edge_transact import costs
from edge_transact.architecture.families import FAMILIES, order_in_heads, rope_parameters, translated
from edge_transact.architecture.matrices import KEY, QUERY, norms_of
from edge_transact.architecture.unsupported import unsupported
from edge_transact.artifacts.digests import files_digest
from edge_transact.artifacts.summary import Summarized, Summary, summary_of_widths
from edge_transact.checkpoint.layout import LAST_NORM, ROPE_PAIRS, tensor_shapes
from edge_transact.checkpoint.schema import Configuration, Kind
from edge_transact.errors import EdgeTransactError
from edge_transact.reading import AGAIN, checked, opened, read_model, read_object
from edge_transact.widths import WidthPlan

if TYPE_CHECKING:
    import torch

WEIGHT_DTYPES = ("BF16", "F16", "F32")
"""The supported safetensors dtypes of weights."""

ROPE_TYPES = ("llama3", "yarn", "longrope")
"""The supported ways to scale RoPE's frequencies, by transformers' names."""

PRUNE_AGAIN = "Copy the checkpoint again, or prune again."


MOST_LAYERS = 10_000
"""More are refused where no weights say how many there are."""


class _Index(BaseModel):
    """``model.safetensors.index.json``: tensor to file name."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor, or some rows of a tensor with several matrices: from `first` on, in the order of `order_in_heads`.

    With an `offset`, that is added to what is stored, in fp32, which `dtype` says.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    name: str
    first: int = 0
    order_in_heads: tuple[int, ...] = ()
    offset: float = 0.0


@dataclass(frozen=True, repr=False)
class Checkpoint(Summarized):
    """A Hugging Face directory of a LLaMA in safetensors, with layers of any widths.

    `config` is its parsed ``config.json``, `plan` the widths in it, which `open` has checked the tensors against.
    """

    path: Path
    config: Mapping[str, Any]
    plan: WidthPlan
    _stored: Mapping[str, _StoredTensor]

    def summary(self) -> Summary:
        """The widths."""
        facts = {"parameters": f"{costs.parameters(self.plan):,}", "hidden size": f"{self.plan.hidden_size:,}"}
        return summary_of_widths(str(self.path), self.plan, facts=facts)

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Reads the configuration and the headers of the weight files, and checks them against each other.

        Raises:
            EdgeTransactError: The directory or its ``config.json`` doesn't exist, the architecture isn't LLaMA, there
                are no safetensors, a file is truncated, or a tensor is missing or has another shape.
        """
        path = Path(path)
        config = _read_config(path)
        stored = _read_headers(path)
        # Before what has an entry for every layer that config.json claims.
        _check_layer_count(path, config, stored)
        config, plan = _planned(path, config)
        stored = _translated_tensors(path, stored, plan, str(config.get("model_type")))
        for name, shape in tensor_shapes(plan).items():
            _check_shape(path, stored, name, shape)
            if name.endswith(ROPE_PAIRS):
                if stored[name].dtype != "I32":
                    raise EdgeTransactError(f"{path}: tensor {name} is {stored[name].dtype}, not I32", fix=PRUNE_AGAIN)
            elif stored[name].dtype not in WEIGHT_DTYPES:
                raise EdgeTransactError(
                    f"{path}: tensor {name} is {stored[name].dtype}",
                    fix=f"Use the unquantized checkpoint: weights in {', '.join(WEIGHT_DTYPES)}.",
                )
        return cls(path=path, config=config, plan=plan, _stored=stored)

    def digest(self, *names: str) -> str:
        """The digest of its configuration and weights, and of the files of these names that it has."""
        files = [path for path in map(self.path.joinpath, ("config.json", *names)) if path.is_file()]
        return files_digest([*files, *self.path.glob("*.safetensors")])

    def tensor_names(self) -> Sequence[str]:
        """The model's tensors in the order of the forward pass, without a tied ``lm_head.weight``."""
        return tuple(tensor_shapes(self.plan))

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor on the CPU, in its stored dtype. Its pages are read when they are touched.

        Raises:
            KeyError: `name` isn't in `tensor_names`.
            EdgeTransactError: The tensor is a table of RoPE pairs with invalid entries.
        """
        from safetensors import safe_open

        stored = self._stored[name]
        with safe_open(stored.file, framework="pt") as file:
            tensor = file.get_tensor(stored.name)[stored.first : stored.first + stored.shape[0]]
        if order := stored.order_in_heads:
            tensor = tensor.unflatten(0, (-1, len(order)))[:, order].flatten(0, 1)
        if stored.offset:
            tensor = tensor.float() + stored.offset
        if name.endswith(ROPE_PAIRS):
            pairs = self.plan.head_dim // 2
            if tensor.min() < 0 or tensor.max() >= pairs or (tensor.diff(dim=1) <= 0).any():
                raise EdgeTransactError(
                    f"{self.path}: {name} is not a table of RoPE pairs, rows of ascending numbers in 0..{pairs - 1}",
                    fix=PRUNE_AGAIN,
                )
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape; reads nothing."""
        return self._stored[name].shape

    def rows(self, pieces: Sequence[tuple[str, int, int]]) -> torch.Tensor:
        """Rows of several tensors, concatenated and copied, so that no page of a file stays mapped.

        `pieces` are ``(name, first row, row after the last)``. The result has the dtype that theirs promote to.
        """
        import torch
        from safetensors import safe_open

        with ExitStack() as stack:
            files = {
                path: stack.enter_context(safe_open(path, framework="pt"))
                for path in {self._stored[name].file for name, _, _ in pieces}
            }
            parts = []
            for name, a, b in pieces:
                stored = self._stored[name]
                of_file = files[stored.file].get_slice(stored.name)
                inside = (
                    self.tensor(name)[a:b]
                    if stored.order_in_heads or stored.offset
                    else of_file[stored.first + a : stored.first + b]
                )
                parts.append(inside)
            return torch.cat(parts)

    def rope_pairs(self, index: int) -> torch.Tensor:
        """All RoPE pairs of a layer's KV heads, or those of `ROPE_PAIRS`: int32 ``[KV heads, qk_head_dim / 2]``."""
        import torch

        layer = self.plan.layers[index]
        if self.plan.has_rope_pairs(layer):
            return self.tensor(f"model.layers.{index}.{ROPE_PAIRS}")
        return torch.arange(self.plan.head_dim // 2, dtype=torch.int32).repeat(layer.num_key_value_heads, 1)

    @property
    def rope_theta(self) -> float:
        """The base of the RoPE frequencies."""
        return float(rope_parameters(self.config).get("rope_theta") or 10000.0)

    @property
    def rope_scaling(self) -> dict[str, Any] | None:
        """RoPE scaling (``rope_type``, ``factor``, ...) of the types of `ROPE_TYPES`, or `None` for plain RoPE.

        Raises:
            EdgeTransactError: The model has RoPE scaling of another kind.
        """
        rope = rope_parameters(self.config)
        rope_type = rope.get("rope_type", "default")
        if rope_type == "default":
            return None
        if rope_type not in ROPE_TYPES:
            raise EdgeTransactError(
                f"{self.path}: RoPE scaling {rope_type!r} is not supported",
                fix=f"Use a model with plain RoPE, or with scaling of the types {', '.join(ROPE_TYPES)}.",
            )
        return {key: value for key, value in rope.items() if key != "rope_theta"}


def _check_shape(path: Path, stored: Mapping[str, _StoredTensor], name: str, shape: tuple[int, ...]) -> None:
    if name not in stored:
        raise EdgeTransactError(
            f"{path}: tensor {name} is missing", fix="Copy or download the complete checkpoint again."
        )
    if stored[name].shape != shape:
        raise EdgeTransactError(
            f"{path}: tensor {name} has shape {list(stored[name].shape)}, config.json says {list(shape)}",
            fix="Use the config.json that belongs to these weights.",
        )


def _translated_tensors(
    path: Path, stored: Mapping[str, _StoredTensor], plan: WidthPlan, model_type: str
) -> dict[str, _StoredTensor]:
    """The tensors of a family's checkpoint with the names and the order of rows of ``edge_llama``."""
    found = dict(stored)
    if model_type not in FAMILIES:
        return found
    family, order = FAMILIES[model_type], order_in_heads(plan)
    for index, layer in enumerate(plan.layers):
        prefix = f"model.layers.{index}."
        for norm, size in norms_of(plan, layer).items() if family.norm_offset else ():
            name = f"{prefix}{family.norms.get(norm, norm)}.weight"
            _check_shape(path, stored, name, (size,))
            found[f"{prefix}{norm}.weight"] = _plus(stored[name], family.norm_offset)
        for fused, parts in family.fused.items():
            name, first = f"{prefix}{fused}.weight", 0
            shapes = [part.shape(plan, layer) for part in parts]
            _check_shape(path, found, name, (sum(rows for rows, _ in shapes), plan.hidden_size))
            for part, shape in zip(parts, shapes, strict=True):
                found[f"{prefix}{part.name}.weight"] = replace(found[name], shape=shape, first=first)
                first += shape[0]
        for part, kind in product((QUERY, KEY), ("weight", "bias")):
            if order and (tensor := found.get(f"{prefix}{part.name}.{kind}")):
                found[f"{prefix}{part.name}.{kind}"] = replace(tensor, order_in_heads=order)
    if family.norm_offset and LAST_NORM in found:
        found[LAST_NORM] = _plus(found[LAST_NORM], family.norm_offset)
    return found


def _plus(stored: _StoredTensor, offset: float) -> _StoredTensor:
    return replace(stored, offset=offset, dtype="F32" if stored.dtype in WEIGHT_DTYPES else stored.dtype)


def _check_rope_factors(path: Path, config: Mapping[str, Any], pairs: int) -> None:
    rope = rope_parameters(config)
    for name in ("short_factor", "long_factor") if rope.get("rope_type") == "longrope" else ():
        if len(rope[name]) != pairs:
            raise EdgeTransactError(
                f"{path}: rope_parameters.{name} has {len(rope[name])} numbers for {pairs} pairs",
                fix="Use the config.json that belongs to these weights.",
            )


_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_SUBLAYERS = ("num_key_value_heads", "intermediate_size")


def _check_layer_count(path: Path, config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuses a ``num_hidden_layers`` beyond the layers that the weights have, however large it is."""
    claimed, own = config.get("num_hidden_layers"), config.get("per_layer_config")
    layers = {int(match[1]) for name in names if (match := _LAYER.match(name))}
    for index, layer in own.items() if isinstance(own, Mapping) else ():
        # Without attention and MLP, it has no tensors.
        is_empty = isinstance(layer, Mapping) and not any(layer.get(name, 1) for name in _SUBLAYERS)
        layers |= {int(index)} if is_empty and re.fullmatch(r"\d{1,9}", index) else set()
    stored = next(index for index in count() if index not in layers)
    if isinstance(claimed, int) and claimed > stored:
        raise EdgeTransactError(
            f"{path}: tensor model.layers.{stored}.input_layernorm.weight is missing: config.json says "
            f"num_hidden_layers {claimed}, the weights have {stored} layers",
            fix="Use the config.json that belongs to these weights, or download the complete checkpoint again.",
        )


def read_plan(path: Path) -> tuple[Mapping[str, Any], WidthPlan]:
    """The configuration and the widths of a checkpoint whose weights needn't be there. Raises as `Checkpoint.open`."""
    config = _read_config(path)
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise EdgeTransactError(f"{path}: config.json says num_hidden_layers {layers}", fix="Correct its config.json.")
    return _planned(path, config)


def _planned(path: Path, config: dict[str, Any]) -> tuple[dict[str, Any], WidthPlan]:
    config = translated(config)
    try:
        plan = WidthPlan.from_config(config)
    except EdgeTransactError as error:
        raise EdgeTransactError(f"{path}: {error.message}", fix=error.fix) from error
    _check_rope_factors(path, config, plan.rotary_dim // 2)
    return config, plan


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise EdgeTransactError(f"{path} does not exist", fix="Name an existing checkpoint directory.")
    if not path.is_dir():
        raise EdgeTransactError(f"{path} is not a directory", fix="Name the directory that holds config.json.")
    file = path / "config.json"
    try:
        config = read_object(file, "Download the checkpoint again.")
    except FileNotFoundError as error:
        raise EdgeTransactError(
            f"{path} has no config.json", fix="Name a Hugging Face checkpoint directory or a .gguf file."
        ) from error
    checked(Kind, config, file)
    if refused := unsupported(config):
        problem, fix = refused
        raise EdgeTransactError(f"{path}: {problem}", fix=fix)
    checked(Configuration, config, file)
    return config


def _read_headers(path: Path) -> dict[str, _StoredTensor]:
    index, single = path / "model.safetensors.index.json", path / "model.safetensors"
    if single.is_file():
        return _read_header(single)
    if index.is_file():
        files = set(read_model(_Index, index, "Download it again.", "an index of safetensors").weight_map.values())
        stored: dict[str, _StoredTensor] = {}
        for name in sorted(files):
            stored |= _read_header(path / Path(name).name)
        return stored
    pickles = sorted([*path.glob("*.bin"), *path.glob("*.pth"), *path.glob("*.pt")])
    if pickles:
        raise EdgeTransactError(
            f"{path} has no safetensors, only pickles such as {pickles[0].name}, which can run code when they are read",
            fix="Convert it with transformers' save_pretrained, or download a revision that has safetensors.",
        )
    raise EdgeTransactError(
        f"{path} has no model.safetensors and no model.safetensors.index.json",
        fix="Name a directory that holds the weights too.",
    )


def _read_header(file: Path) -> dict[str, _StoredTensor]:
    """The tensors of a safetensors file. The library checks its header, against its size too."""
    from safetensors import SafetensorError, safe_open

    try:
        with opened(file) as stream:
            size = os.fstat(stream.fileno()).st_size
        with safe_open(file, "np") as stored:
            slices = {name: stored.get_slice(name) for name in sorted(stored.keys())}
            return {name: _StoredTensor(file, s.get_dtype(), tuple(s.get_shape()), name) for name, s in slices.items()}
    except FileNotFoundError as error:
        raise EdgeTransactError(f"{file} is missing", fix="Download the complete checkpoint again.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise EdgeTransactError(f"{file}, {size} bytes, is truncated or damaged: {error}", fix=AGAIN) from error
