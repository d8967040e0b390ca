"""A bench's options: what to measure, under which conditions, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from edge_transact.bench.records.conditions import Conditions
from edge_transact.options import OneOf, Option

WHERE = "Where"
"""The panel of ``bench --help``."""


class BenchOptions(Conditions):
    """The options of a bench."""

    device: Annotated[str, Option("host, all, or serials that adb knows, comma-separated.", WHERE)] = "host"
    target: Annotated[
        Annotated[str, OneOf(("android", "android-cpu"))] | None,
        Option("Library to measure on phones: {choices}. android is OpenCL.", WHERE, default="what all DISTs have"),
    ] = None
    runner: Annotated[
        Path, Option("Directory where android_bench was built for the phone.", WHERE, envvar="EDGE_BENCH_RUNNER")
    ] = Path("android_bench/build")
    app: Annotated[str, Option("Run in this bundled app instead of the runner.", WHERE, metavar="PACKAGE")] = ""
