"""Phones without a profile: the bandwidth of their DRAM, and what others measured on them, each with its source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_transact import costs
from edge_transact.costs.profile import Profile, Rates, roofline
from edge_transact.quantization import Quantization, get_quantization
from edge_transact.widths import WidthPlan

_DATA: dict[str, Any] = json.loads((Path(__file__).parent / "phones.json").read_text())

MODELS: dict[str, dict[str, Any]] = _DATA["models"]
"""Of `PUBLISHED`, by name: what their ``config.json`` says of their shape."""

QUANTIZATION, CONTEXT = "q4f16_0", 256 + 64 // 2
"""In which they are counted, and the mean context while 64 tokens are decoded after 256, as PocketPal measures."""

LAUNCH_S = 5e-6


@dataclass(frozen=True)
class Phone:
    """A phone: the peak of its DRAM by the page `memory`, and the clock of its fastest core by the page `cores`."""

    name: str
    chip: str
    soc: str
    bandwidth_gb_s: float
    memory: str
    ghz: float | None = None
    cores: str | None = None


@dataclass(frozen=True)
class Published:
    """Tokens a second that others published, of a model in 4 bits: decoded on a unit, or of a prompt on the CPU."""

    soc: str
    model: str
    program: str
    source: str
    cpu: float | None = None
    opencl: float | None = None
    hexagon: float | None = None
    prefill: float | None = None
    prompt: int = 256


PHONES = {row["name"].lower().replace(" ", "-"): Phone(**row) for row in _DATA["phones"]}
"""By the names that the command line takes: ``galaxy-s23``."""

PUBLISHED = [Published(**row) for row in _DATA["published"]]


def plan_of(model: str) -> WidthPlan:
    """The widths of one of `MODELS`."""
    return WidthPlan.from_config(MODELS[model])


def decode_bytes(model: str) -> int:
    """What a decoded token of one of `MODELS` reads."""
    return costs.decode_read_bytes(plan_of(model), get_quantization(QUANTIZATION), CONTEXT)


def shares() -> tuple[float, float]:
    """The lowest and the highest share of the peak bandwidth that others' CPU kernels reached with Qwen3-1.7B."""
    peaks = {phone.soc: phone.bandwidth_gb_s for phone in PHONES.values()}
    rows = [row for row in PUBLISHED if row.cpu and row.model == "Qwen3-1.7B"]
    reached = [row.cpu * decode_bytes(row.model) / peaks[row.soc] / 1e9 for row in rows if row.cpu]
    return min(reached), max(reached)


def prefill_of(phone: Phone) -> Published | None:
    """What is published of a phone's prefill; `None` where nothing is."""
    return next((row for row in PUBLISHED if row.soc == phone.soc and row.prefill), None)


def rooflines(
    phone: Phone, plan: WidthPlan, quantization: Quantization, contexts: list[int]
) -> tuple[Profile, Profile]:
    """What a phone takes at the lowest and at the highest of `shares`, in a library for its CPU.

    Its arithmetic is what a published prefill computed in a second; where there is none, it takes no time.
    """
    row, flops_per_s = prefill_of(phone), 1e18
    if row and row.prefill:
        flops_per_s = costs.prefill_flops(plan_of(row.model), row.prompt) / row.prompt * row.prefill
    slow, fast = (Rates(share * phone.bandwidth_gb_s * 1e9, flops_per_s, LAUNCH_S) for share in shares())
    made: dict[str, Any] = {"contexts": contexts, "target": "android-cpu", "prefill_chunk": costs.DEFAULT_PREFILL_CHUNK}
    return roofline(plan, quantization, slow, **made), roofline(plan, quantization, fast, **made)
