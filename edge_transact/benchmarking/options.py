"""A bench's options: what to measure, under which conditions, and where."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from edge_transact.benchmarking.records.plan import MOST_REPETITIONS, Lengths, Visit, make_rounds, parse_lengths
from edge_transact.errors import UsageError
from edge_transact.options import BadValue, Count, OneOf, Option, Options, Share

MOST_ROUNDS = 50
"""With ``--until``, a plan ends after so many rounds whatever is known by then."""

PLAN, WHERE = "Plan", "Where"
"""The panels of ``bench --help``."""

Natural = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d+)?)\s*([smh]?)\s*", value, re.ASCII)
    seconds = float(match[1]) * {"m": 60, "h": 3600}.get(match[2], 1) if match else 0
    if not 1 <= seconds <= 6 * 3600:
        raise BadValue(f"{value!r} is not between 1s and 6h", fix="Write it as 10m.")
    return seconds


class BenchOptions(Options):
    """The options of a bench.

    Raises:
        UsageError: A visit could start above the ceiling, or `tune` or `sustained_s` contradicts another option.
    """

    lengths: Annotated[
        tuple[Lengths, ...],
        BeforeValidator(lambda value: tuple(parse_lengths(value)) if isinstance(value, str) else value),
        Option("Pairs of PREFILL+DECODE tokens, comma-separated.", PLAN),
    ] = (Lengths(64, 64), Lengths(256, 64), Lengths(256, 256))
    repetitions: Annotated[Count, Option("Measured repetitions of each model and length.", PLAN)] = 5
    batch: Annotated[Count, Option("Number of prompts answered together, on a host.", PLAN)] = 1
    until: Annotated[
        Share | None,
        Option("Add rounds until ratios and latencies are known to this, with 95 % confidence.", PLAN, example="3%"),
    ] = None
    sustained_s: Annotated[
        Annotated[float, Field(ge=1, le=6 * 3600)] | None,
        BeforeValidator(_duration),
        Option("Decode without a pause for so long, from 1s to 6h.", PLAN, flags=("--sustained",), example="10m"),
    ] = None
    per_visit: Annotated[
        Count,
        Option("Repetitions in a row each time a model is loaded; a model that loads slowly may want more.", PLAN),
    ] = 1
    warmups: Annotated[Natural, Option("Repetitions at the start of a visit that don't count.", PLAN)] = 1
    threads: Annotated[Natural, Option("Number of CPU threads; on a host, 0 is one for each big core.", PLAN)] = 0
    cores: Annotated[str, Option("CPU cores to run on.", PLAN, example="4-7")] = ""
    cool_c: Annotated[
        float, Option("Start a visit when the phone's skin is at most this warm, in C.", PLAN, flags=("--cool-below",))
    ] = 37
    ceiling_c: Annotated[float, Option("Pause the plan above this temperature, in C.", PLAN, flags=("--ceiling",))] = 46
    cool_timeout_s: Annotated[
        Seconds, Option("Maximum wait for a phone to cool, in seconds.", PLAN, flags=("--cool-timeout",))
    ] = 900
    timeout_s: Annotated[
        float, Field(ge=1), Option("Maximum time of one visit, in seconds.", PLAN, flags=("--timeout",))
    ] = 1800
    reconnect_s: Annotated[
        Seconds, Option("Maximum wait for a lost phone, in seconds.", PLAN, flags=("--reconnect",))
    ] = 120
    sample_s: Annotated[float, Field(description="Seconds between sensor readings.")] = 2
    device: Annotated[str, Option("host, all, or serials that adb knows, comma-separated.", WHERE)] = "host"
    target: Annotated[
        Annotated[str, OneOf(("android", "android-cpu"))] | None,
        Option("Library to measure on phones: {choices}. android is OpenCL.", WHERE, default="what all DISTs have"),
    ] = None
    runner: Annotated[
        Path | None,
        Option(
            "Directory where android_bench was built for the phone.",
            WHERE,
            envvar="EDGE_BENCH_RUNNER",
            default="android_bench/build; without it, the portable runner",
        ),
    ] = None
    app: Annotated[str, Option("Run in this bundled app instead of the runner.", WHERE, metavar="PACKAGE")] = ""
    ignore_memory: Annotated[
        bool, Option("Measure although a phone says that it has too little memory free.", WHERE)
    ] = False
    tune: Annotated[
        bool, Option("Find the phone's cores, or its GPU, that run a DIST best, at the last of --lengths.", WHERE)
    ] = False

    @model_validator(mode="after")
    def _agrees(self) -> BenchOptions:
        if self.ceiling_c <= self.cool_c:
            raise UsageError(
                f"--ceiling {self.ceiling_c:g} is not above --cool-below {self.cool_c:g}, where a visit starts",
                fix="Raise --ceiling, or lower --cool-below.",
            )
        given = self.model_fields_set & {"threads", "cores", "app"} or {"target android"} & {f"target {self.target}"}
        if self.tune and given:
            raise UsageError(f"--tune tries cores and units itself, so leave --{min(given)} out")
        if self.tune and self.device == "host":
            raise UsageError("--tune is for a phone", fix="Name it with --device.")
        if self.tune and self.lengths[-1].decode_tokens < 2:
            raise UsageError(f"--lengths {self.lengths[-1]} decodes nothing after the first token", fix="Write 256+64.")
        others = sorted(self.model_fields_set & {"repetitions", "until", "per_visit", "tune"})
        if self.sustained_s is not None and others:
            flag = f"--{others[0].replace('_', '-')}"
            raise UsageError(f"--sustained ends by the clock, so {flag} says nothing", fix="Leave it out.")
        return self

    @property
    def measured(self) -> tuple[Lengths, ...]:
        """The lengths of each repetition, all prompts that are answered together included."""
        mostly_answers = self.sustained_s is not None and "lengths" not in self.model_fields_set
        pairs = (Lengths(64, 256),) if mostly_answers else self.lengths[-1 if self.tune else 0 :]
        return tuple(replace(pair, batch_size=self.batch) for pair in pairs)

    @property
    def limit_s(self) -> float:
        """The longest that a visit may take: `timeout_s`, after what a sustained one takes anyway."""
        return self.timeout_s + (self.sustained_s or 0)

    @property
    def rounds(self) -> int:
        """Rounds that are always run."""
        return -(-self.repetitions // self.per_visit) if self.sustained_s is None else 1

    @property
    def most_rounds(self) -> int:
        """Rounds after which a plan ends in any case."""
        return self.rounds if self.until is None else max(self.rounds, MOST_ROUNDS)

    def repetitions_by_round(self) -> list[int]:
        """Repetitions of a visit, for each of `most_rounds`."""
        if self.sustained_s is not None:
            return [MOST_REPETITIONS]
        counts = [self.per_visit] * self.most_rounds
        counts[self.rounds - 1] = self.repetitions - (self.rounds - 1) * self.per_visit
        return counts

    def planned(self, models: int) -> list[list[Visit]]:
        """The rounds of one device. A sustained bench has one."""
        rounds = make_rounds(models, self.measured, self.repetitions_by_round())
        return [[replace(visit, seconds=self.sustained_s) for visit in visits] for visits in rounds]
