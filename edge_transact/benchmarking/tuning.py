"""``bench --tune``: which cores, or which unit, of a phone run a DIST best, by what all of them do in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_transact.artifacts.charts import number
from edge_transact.artifacts.report import Section
from edge_transact.benchmarking.analysis.export import columns
from edge_transact.benchmarking.analysis.intervals import Turns, ratio_in_words, speedup, turns
from edge_transact.benchmarking.analysis.results import Result
from edge_transact.benchmarking.drivers.base import DeviceInfo, Driver, ranges
from edge_transact.benchmarking.drivers.host import parse_cores
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.records.plan import Lengths, lengths_of
from edge_transact.benchmarking.records.tuned import Best, Tuned
from edge_transact.compiler.targets import TARGETS

SLOW = 0.5
"""A cluster that is slower than this, relative to the fastest, isn't tried alone."""

_PARTS = int(str(TARGETS["android-cpu"].spec["num-cores"]))
"""Into how many parts decode is divided: more threads don't make it faster."""

COLUMNS = ("model", "threads", "prefill tok/s", "decode tok/s", "against the first")

Measured = tuple[Result, BenchModel]


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
class TuningResult:
    """What was found on one phone. `section` has the candidates, for the report."""

    soc: str | None
    clusters: str
    tuned: Tuned
    sentences: list[str]
    section: Section

    def to_dict(self) -> dict[str, Any]:
        return {"soc": self.soc, "clusters": self.clusters, **self.tuned.model_dump(), "sentences": self.sentences}


def judge(
    models: Sequence[BenchModel], driver: Driver, lengths: Lengths, results: Sequence[Result]
) -> TuningResult | None:
    """The best of the candidates for decode and for prefill, at one pair of lengths; `None` if none was measured."""
    own = [each for each in results if (each["serial"], lengths_of(each)) == (driver.info.serial, lengths)]
    by_key = {(each["model_digest"], each["target"]): each for each in own}
    keys = {(model.digest, model.target_on(driver.target)): model for model in models}
    measured = [(by_key[key], model) for key, model in keys.items() if key in by_key]
    if not measured:
        return None
    best, sentences = {}, []
    for phase in ("decode", "prefill"):
        (result, model), clear, sentence = _best(measured, phase)
        setting = {"target": result["target"], "cores": parse_cores(model.cores)}
        best[phase] = Best(**setting, tok_s=result[f"{phase}_tok_s"], clear=clear)
        sentences.append(f"{phase}: {sentence}.")
    clusters = "; ".join(map(str, driver.info.clusters))
    cells = columns([result for result, _ in measured], COLUMNS)
    note = f"{' '.join(sentences)} The CPU's clusters: {clusters or 'unknown'}."
    rows = list(zip(*cells.values(), strict=True))
    section = Section("tuning", "What it runs on best", header=list(cells), rows=rows, note=note)
    return TuningResult(driver.info.soc, clusters, Tuned(device=driver.info.name, **best), sentences, section)


def _best(measured: Sequence[Measured], phase: str) -> tuple[Measured, bool, str]:
    """The best candidate for a phase, whether it clearly is, and a sentence about it.

    Of those that are equally fast, the one with the fewest threads is taken, and of these the most frugal one.
    """

    def in_turns(each: Measured) -> Turns:
        return turns(((one["session"], one["round"]), one[f"{phase}_s"]) for one in each[0]["samples"])

    def named(each: Measured) -> str:
        return f"{each[0]['model']} ({number(each[0][f'{phase}_tok_s'])} tokens a second)"

    fastest, *others = sorted(measured, key=lambda each: -each[0][f"{phase}_tok_s"])
    ratios = [(each, speedup(in_turns(each), in_turns(fastest))) for each in others]
    if rivals := [each for each, ratio in ratios if ratio is None or ratio.verdict != "faster"]:
        best = min([fastest, *rivals], key=lambda each: (each[0]["n_threads"] or 0, each[0]["energy_per_token_j"] or 0))
        names = ", ".join(map(named, [fastest, *rivals]))
        return best, False, f"{best[0]['model']}, on the fewest threads; no clear winner among {names}"
    said = named(fastest)
    for (second, _), ratio in [(each, ratio) for each, ratio in ratios[:1] if ratio]:
        said += f", against {second['model']}: {ratio_in_words(ratio.value, ratio.low, ratio.high, ratio.verdict)}"
    return fastest, True, said
