"""One call of ``bench``: finds devices and models, runs the plan, and writes the results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from edge_transact.artifacts.dist_files import TUNING
from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.artifacts.summary import Summarized, Summary
from edge_transact.benchmarking.analysis.export import FORMATS, NARROW, columns, write_sqlite
from edge_transact.benchmarking.analysis.intervals import known_to
from edge_transact.benchmarking.analysis.results import Result, make_results
from edge_transact.benchmarking.analysis.sustained import Sustained, make_sustained, summarized
from edge_transact.benchmarking.drivers.base import Driver, phone_lock
from edge_transact.benchmarking.estimate import Plan, all_of_it, make_plan
from edge_transact.benchmarking.model import BenchModel, open_models
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.portable import RUNNER, SOURCE, portable_runner
from edge_transact.benchmarking.records.log import Log, read_records
from edge_transact.benchmarking.records.record import Record, labels
from edge_transact.benchmarking.records.tuned import read_tuning, write_tuning
from edge_transact.benchmarking.run import GivenUp, run_plan
from edge_transact.benchmarking.tuning import TuningResult, candidates, judge
from edge_transact.cache import cache_directory
from edge_transact.cache.resume import RESUME_HINT, Start, resume_hint
from edge_transact.errors import EdgeTransactError, UsageError, did_you_mean
from edge_transact.options import written

logger = logging.getLogger(__name__)


@dataclass(repr=False)
class BenchOutcome(Summarized):
    """How a bench ended: the results of everything in the log, what could not be finished, and what ``tune`` found.

    `sustained` are the series of sustained visits, which make no results.
    """

    results: list[Result]
    log: Path
    page: Path | None = None
    failures: list[str] = field(default_factory=list)
    tuning: TuningResult | None = None
    sustained: list[Sustained] = field(default_factory=list)

    def summary(self) -> Summary:
        """The most important columns of the results, or the series where there is nothing else."""
        cells = columns(self.results, NARROW)
        failed = {"failed": "; ".join(self.failures)} if self.failures else {}
        if self.sustained and not self.results:
            return summarized(str(self.log), self.sustained, failed)
        return Summary(str(self.log), failed, list(cells), list(zip(*cells.values(), strict=True)))

    def require(self) -> None:
        """Raise an `EdgeTransactError` if something could not be measured."""
        if self.failures:
            raise EdgeTransactError(
                "not everything could be measured:\n  " + "\n  ".join(self.failures),
                fix=f"What was measured is in {self.log}. {RESUME_HINT}",
            )


@resume_hint()
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
    clean: bool = False,
    evidence: Path | None = None,
    llama_cpp: Path | None = None,
    ggufs: Sequence[Path] = (),
) -> BenchOutcome:
    """Measure DISTs on devices, with the options of ``edge-transact bench``.

    `format` is one of `export.FORMATS`; ``sqlite`` is written next to the log. With an earlier log, an earlier `report`
    is replaced. `ggufs` are the DISTs as GGUF, for `llama_cpp`.

    Raises:
        UsageError: The options make no sense, or `report` would replace an input, the log or the working directory.
        EdgeTransactError: There is no device or no library, or the log or `report` is something else.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown --format {format!r}", fix=did_you_mean(format, FORMATS))
    if evidence is not None:
        from edge_transact.benchmarking import evidence as file_of_evidence

        file_of_evidence.refuse(evidence)
    replace = False
    if report is not None:
        from edge_transact.benchmarking.analysis.report import write_report

        # The report of a log is written again as the log grows.
        replace = log.exists()
        refuse_existing(report, replace, "Choose another directory, or remove it.", apart_from=[*dists, log])
    models = _models(dists, options, llama_cpp, ggufs)
    _check_names(perplexities or {}, models, log, fresh)
    drivers = drivers_of(models, options, clean=clean)
    tried = _candidates(models, drivers, options)
    conditions = options.model_dump(include={"warmups", "threads", "cores", "app"})
    file = Log(log, conditions, Start.of(resume=resume, fresh=fresh))
    digests = [model.digest for model in tried]

    def known(driver: Driver, given_up: Set[GivenUp]) -> float:
        records = [record for record in tuple(file.records) if record.sustained_s is None]
        own = [record for record in records if record.serial == driver.info.serial]
        return known_to(own, digests, {model.target_on(driver.target) for model in tried}, options.measured, given_up)

    try:
        plan = make_plan(drivers, tried, options, file.records)
        add = "" if plan.sustained_s else f"--repetitions {2 * plan.rounds} or --until 3% add to it, and "
        is_due = plan.visits or plan.until is not None
        logger.info(plan.line() if is_due else f"{log} holds all of it: {add}--fresh measures all again")
        # Two calls at once on a phone would measure each other. Those that share several take them in one order.
        with ExitStack() as held:
            for serial in sorted({driver.info.serial for driver in drivers} - {"host"}):
                held.enter_context(phone_lock(serial, f"bench on {serial}"))
            failures = run_plan(drivers, tried, options, file, known)
    finally:
        file.close()
    records = list(file.records)
    if evidence is not None:
        infos = [driver.info for driver in drivers]
        own = [each for each in models if not each.peer]
        file_of_evidence.write_evidence(evidence, records, conditions, infos, own)
    results, sustained = make_results(records, digests[0]), make_sustained(records)
    if format == "sqlite":
        write_sqlite(results, log.with_suffix(".sqlite"))
        write_sqlite(sustained, log.with_suffix(".sqlite"), "sustained")
    tuning = judge(tried, drivers[0], options.measured[0], results) if options.tune else None
    if tuning:
        _keep_tuning(tuning, dists[0])
    page = None
    if report is not None and (results or sustained):
        peer = ["--with-llama-cpp", llama_cpp] if llama_cpp else []
        write_report(
            records,
            report,
            command=written.line("bench", *dists, *written.words(options), *peer, "-o", log, "--report", report),
            baseline=digests[0],
            perplexities=perplexities,
            force=replace,
            tuning=tuning.section if tuning else None,
        )
        page = report / "index.html"
    return BenchOutcome(results, log, page, failures, tuning, sustained)


def plan_bench(
    dists: Sequence[Path],
    options: BenchOptions,
    *,
    log: Path,
    fresh: bool = False,
    llama_cpp: Path | None = None,
    builds: Sequence[str] = (),
) -> Plan:
    """What `bench_models` would do and raise, without measuring, building or making a runner.

    `fresh`: nothing counts as measured yet. `builds` are those of `dists` that are MODELs, to build before; of what
    that makes, nothing is known.
    """
    if builds:
        if options.tune:
            raise UsageError("--dry-run knows what --tune tries of a DIST", fix=f"Build {builds[0]} first.")
        return all_of_it(drivers_of([], options, dry_run=True), list(map(str, dists)), options, builds)
    models = _models(dists, options, llama_cpp, [path / "model.gguf" for path in dists])
    drivers = drivers_of(models, options, dry_run=True)
    return make_plan(drivers, _candidates(models, drivers, options), options, _earlier(log, fresh))


def _candidates(models: list[BenchModel], drivers: Sequence[Driver], options: BenchOptions) -> list[BenchModel]:
    """With ``--tune``, what the phone, the only one, runs the only DIST on; otherwise the DISTs themselves."""
    if not options.tune:
        return models
    if len(models) > 1 or len(drivers) > 1:
        raise UsageError("--tune is for one DIST on one phone", fix="Name one, and the phone's serial with --device.")
    (model,), (driver,) = models, drivers
    read_tuning(model.path)
    opencl = options.target is None and "android" in model.manifest.libraries and driver.info.opencl is not None
    return candidates(model, driver.info, opencl=opencl and _built_runner(options) is not None)


def _keep_tuning(tuning: TuningResult, dist: Path) -> None:
    for sentence in tuning.sentences:
        logger.info(sentence)
    if tuning.soc is None:
        logger.warning("the phone doesn't name its chip, as phones do from Android 12 on: this isn't kept")
    elif cache_directory() in dist.resolve().parents:
        logger.info("this isn't kept: `build` a DIST and tune that")
    else:
        try:
            logger.info(f"what runs best on {tuning.soc} is in {write_tuning(dist, tuning.soc, tuning.tuned)}")
        except OSError as error:
            logger.warning(f"{dist / TUNING} can't be written: {error.strerror}")


def _earlier(log: Path, fresh: bool) -> list[Record]:
    return read_records(log) if log.exists() and not fresh else []


def _check_names(names: Iterable[str], models: Sequence[BenchModel], log: Path, fresh: bool) -> None:
    """Refuses names of no model that the report will have."""
    known = dict.fromkeys(model.name for model in models)
    if set(names) - set(known):
        known |= dict.fromkeys(record.model for record in _earlier(log, fresh))
    for name in names:
        if name not in known:
            raise UsageError(f"--perplexity {name}=...: no such model is measured", fix=did_you_mean(name, known))


def _models(
    dists: Sequence[Path], options: BenchOptions, llama_cpp: Path | None, ggufs: Sequence[Path]
) -> list[BenchModel]:
    """The DISTs, and behind each the same in llama.cpp if that takes turns."""
    if llama_cpp and (options.device == "host" or options.app):
        raise UsageError(
            "--with-llama-cpp runs llama-bench on phones, in turns with the runner",
            fix="Name a phone with --device and leave --app out.",
        )
    if llama_cpp and options.tune:
        raise UsageError("--tune compares a DIST with itself, not with llama.cpp", fix="Leave --with-llama-cpp out.")
    if llama_cpp and options.sustained_s is not None:
        raise UsageError("llama-bench says nothing before it ends", fix="Leave --with-llama-cpp or --sustained out.")
    if llama_cpp and not llama_cpp.is_file():
        raise UsageError(f"{llama_cpp} is not a file", fix="Name the llama-bench that you built for the phone.")
    if options.batch > 1 and options.device != "host":
        raise UsageError(
            f"--batch {options.batch} is for this host: on a phone, one prompt is answered at a time",
            fix="Leave it out, or measure with --device host.",
        )
    models = open_models(dists, options.measured)
    if llama_cpp is None:
        return models
    return [
        each for model, gguf in zip(models, ggufs, strict=True) for each in (model, model.in_llama_cpp(llama_cpp, gguf))
    ]


def drivers_of(
    models: Sequence[BenchModel], options: BenchOptions, *, clean: bool = False, dry_run: bool = False
) -> list[Driver]:
    """The devices of a bench, with what runs visits on them; an `EdgeTransactError` if that isn't possible."""
    if options.device == "host":
        if options.app:
            raise UsageError("--app needs a phone", fix="Name one with --device, or `--device all`.")
        from edge_transact.benchmarking.drivers.host import HostDriver

        for model in models:
            model.library("host")
        return [HostDriver(options)]
    from edge_transact.benchmarking.drivers.adb.devices import describe, find_devices
    from edge_transact.benchmarking.drivers.adb.runner import RunnerDriver
    from edge_transact.benchmarking.drivers.app import AppDriver

    built = None if options.app else _built_runner(options)
    devices = find_devices(options.device)
    infos = [describe(phone) for phone in devices]
    opencl = bool(options.app or built) and all(info.opencl for info in infos)
    target = options.target or ("android-cpu" if options.tune else _common_target(models, opencl=opencl))
    for model in models:
        model.library(target, link=not dry_run)
    runner = built or (Path() if options.app or dry_run else _portable_runner(target))
    # One that the NDK built has to prove itself on the phone, unless it is named.
    otherwise = portable_runner if built and options.runner is None else None
    names = labels({info.serial: info.name for info in infos})
    return [
        AppDriver(phone, info, names[info.serial], target, options, options.app)
        if options.app
        else RunnerDriver(phone, info, names[info.serial], target, options, runner, clean, otherwise)
        for phone, info in zip(devices, infos, strict=True)
    ]


def _built_runner(options: BenchOptions) -> Path | None:
    """Where the runner was built for the phone; None if it wasn't, and none is named."""
    directory = options.runner or Path("android_bench/build")
    if (directory / RUNNER).is_file():
        return directory
    if options.runner is not None:
        raise UsageError(
            f"{options.runner} holds no {RUNNER}",
            fix="Build it as docs/bench.md says, or leave --runner and EDGE_BENCH_RUNNER out: a portable one is made.",
        )
    return None


def require_phone(options: BenchOptions, target: str) -> None:
    """Raises what keeps a bench from running on phones, before a model is built for them."""
    from edge_transact.benchmarking.drivers.adb.devices import find_devices

    find_devices(options.device)
    if not options.app and _built_runner(options) is None:
        _portable_runner(target)


@cache
def _portable_runner(target: str) -> Path:
    if target == "android":
        raise UsageError(
            "OpenCL needs a runner built with the NDK",
            fix=f"Build it from {SOURCE} as docs/bench.md says, and name its directory with --runner. Or measure the "
            "CPU: build with `--target android-cpu`.",
        )
    logger.info("runner: the portable one, for CPUs; OpenCL needs the NDK's")
    return portable_runner()


def _common_target(models: Sequence[BenchModel], *, opencl: bool) -> str:
    """The target to measure: OpenCL first, but last where a phone or the runner has none."""
    for target in ("android", "android-cpu") if opencl else ("android-cpu", "android"):
        if all(target in model.manifest.libraries for model in models):
            return target
    raise UsageError(
        "the DISTs have no Android target in common",
        fix="Build them with `--target android-cpu`, or measure on this machine with --device host.",
    )
