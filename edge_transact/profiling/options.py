"""A profile's options: on what, for which contexts, and how precisely."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from edge_transact.errors import UsageError
from edge_transact.options import COMMAS, OneOf, Option, Options, Share
from edge_transact.quantization import QUANTIZATIONS

PRECISION, ROOFLINE = "Precision", "Without a device"
"""The panels of ``profile --help``."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ProfileOptions(Options):
    """The options of a profile.

    Raises:
        UsageError: A roofline is described in part or beside a device, or several devices are named.
    """

    device: Annotated[str, Option("host, or a serial that adb knows.")] = "host"
    target: Annotated[
        Annotated[str, OneOf(("host", "android", "android-cpu"))] | None,
        Option("Library to measure: {choices}. android is OpenCL.", default="host, or android-cpu on phones"),
    ] = None
    quant: Annotated[
        Annotated[str, OneOf(tuple(QUANTIZATIONS), "quantization")] | None,
        Option("Quantization: {choices}.", default="the DIST's, or q4f16_0 for android, else q4f32_1"),
    ] = None
    contexts: Annotated[
        list[Annotated[int, Field(strict=False, ge=1, le=1 << 20)]],
        COMMAS,
        Field(min_length=1),
        Option("Tokens in the cache at which attention is measured; a profile goes to the largest.", metavar="N[,N]"),
    ] = Field([256, 1024, 2048])
    threads: Annotated[int, Field(ge=0), Option("Number of CPU threads; 0 is the runtime's choice.")] = 0
    runner: Annotated[
        Path | None,
        Option(
            "Directory where android_bench was built for the phone.",
            envvar="EDGE_BENCH_RUNNER",
            default="android_bench/build; without it, the portable runner",
        ),
    ] = None
    repetitions: Annotated[
        Annotated[int, Field(ge=2, le=1000)], Option("Rounds in which all probes take turns, at least.", PRECISION)
    ] = 3
    until: Annotated[
        Share,
        Option("Add rounds until the whole model is known to this share, up to twice as many.", PRECISION),
    ] = 0.02
    bandwidth_gb_s: Annotated[
        Positive | None, Option("Memory bandwidth of a device that isn't here, in GB/s.", ROOFLINE, example=50)
    ] = None
    gflops: Annotated[Positive | None, Option("Its arithmetic, in GFLOPs a second.", ROOFLINE, example=500)] = None
    launch_us: Annotated[Positive, Option("What starting a kernel takes, in microseconds.", ROOFLINE)] = 5

    @model_validator(mode="after")
    def _is_of_one_device(self) -> ProfileOptions:
        if (self.bandwidth_gb_s is None) != (self.gflops is None):
            raise UsageError("half a roofline", fix="Give both --bandwidth-gb-s and --gflops.")
        measured = self.model_fields_set & {"device", "threads", "runner", "repetitions", "until"}
        if self.gflops and measured:
            raise UsageError(f"--gflops describes a device that isn't here, so --{min(measured)} says nothing")
        if self.device == "all" or "," in self.device:
            raise UsageError(f"--device {self.device}: a profile is of one device", fix="Name one serial.")
        if (self.device == "host") != (self.library_target == "host") and not self.gflops:
            raise UsageError(f"--target {self.target} doesn't run on {self.device}", fix="Leave --target out.")
        return self

    @property
    def library_target(self) -> str:
        return self.target or ("host" if self.device == "host" else "android-cpu")
