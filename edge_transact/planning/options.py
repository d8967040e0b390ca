"""The options of a plan: what the model may take, on which device, and which candidates there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from edge_transact.errors import UsageError
from edge_transact.options import COMMAS, Bytes, Count, OneOf, Option, Options, Seconds, Share, TokensAndTime
from edge_transact.planning.phones import PHONES
from edge_transact.quantization import QUANTIZATIONS

LIMITS, DEVICE, CANDIDATES = "Limits", "Device", "Candidates"
"""The panels of ``plan --help``."""

PROMPT = 256


class PlanOptions(Options):
    """What is wanted, where, and what may be tried for it.

    Raises:
        UsageError: A time is limited and no device is given, or both kinds of device are.
    """

    memory: Annotated[
        Bytes | None, Option("Maximum size of weights, KV cache and workspace together.", LIMITS, example="600MB")
    ] = None
    max_weight_bytes: Annotated[Bytes | None, Option("Maximum size of all weights.", LIMITS, example="400MB")] = None
    max_decode: Annotated[
        Seconds | None, Option("Maximum time of one decoded token; 50ms are 20 tokens a second.", LIMITS)
    ] = None
    max_prefill: Annotated[
        TokensAndTime | None, Option("Maximum time of the prefill of so many tokens.", LIMITS, example="256:1.5s")
    ] = None
    profile: Annotated[
        list[Annotated[Path, Field(strict=False)]],
        COMMAS,
        Option("The device's profiles, one a quantization.", DEVICE, metavar="FILE[,FILE]", example="phone.json"),
    ] = Field([])
    phone: Annotated[
        Annotated[str, OneOf(tuple(PHONES))] | None,
        Option("Predict times from a phone's memory bandwidth instead: {choices}.", DEVICE, example="galaxy-s23"),
    ] = None
    context: Annotated[
        Count | None,
        Option("Tokens in the KV cache.", DEVICE, default="2048, or the model's maximum if smaller", example=2048),
    ] = None
    prompts: Annotated[
        list[Annotated[int, Field(strict=False, ge=1, le=10**6)]],
        COMMAS,
        Option("Tokens of prompts.", DEVICE, metavar="N[,N]", default="256, or the context if smaller", example="256"),
    ] = Field([])
    quant: Annotated[
        list[Annotated[str, OneOf(tuple(QUANTIZATIONS), "quantization")]],
        COMMAS,
        Option("Quantizations to try: {choices}.", CANDIDATES, default="one of each number of bits"),
    ] = Field([])
    ratios: Annotated[
        list[Share], COMMAS, Option("Shares of attention and MLP to cut.", CANDIDATES, metavar="SHARE[,SHARE]")
    ] = Field([0.1, 0.2, 0.3, 0.4, 0.5])
    heal: Annotated[bool, Option("Also train, which takes CPU hours.", CANDIDATES, flags=("--heal/--no-heal",))] = True

    @model_validator(mode="after")
    def _has_one_device(self) -> PlanOptions:
        if self.profile and self.phone:
            raise UsageError("--profile and --phone", fix="Give one of them: a profile knows its device better.")
        if (self.max_decode or self.max_prefill) and not (self.profile or self.phone):
            fix = f"Give --profile, as edge-transact profile writes it, or --phone: {', '.join(PHONES)}."
            raise UsageError("a time is limited, and no device is given", fix=fix)
        return self
