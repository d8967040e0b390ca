"""How small the model shall be, and what of it must hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_transact import costs
from edge_transact.errors import UsageError
from edge_transact.prune.allocate.limits import Limit
from edge_transact.quantization import default_quantization, get_quantization
from edge_transact.widths import WidthPlan

DEFAULT_QUANT = default_quantization(["android"])
"""What bytes are counted in: the default of a build for Android."""

PARAMETERS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
BYTES = {
    "": 1,
    **{f"{prefix}{suffix}": 1000**power for power, prefix in enumerate("KMG", 1) for suffix in ("", "B")},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMG", 1)},
}

LIMITS = ("ratio", "target_params", "max_weight_bytes", "max_kv_bytes_per_token", "max_memory")
"""The options that several at once may hold; the others name the widths themselves."""


@dataclass(frozen=True)
class Budget:
    """Limits, of which several may hold at once; or else the widths themselves, from a file or as heads and MLP dims.

    Attributes:
        ratio: The share of attention and MLP parameters to remove, above 0 and below 1.
        target_params: Parameters of the pruned model, embeddings and all.
        max_weight_bytes: Bytes of all weights in `quant`.
        max_kv_bytes_per_token: Bytes that a token takes in the KV cache, in `quant`.
        max_memory: Bytes of weights, KV cache and workspace for a sequence of `context` tokens, in `quant`.
        widths: A file with the widths of every layer, as `read_widths` takes it.
        heads: Query heads that every layer keeps, in whole KV groups.
        intermediate: MLP dims that every layer keeps; may go with `heads`.
        quant: The quantization that bytes are counted in.
        context: Tokens of `max_memory`.

    Raises:
        UsageError: None of these, widths with limits, or a value out of range.
    """

    ratio: float | None = None
    target_params: int | None = None
    max_weight_bytes: int | None = None
    max_kv_bytes_per_token: int | None = None
    max_memory: int | None = None
    widths: Path | None = None
    heads: int | None = None
    intermediate: int | None = None
    quant: str = DEFAULT_QUANT
    context: int = costs.DEFAULT_CONTEXT

    def __post_init__(self) -> None:
        limits = [f"--{name.replace('_', '-')}" for name in LIMITS if getattr(self, name) is not None]
        shapes = ["--widths"] if self.widths else []
        shapes += ["--heads/--intermediate"] if self.heads is not None or self.intermediate is not None else []
        if not limits and not shapes:
            raise UsageError(
                "no budget: how small shall the model be?",
                fix="Give --ratio, --target-params, another limit, --widths, or --heads with --intermediate.",
            )
        if len(shapes) + bool(limits) > 1:
            raise UsageError(
                f"several budgets at once: {', '.join(limits + shapes)}",
                fix="Limits go together; --widths, or --heads with --intermediate, stand alone.",
            )
        # `not (a < b)` rather than `a >= b`, which NaN would pass.
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise UsageError(
                f"--ratio {self.ratio} is not between 0 and 1",
                fix="It is the share of attention and MLP parameters to remove: 0.3 removes 30 %.",
            )
        for name in (*LIMITS[1:], "heads", "intermediate", "context"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value} is not at least 1", fix="Give a positive number.")
        get_quantization(self.quant)

    @classmethod
    def from_options(cls, **options: Any) -> Budget:
        """From options as a command line or a file has them: numbers with units, paths as text, `None` for none."""
        given = {name: value for name, value in options.items() if value is not None}
        for name in {"target_params", "widths", *LIMITS[2:]} & set(given):
            value = given[name]
            if name == "widths":
                given[name] = Path(value)
            else:
                given[name] = parse_parameters(value) if name == "target_params" else parse_bytes(value)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """What was asked for, without what wasn't."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        if not {"max_weight_bytes", "max_kv_bytes_per_token", "max_memory"} & set(values):
            del values["quant"]
        if "max_memory" not in values:
            del values["context"]
        return values | ({"widths": str(self.widths)} if self.widths else {})

    def limits(self, source: WidthPlan) -> Sequence[Limit]:
        """The limits that hold, for the pruned model of a source."""
        quantization = get_quantization(self.quant)
        limits = []
        if self.ratio is not None:
            bound = costs.prunable_parameters(source) * (1 - self.ratio)
            unit = "attention and MLP parameters"
            limits.append(Limit(f"--ratio {self.ratio:g}", bound, costs.prunable_parameters, unit, nearest=True))
        if self.target_params is not None:
            limits.append(Limit("--target-params", self.target_params, costs.parameters, "parameters", nearest=True))
        if self.max_weight_bytes is not None:
            limits.append(
                Limit(
                    "--max-weight-bytes",
                    self.max_weight_bytes,
                    lambda plan: costs.weight_bytes(plan, quantization),
                    f"bytes in {self.quant}",
                )
            )
        if self.max_kv_bytes_per_token is not None:
            limits.append(
                Limit(
                    "--max-kv-bytes-per-token",
                    self.max_kv_bytes_per_token,
                    lambda plan: costs.kv_bytes_per_token(plan, quantization),
                    f"bytes a token in {self.quant}",
                )
            )
        if self.max_memory is not None:
            limits.append(
                Limit(
                    "--max-memory",
                    self.max_memory,
                    lambda plan: costs.memory_bytes(plan, quantization, self.context),
                    f"bytes at a context of {self.context} in {self.quant}",
                )
            )
        return limits


def parse_parameters(text: str | int) -> int:
    """A number of parameters: ``1.3B``, ``900M``, ``64k`` or plain digits.

    Raises:
        UsageError: It isn't one.
    """
    return _parse(text, PARAMETERS, "--target-params", "a number of parameters", "Write 1.3B, 900M or digits.")


def parse_bytes(text: str | int) -> int:
    """A number of bytes: ``600MB``, ``1.5GiB``, ``24k`` or plain digits.

    Raises:
        UsageError: It isn't one.
    """
    return _parse(text, BYTES, "", "a number of bytes", "Write 600MB, 1.5GiB or digits.")


def _parse(text: str | int, units: dict[str, int], option: str, what: str, fix: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", str(text).strip().replace("_", "").replace(",", ""))
    if not match or match[2].upper() not in units:
        raise UsageError(f"{option} {text!r} is not {what}".strip(), fix=fix)
    return round(float(match[1]) * units[match[2].upper()])
