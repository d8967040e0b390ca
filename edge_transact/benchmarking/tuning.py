"""``bench --tune``: which cores, or which unit, of a phone run a DIST best, by what all of them do in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from edge_transact.artifacts.charts import number
from edge_transact.artifacts.report import Section
from edge_transact.benchmarking.analysis.intervals import Samples, ratio_in_words, speedup, turns_of
from edge_transact.benchmarking.drivers.base import DeviceInfo, ranges
from edge_transact.benchmarking.drivers.host import parse_cores
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.benchmarking.records.record import Record, RepetitionRecord
from edge_transact.benchmarking.records.tuned import Best, Tuned
from edge_transact.compiler.targets import TARGETS
from edge_transact.errors import EdgeTransactError

SLOW = 0.5
"""A cluster that is slower than this, relative to the fastest, isn't tried alone."""

_PARTS = int(str(TARGETS["android-cpu"].spec["num-cores"]))
"""Into how many parts decode is divided: more threads don't make it faster."""


def candidates(model: BenchModel, info: DeviceInfo, *, opencl: bool) -> list[BenchModel]:
    """The DIST as the runtime runs it by itself, then on cores of the phone, and with `opencl` on its GPU.

    The cores are all of them, all but those of the slowest cluster, each cluster that isn't slow, and as many of the
    fastest as decode has parts.
    """
    by_speed = [core for cluster in info.clusters for core in sorted(cluster.cores, reverse=True)]
    sets = [("all cores", by_speed)]
    sets += [(cluster.name, list(cluster.cores)) for cluster in info.clusters if cluster.speed >= SLOW]
    if slower := info.clusters[1:]:
        sets.append((f"all but {slower[-1].name}", by_speed[: -len(slower[-1].cores)]))
    sets.append((f"{_PARTS} cores", by_speed[:_PARTS]))
    names: dict[str, str] = {}
    for name, cores in sets:
        names.setdefault(ranges(cores), name)
    tried = [model.on(f"{name} {written}", cores=written) for written, name in names.items() if written]
    return [model, *tried, *([model.on("GPU", target="android")] if opencl else [])]


@dataclass(frozen=True)
class _Candidate:
    """A candidate with its repetitions."""

    model: BenchModel
    samples: Samples

    @property
    def threads(self) -> int:
        return self.samples[0].threads or 0

    def tok_s(self, phase: str) -> float:
        """Tokens a second, the median of all repetitions."""
        tokens = self.samples[0].prefill_tokens if phase == "prefill" else self.samples[0].decode_tokens - 1
        return tokens / median(getattr(sample, f"{phase}_s") for sample in self.samples)

    def cost(self) -> tuple[int, float]:
        """Of candidates that are equally fast, the one with the fewest threads is taken, then the most frugal."""
        joules = [sample.energy_j for sample in self.samples if sample.energy_j is not None]
        return self.threads, fmean(joules) if joules else 0.0


@dataclass(frozen=True)
class TuningResult:
    """What was found on one phone."""

    soc: str | None
    tuned: Tuned
    sentences: list[str]
    rows: list[list[str]]
    clusters: str

    def to_dict(self) -> dict[str, Any]:
        """What ``bench --tune --json`` says of it."""
        return {"soc": self.soc, "clusters": self.clusters, **self.tuned.model_dump(), "sentences": self.sentences}

    def section(self) -> Section:
        """The candidates, for the report."""
        header = ("candidate", "cores", "threads", "prefill tok/s", "decode tok/s", "taken for")
        note = f"{' '.join(self.sentences)} The CPU's clusters: {self.clusters or 'unknown'}."
        return Section("tuning", "What it runs on best", header=header, rows=self.rows, note=note)


def judge(
    models: Sequence[BenchModel], info: DeviceInfo, target: str, lengths: Lengths, records: Sequence[Record]
) -> TuningResult:
    """The best of the candidates for decode and for prefill, at one pair of lengths.

    Raises:
        EdgeTransactError: None was measured.
    """
    repetitions = [
        record
        for record in records
        if isinstance(record, RepetitionRecord) and (record.serial, record.lengths) == (info.serial, lengths)
    ]
    measured = [
        _Candidate(model, samples)
        for model in models
        if (
            samples := [
                each
                for each in repetitions
                if each.model_digest == model.digest and each.target == model.target_on(target)
            ]
        )
    ]
    if not measured:
        raise EdgeTransactError(f"{info.name}: no candidate of --tune could be measured", fix="See why above.")
    found, sentences, taken = {}, [], {}
    for phase in ("decode", "prefill"):
        best, clear, sentence = _best(measured, phase)
        taken[phase] = best
        found[phase] = Best(
            target=best.model.target_on(target),
            cores=parse_cores(best.model.cores),
            tok_s=best.tok_s(phase),
            clear=clear,
        )
        sentences.append(sentence)
    rows = [
        [
            each.model.name,
            each.model.cores or "-",
            str(each.threads),
            number(each.tok_s("prefill")),
            number(each.tok_s("decode")),
            " and ".join(phase for phase, best in taken.items() if best is each),
        ]
        for each in measured
    ]
    return TuningResult(info.soc, Tuned(device=info.name, **found), sentences, rows, "; ".join(map(str, info.clusters)))


def _best(measured: Sequence[_Candidate], phase: str) -> tuple[_Candidate, bool, str]:
    """The best candidate for a phase, whether it clearly is, and a sentence about it."""
    fastest, *others = sorted(measured, key=lambda each: -each.tok_s(phase))
    turns = {each.model.digest: turns_of(each.samples, f"{phase}_s") for each in measured}
    ratios = [(each, speedup(turns[each.model.digest], turns[fastest.model.digest])) for each in others]
    rivals = [each for each, ratio in ratios if ratio is None or ratio.verdict != "faster"]
    best = min([fastest, *rivals], key=_Candidate.cost)
    said = f"{phase}: {best.model.name}, {number(best.tok_s(phase))} tokens a second"
    if rivals:
        names = ", ".join(f"{each.model.name} ({number(each.tok_s(phase))})" for each in [fastest, *rivals])
        threads = f"{best.threads} thread{'s' * (best.threads != 1)}"
        return best, False, f"{said}, {threads}; no clear winner among {names}."
    for second, ratio in ratios[:1]:
        assert ratio is not None
        said += f", against {second.model.name}: {ratio_in_words(ratio.value, ratio.low, ratio.high, ratio.verdict)}"
    return best, True, f"{said}."
