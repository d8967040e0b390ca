"""One call of ``bench``: finds devices and models, runs the plan, and writes the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.artifacts.pages import require_matplotlib
from edge_transact.artifacts.shown import Shown, Summary
from edge_transact.artifacts.unfinished import AGAIN, Start, again
from edge_transact.bench.analysis.export import FORMATS, write_sqlite
from edge_transact.bench.analysis.results import make_results
from edge_transact.bench.drivers.base import Driver
from edge_transact.bench.model import BenchModel, open_models
from edge_transact.bench.options import BenchOptions
from edge_transact.bench.records.llama_bench import read_llama_bench
from edge_transact.bench.records.log import Log
from edge_transact.bench.records.results import Result
from edge_transact.bench.run import run_plan
from edge_transact.errors import EdgeTransactError, UsageError, did_you_mean


@dataclass(repr=False)
class BenchOutcome(Shown):
    """How a bench ended.

    Attributes:
        results: Results of everything in the log.
        log: The log.
        failures: One sentence for each visit or device that could not be finished.
    """

    results: list[Result]
    log: Path
    failures: list[str] = field(default_factory=list)

    def summary(self) -> Summary:
        """The most important columns of the results."""
        header = ("model", "device", "test", "ttft s", "prefill tok/s", "decode tok/s")
        rows = [
            (
                *(result["model"], result["device"], result["test"], f"{result['ttft_s']:.3f}"),
                *(
                    "-" if speed is None else f"{speed:,.1f}"
                    for speed in (result["prefill_tok_s"], result["decode_tok_s"])
                ),
            )
            for result in self.results
        ]
        return Summary(str(self.log), {"failed": "; ".join(self.failures)} if self.failures else {}, header, rows)

    def require(self) -> None:
        """Raise an `EdgeTransactError` if something could not be measured."""
        if self.failures:
            raise EdgeTransactError(
                "not everything could be measured:\n  " + "\n  ".join(self.failures),
                fix=f"What was measured is in {self.log}. {AGAIN}",
            )


@again()
def bench_models(
    dists: Sequence[Path],
    options: BenchOptions,
    *,
    log: Path,
    resume: bool = False,
    fresh: bool = False,
    format: str = "md",
    report: Path | None = None,
    perplexities: Mapping[str, float] | None = None,
    published: bool = False,
    llama_bench: Path | None = None,
    clean: bool = False,
) -> BenchOutcome:
    """Measure DISTs on devices.

    Args:
        dists: Directories that ``build`` wrote.
        options: What to measure, under which conditions, and where.
        log: The JSONL log.
        resume: Fail if there is no log to go on with.
        fresh: Keep an earlier log aside, and measure everything.
        format: One of `export.FORMATS`; ``sqlite`` is written next to the log.
        report: Output directory for figures and a page.
        perplexities: As in `report.write_report`.
        published: As in `report.write_report`.
        llama_bench: What ``llama-bench -o json`` printed on the same device; its results follow the others.
        clean: Remove the models from the devices at the end.

    Raises:
        UsageError: The options make no sense.
        EdgeTransactError: There is no device or no library, or the log is another file or another process's.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown --format {format!r}", fix=did_you_mean(format, FORMATS))
    has_log = log.exists()
    if report is not None:
        # What belongs to a log is written again as the log grows.
        refuse_existing(report, force=has_log)
        require_matplotlib()
    models = open_models(dists, options.lengths)
    drivers = _drivers(models, options, clean)
    conditions = options.model_dump(include={"warmups", "threads", "cores", "app"})
    file = Log(log, conditions, Start.of(resume=resume, fresh=fresh))
    try:
        outcome = run_plan(drivers, models, options, file)
    finally:
        file.close()
    records = list(file.records)
    if llama_bench is not None:
        records += read_llama_bench(llama_bench, records)
    results = make_results(records)
    if format == "sqlite":
        write_sqlite(results, log.with_suffix(".sqlite"))
    if report is not None and results:
        from edge_transact.bench.analysis.report import write_report

        write_report(records, report, perplexities=perplexities, published=published, force=has_log)
    return BenchOutcome(results, log, outcome.failures)


def _drivers(models: Sequence[BenchModel], options: BenchOptions, clean: bool) -> list[Driver]:
    if options.device == "host":
        if options.app:
            raise UsageError("--app needs a phone", fix="Name one with --device, or `--device all`.")
        from edge_transact.bench.drivers.host import HostDriver

        for model in models:
            model.library("host")
        return [HostDriver(options)]
    from edge_transact.bench.drivers.adb.devices import describe, find_devices, labels
    from edge_transact.bench.drivers.adb.runner import RunnerDriver
    from edge_transact.bench.drivers.app import AppDriver

    target = options.target or _common_target(models)
    for model in models:
        model.library(target)
    devices = find_devices(options.device)
    infos = [describe(phone) for phone in devices]
    names = labels(infos)
    return [
        AppDriver(phone, info, names[info.serial], target, options, options.app)
        if options.app
        else RunnerDriver(phone, info, names[info.serial], target, options, options.runner, clean=clean)
        for phone, info in zip(devices, infos, strict=True)
    ]


def _common_target(models: Sequence[BenchModel]) -> str:
    for target in ("android", "android-cpu"):
        if all(target in model.manifest.libraries for model in models):
            return target
    raise UsageError(
        "the DISTs have no Android target in common",
        fix="Build them with `--target android`, or measure on this machine with --device host.",
    )
