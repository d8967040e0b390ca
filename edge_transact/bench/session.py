"""One call of ``bench``: devices and models found, the plan run, the results written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.artifacts.pages import require_matplotlib
from edge_transact.bench.analysis.export import FORMATS, write_sqlite
from edge_transact.bench.analysis.results import make_results
from edge_transact.bench.model import BenchModel, open_models
from edge_transact.bench.records.log import Log
from edge_transact.bench.run import Bench, Conditions, run_plan
from edge_transact.errors import EdgeTransactError, UsageError, did_you_mean


@dataclass
class BenchOutcome:
    """Results of all that the log holds, and what could not be measured."""

    results: list[dict[str, Any]]
    log: Path
    failures: list[str] = field(default_factory=list)

    def require(self) -> None:
        """Raises an `EdgeTransactError` when something could not be measured."""
        if self.failures:
            raise EdgeTransactError(
                "not everything could be measured:\n  " + "\n  ".join(self.failures),
                fix=f"What was measured is in {self.log}; the same command with --resume goes on from there.",
            )


def bench_models(
    dists: Sequence[Path],
    conditions: Conditions,
    *,
    device: str,
    target: str | None,
    runner: Path,
    app: str = "",
    log: Path,
    resume: bool,
    format: str,
    report: Path | None = None,
    perplexities: Mapping[str, float] | None = None,
    published: bool = False,
    clean: bool = False,
) -> BenchOutcome:
    """Measure DISTs on devices.

    Args:
        dists: Directories that ``build`` wrote.
        conditions: What to measure, and how.
        device: ``host``, serials, or ``all``.
        target: ``android`` or ``android-cpu``; None takes what every DIST holds, OpenCL first.
        runner: Where ``android_bench/`` was built.
        app: Run in this installed app instead.
        log: The JSONL log.
        resume: Go on with it.
        format: One of `export.FORMATS`; ``sqlite`` is written beside the log.
        report: A directory for figures and a page.
        perplexities, published: As `report.write_report`.
        clean: Remove the models from the devices at the end.

    Raises:
        UsageError: Options that make no sense.
        EdgeTransactError: No device, no library, a log that is there already.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown --format {format!r}", fix=did_you_mean(format, FORMATS))
    if report is not None:
        if not resume:
            refuse_existing(report, force=False)
        require_matplotlib()
    models = open_models(dists, conditions.lengths)
    benches = _benches(device, target, models, runner, app, conditions, clean)
    file = Log(log, resume=resume)
    try:
        outcome = run_plan(benches, models, conditions, file)
    finally:
        file.close()
    results = make_results(file.records)
    if format == "sqlite":
        write_sqlite(results, log.with_suffix(".sqlite"))
    if report is not None and results:
        from edge_transact.bench.analysis.report import write_report

        write_report(file.records, report, perplexities=perplexities, published=published, force=resume)
    return BenchOutcome(results, log, outcome.failures)


def _benches(
    device: str,
    target: str | None,
    models: Sequence[BenchModel],
    runner: Path,
    app: str,
    conditions: Conditions,
    clean: bool,
) -> list[Bench]:
    if device == "host":
        if app:
            raise UsageError("--app needs a phone", fix="Name one with --device, or `--device all`.")
        from edge_transact.bench.drivers.host import HostBench

        for model in models:
            model.library("host")
        return [HostBench(conditions)]
    from edge_transact.bench.drivers.android import AndroidBench
    from edge_transact.bench.drivers.app import AppBench
    from edge_transact.bench.drivers.devices import describe, find_devices, labels

    target = target or _common_target(models)
    for model in models:
        model.library(target)
    devices = find_devices(device)
    infos = [describe(phone) for phone in devices]
    names = labels(infos)
    return [
        AppBench(phone, info, names[info.serial], target, conditions, app)
        if app
        else AndroidBench(phone, info, names[info.serial], target, conditions, runner, clean=clean)
        for phone, info in zip(devices, infos, strict=True)
    ]


def _common_target(models: Sequence[BenchModel]) -> str:
    for target in ("android", "android-cpu"):
        if all(target in model.manifest.libraries for model in models):
            return target
    raise UsageError(
        "no Android target is among the libraries of every DIST",
        fix="Build them with `--target android`, or measure on this machine with --device host.",
    )
