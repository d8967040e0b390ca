"""Profiles from end to end: probes are built, measured in turns as `bench` measures, and their times taken apart."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from statistics import median
from typing import Any

from edge_transact import costs
from edge_transact.artifacts.dist_files import CHAT_CONFIG, MANIFEST
from edge_transact.artifacts.manifest import Manifest
from edge_transact.artifacts.outputs import new_file, refuse_existing, scratch_directory
from edge_transact.artifacts.summary import Summarized, Summary
from edge_transact.benchmarking.drivers.base import DeviceInfo, phone_lock
from edge_transact.benchmarking.model import BenchModel, open_models
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.log import Log
from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.benchmarking.records.record import RepetitionRecord
from edge_transact.benchmarking.run import run_plan
from edge_transact.benchmarking.session import drivers_of
from edge_transact.building.dist import definition_config
from edge_transact.cache.resume import RESUME_HINT, Start, resume_hint
from edge_transact.checkpoint import Checkpoint
from edge_transact.compiler.identity import host_identity, library_identity
from edge_transact.compiler.library import require_c_compiler
from edge_transact.costs.profile import Profile, Rates, roofline, shape_of
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.inputs.models import resolve_model
from edge_transact.profiling.fit import Fit, Timing, fit, relative
from edge_transact.profiling.options import ProfileOptions
from edge_transact.profiling.probes import Maker, Probe, depth_of, probes_of
from edge_transact.progress import bar
from edge_transact.quantization import Quantization, default_quantization, get_quantization
from edge_transact.reading import read_object
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)

DECODED = 9
"""Tokens of an answer."""

PER_VISIT = 2
"""Repetitions in a row; the faster one counts."""


@dataclass(frozen=True, repr=False)
class Profiled(Summarized):
    """A profile that was made. `misfit` is the largest share by which a probe's time differs from its prediction."""

    path: Path
    profile: Profile
    plan: WidthPlan
    misfit: float = 0.0

    def summary(self) -> Summary:
        """What the whole model takes."""
        profile, facts = self.profile, {}
        for context in profile.contexts:
            facts[f"decode after {context:,} tokens"] = f"{1e3 * profile.decode_s(self.plan, context):,.2f} ms a token"
            facts[f"prefill of {context:,} tokens"] = f"{profile.prefill_s(self.plan, context):,.3f} s"
        how = f"probes within {self.misfit:.1%} of it" if profile.is_measured else "a roofline, not measured"
        return Summary(f"{self.path}: {profile.quantization} on {profile.device['name']}, {how}", facts)

    def to_dict(self) -> dict[str, Any]:
        """The object that ``profile --json`` prints: the file's content and its path."""
        return {"profile": str(self.path), "misfit": self.misfit, **self.profile.model_dump()}


@resume_hint()
def profile(model: str, output: Path, options: ProfileOptions, *, fresh: bool = False, force: bool = False) -> Profiled:
    """Measures the kernels of a model's shape on a device, or computes a roofline, and writes a profile.

    Repetitions are logged beside the output, ``OUTPUT.jsonl``; the same command goes on from there.

    Raises:
        UsageError: Options contradict each other, or the context is beyond the model's.
        EdgeTransactError: The model can't be read, `output` exists, the device can't be reached, or a probe failed.
    """
    refuse_existing(output, force, apart_from=[model], begins=b"{")
    plan, config, own = shape_of_model(model)
    target = options.library_target
    quantization = get_quantization(options.quant or own or default_quantization([target]))
    most = int(config.get("max_position_embeddings") or 1 << 30)
    if "contexts" in options.model_fields_set and max(options.contexts) > most:
        raise UsageError(
            f"--contexts {max(options.contexts)} is more than the model's {most}", fix=f"Give at most {most}."
        )
    contexts = sorted({min(context, most) for context in options.contexts})
    chunk = costs.HOST_PREFILL_CHUNK if target == "host" else costs.DEFAULT_PREFILL_CHUNK
    if options.bandwidth_gb_s and options.gflops:
        rates = Rates(options.bandwidth_gb_s * 1e9, options.gflops * 1e9, options.launch_us * 1e-6)
        computed = roofline(plan, quantization, rates, target=target, contexts=contexts, prefill_chunk=chunk)
        made = Profiled(output, computed, plan)
    else:
        made = _measured(plan, config, quantization, options, min(chunk, most), contexts, output, Start.of(fresh=fresh))
    with new_file(output, b"{", force=force) as file:
        file.write_text(made.profile.model_dump_json(indent=1) + "\n")
    return made


def shape_of_model(model: str) -> tuple[WidthPlan, Mapping[str, Any], str | None]:
    """A model's or DIST's plan and configuration, and a DIST's quantization."""
    if (Path(model) / MANIFEST).is_file():
        manifest = Manifest.read(Path(model))
        return manifest.plan, read_object(Path(model) / CHAT_CONFIG)["model_config"], manifest.quantization
    checkpoint = Checkpoint.open(resolve_model(model))
    return checkpoint.plan, definition_config(checkpoint, {}), None


def _measured(
    plan: WidthPlan,
    config: Mapping[str, Any],
    quantization: Quantization,
    options: ProfileOptions,
    chunk: int,
    contexts: Sequence[int],
    output: Path,
    start: Start,
) -> Profiled:
    require_c_compiler()
    # A device that can't be reached is said before anything is built.
    drivers_of([], Turns([], [], (Lengths(1, 1),), 1).conditions(options, 1))
    with scratch_directory() as scratch:
        probes = probes_of(plan, depth_of(plan, quantization))
        sizes = {"context_window_size": max(*contexts, chunk), "prefill_chunk_size": chunk}
        maker = Maker(config, quantization, options.library_target, sizes)
        paths = [scratch / f"{index:02} {probe.name}" for index, probe in enumerate(probes)]
        with bar("build probes", len(probes)) as advance:
            for probe, path in zip(probes, paths, strict=True):
                maker.make(probe.plan, path)
                advance(1)
        plans = turns_of(probes, open_models(paths, []), chunk, contexts)
        log = Log(output.with_name(output.name + ".jsonl"), in_common(options), start)
        try:
            timings, info = measure(plans, options, log)
        finally:
            log.close()
    found = fit(timings, chunk, contexts)
    threads = next((record.threads for record in log.records if isinstance(record, RepetitionRecord)), None)
    device = {**_device(info), "threads": threads}
    made = profile_of(found, plan, quantization, chunk, contexts, device, options.library_target)
    return Profiled(output, made, plan, found.misfit)


def profile_of(
    found: Fit,
    plan: WidthPlan,
    quantization: Quantization,
    chunk: int,
    contexts: Sequence[int],
    device: dict[str, Any],
    target: str,
) -> Profile:
    return Profile(
        device=device,
        target=target,
        quantization=quantization.name,
        library=library_identity(),
        is_measured=True,
        prefill_chunk=chunk,
        contexts=list(contexts),
        model=shape_of(plan),
        widest=asdict(plan.widest),
        kernels=found.kernels,
    )


@dataclass(frozen=True)
class Turns:
    """Probes that take turns at some lengths, so many repetitions in a row, of which the fastest counts."""

    probes: Sequence[Probe]
    models: Sequence[BenchModel]
    lengths: tuple[Lengths, ...]
    per_visit: int

    def conditions(self, options: ProfileOptions, rounds: int) -> BenchOptions:
        given = options.model_fields_set & {"runner", "threads"}
        return BenchOptions(
            **{name: getattr(options, name) for name in given},
            device=options.device,
            target=None if options.device == "host" else options.library_target,
            lengths=self.lengths,
            repetitions=rounds * self.per_visit,
            per_visit=self.per_visit,
            warmups=0,
        )


def turns_of(probes: Sequence[Probe], models: Sequence[BenchModel], chunk: int, contexts: Sequence[int]) -> list[Turns]:
    """All probes at short prompts; at long ones, which take long, those that differ there."""
    # The last token of an answer isn't appended.
    short = tuple(Lengths(max(1, tokens - DECODED + 1), DECODED) for tokens in (chunk // 4, chunk))
    late = tuple(Lengths(context - DECODED + 1, DECODED) for context in contexts if context > chunk)
    is_long = [probe.is_long for probe in probes]
    of_long = Turns(list(compress(probes, is_long)), list(compress(models, is_long)), late, 1)
    return [Turns(probes, models, short, PER_VISIT), *([of_long] if late else [])]


def measure(plans: Sequence[Turns], options: ProfileOptions, log: Log) -> tuple[list[Timing], DeviceInfo]:
    """Measures until the whole model's times are known well enough, or the most rounds have been measured."""
    for rounds in range(options.repetitions, 2 * options.repetitions + 1):
        failures: list[str] = []
        for plan in plans:
            conditions = plan.conditions(options, rounds)
            drivers = drivers_of(plan.models, conditions)
            with ExitStack() as held:
                if (serial := drivers[0].info.serial) != "host":
                    held.enter_context(phone_lock(serial, f"profile on {serial}"))
                failures += run_plan(drivers, plan.models, conditions, log)
        if failures:
            raise EdgeTransactError(
                "not everything could be measured:\n  " + "\n  ".join(failures),
                fix=f"What was measured is in {log.path}. {RESUME_HINT}",
            )
        timings = [timing for plan in plans for timing in _timings(log, plan, rounds)]
        of_whole = [timing for timing in timings if timing.plan == timings[0].plan]
        spread = max(relative(list(timing.rounds.values())) for timing in of_whole)
        if spread <= options.until:
            break
    said = f"the whole model's times are known to ±{spread:.1%} after {rounds} rounds"
    logger.log(logging.INFO if spread <= options.until else logging.WARNING, said)
    return timings, drivers[0].info


def _timings(log: Log, plan: Turns, rounds: int) -> list[Timing]:
    """What the log says of some probes: of each round, the fastest repetition."""
    found: dict[tuple[str, Lengths], dict[int, list[RepetitionRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in tuple(log.records):
        if isinstance(record, RepetitionRecord):
            found[record.model_digest, record.lengths][record.round].append(record)
    timings = []
    for probe, model in zip(plan.probes, plan.models, strict=True):
        for lengths in plan.lengths:
            known = {number: of for number, of in found[model.digest, lengths].items() if number < rounds}
            prefill = {number: min(each.prefill_s for each in of) for number, of in known.items()}
            decode = {number: min(map(_decode_s, of)) for number, of in known.items()}
            context = lengths.prefill_tokens + lengths.decode_tokens / 2 - 1
            timings.append(Timing(probe.plan, "decode", 1, context, decode))
            timings.append(Timing(probe.plan, "prefill", lengths.prefill_tokens, 0, prefill))
    return timings


def _decode_s(record: RepetitionRecord) -> float:
    return median(record.decode_steps_s or [record.decode_s / (record.decode_tokens - 1)])


def in_common(options: ProfileOptions) -> dict[str, Any]:
    return {"warmups": 0, "app": "", "cores": "", "threads": options.threads}


def _device(info: DeviceInfo) -> dict[str, Any]:
    """What a bench records of a device, and of this host what kernels depend on."""
    of_host = host_identity() if info.serial == "host" else {"cpu": "; ".join(map(str, info.clusters)) or None}
    known = ("serial", "name", "soc", "android", "fingerprint")
    return {**{name: getattr(info, name) for name in known}, **of_host}
