"""A build's options: for what, in which quantization, and with which sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from edge_transact import costs
from edge_transact.compiler.gpu.devices import DEVICES, GENERIC
from edge_transact.compiler.targets import TARGETS
from edge_transact.options import COMMAS, Count, OneOf, Option, Options
from edge_transact.pruning.options import BUDGET_KEYS, PruneOptions
from edge_transact.quantization import QUANTIZATIONS

ENGINES = ("tvm", "mlc")

ROUNDINGS = ("nearest", "search", "gptq", "best")
"""How weights become 4-bit: as MLC does, with searched scales, or fitted to calibration text, too: layer by layer, and
then all layers together."""

CALIBRATED_ROUNDINGS = ("gptq", "best")


def check_pruning(pruning: Mapping[str, Any], rounding: str | None) -> None:
    """A `UsageError` for options of pruning that a build ignores: no budget, and no rounding that reads text."""
    reads_text = rounding in CALIBRATED_ROUNDINGS and not set(pruning) & set(BUDGET_KEYS)
    if pruning and not reads_text:
        PruneOptions(**pruning)


class BuildOptions(Options):
    """What is built."""

    target: Annotated[
        list[Annotated[str, OneOf(tuple(TARGETS))]],
        COMMAS,
        Field(min_length=1),
        Option("What to build for: {choices}; comma-separated."),
    ] = Field(["android", "host"])
    quant: Annotated[
        Annotated[str, OneOf(tuple(QUANTIZATIONS), "quantization")] | None,
        Option("Quantization: {choices}.", default="q4f16_0 for android, else q4f32_1", example="q4f16_0"),
    ] = None
    rounding: Annotated[
        Annotated[str, OneOf(ROUNDINGS)] | None,
        Option(
            "How weights are rounded to 4 bits: {choices}. nearest is MLC-LLM's; gptq and best read calibration text.",
            default="search, or nearest with --engine mlc",
            example="search",
        ),
    ] = None
    context: Annotated[
        Count | None,
        Option(
            "Maximum number of tokens in a sequence.",
            default=f"{costs.DEFAULT_CONTEXT}, or the model's maximum if smaller",
            example=costs.DEFAULT_CONTEXT,
        ),
    ] = None
    prefill_chunk: Annotated[
        Count | None,
        Option(
            "Tokens per prefill call.",
            default=f"{costs.DEFAULT_PREFILL_CHUNK}, {costs.HOST_PREFILL_CHUNK} for host alone, or a smaller context",
            example=costs.DEFAULT_PREFILL_CHUNK,
        ),
    ] = None
    max_batch: Annotated[Count, Option("Number of sequences decoded together.")] = 1
    device_profile: Annotated[
        Annotated[str, OneOf(tuple(DEVICES), "device profile")],
        Option("The phones' GPUs that android libraries must run on: {choices}."),
    ] = GENERIC.name
    cpu: Annotated[
        str | None,
        Option(
            "CPU that the host library is for, by LLVM's name, such as haswell or znver3.",
            default="this machine's",
            example="haswell",
        ),
    ] = None
    engine: Annotated[
        Annotated[str, OneOf(ENGINES)],
        Option("Whose compiler: {choices}. mlc uses your MLC-LLM checkout (MLC_LLM_SOURCE_DIR)."),
    ] = "tvm"
