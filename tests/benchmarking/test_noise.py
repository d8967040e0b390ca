"""What a bench says is true in spite of noise: simulated, with known durations, noise, drift and faults."""

import json
import math
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_transact.benchmarking import options, session
from edge_transact.benchmarking.analysis.export import sentence
from edge_transact.benchmarking.analysis.intervals import duration, known_to, speedup, turns, warnings_of
from edge_transact.benchmarking.analysis.results import make_results
from edge_transact.benchmarking.drivers.base import DeviceLost
from edge_transact.benchmarking.model import open_models
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.lines import CheckLine, Line, MalformedLine
from edge_transact.benchmarking.records.log import Log
from edge_transact.benchmarking.records.plan import Lengths, make_rounds
from edge_transact.benchmarking.records.readings import Reading
from edge_transact.benchmarking.run import run_plan
from edge_transact.benchmarking.session import BenchOutcome, bench_models, plan_bench
from edge_transact.errors import UsageError
from tests.support.bench_logs import in_rounds, repetition, repetitions
from tests.support.bench_runs import QUICK, NoisyDevice
from tests.support.command import run
from tests.support.dists import make_dist

PAIR = Lengths(8, 4)
SECONDS = st.lists(st.floats(0.5, 2), min_size=3, max_size=8, unique=True)


def logs(seconds: Sequence[float], session: str = "a"):
    return turns(((session, number), value) for number, value in enumerate(seconds))


@settings(max_examples=6, derandomize=True)
@given(st.floats(0.001, 0.3), st.floats(0, 0.5), st.integers(3, 12), st.floats(0.5, 2), st.integers(0, 2**32))
def test_the_interval_of_a_ratio_holds_the_truth_19_times_of_20(noise, load, rounds, truth, seed):
    """Each model has its own noise, and in each round both have the same load. ``truth`` 1 is two equal models."""
    dice, trials, held = random.Random(seed), 500, 0
    for _ in range(trials):
        loads = [dice.gauss(0, load) for _ in range(rounds)]
        first, second = ([math.exp(each + dice.gauss(0, noise)) for each in loads] for _ in range(2))
        ratio = speedup(logs(first), logs([seconds / truth for seconds in second]))
        assert ratio.pairs == rounds
        held += ratio.low <= truth <= ratio.high
    # 500 trials of 95 % have a standard deviation of 1 %.
    assert 0.915 < held / trials < 0.985


@settings(max_examples=25, derandomize=True)
@given(st.floats(-0.2, 0.2), st.integers(2, 4), st.integers(2, 12), st.floats(0.5, 2))
def test_a_drift_favours_no_model(drift, models, rounds, truth):
    """A phone that slows down by up to a fifth from one visit to the next, and no other noise."""
    seconds, now = {model: [] for model in range(models)}, 0
    for visits in make_rounds(models, [PAIR], [1] * rounds):
        for visit in visits:
            seconds[visit.model].append((1 / truth if visit.model else 1.0) * math.exp(drift * now))
            now += 1
    for model in range(1, models):
        ratio = speedup(logs(seconds[0]), logs(seconds[model]))
        # An odd round has no counterpart, so its part of the drift remains: one visit's, divided by the rounds.
        left = abs(drift) * model / rounds if rounds % 2 else 0.0
        assert abs(math.log(ratio.value / truth)) <= left + 1e-9
        assert ratio.low - 1e-9 <= truth <= ratio.high + 1e-9
        without_turns = speedup(logs(seconds[0]), logs(sorted(seconds[model]), "another session"))
        assert without_turns.pairs == 0


@settings(max_examples=30)
@given(SECONDS, SECONDS)
def test_intervals_agree_with_scipys_tests(first, second):
    """Pairs with the paired t-test, others with Welch's, durations with the test of one sample; all on logarithms."""
    a, b = ([math.log(value) for value in side] for side in (first, second))
    count = min(len(a), len(b))
    for ratio, test in (
        (speedup(logs(second[:count]), logs(first[:count])), stats.ttest_rel(b[:count], a[:count])),
        (speedup(logs(second), logs(first, "b")), stats.ttest_ind(b, a, equal_var=False)),
        (duration(logs(first)), stats.ttest_1samp(a, 0)),
    ):
        theirs = test.confidence_interval(0.95)
        assert math.log(ratio.low) == pytest.approx(theirs.low, abs=1e-9)
        assert math.log(ratio.high) == pytest.approx(theirs.high, abs=1e-9)
        assert ratio.verdict == ("faster" if ratio.low > 1 else "slower" if ratio.high < 1 else "noise")


def test_repetitions_of_one_process_count_as_one() -> None:
    """Ten repetitions of two processes are two values, however alike those of one process are."""
    alike = [repetition(1.0 + visit / 10, round=visit) for visit in (0, 1) for _ in range(5)]
    (result,) = make_results(alike)
    assert result["e2e_s_high"] / result["e2e_s_low"] > 1.5
    (result,) = make_results(in_rounds(1.0))
    assert result["e2e_s_low"] is None and "no interval: only 1 round" in result["warnings"][0]


# Complete benches on a device whose durations are known.


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the DISTs ``dense``, ``copy``, which is one of it, and ``pruned``."""
    root = tmp_path_factory.mktemp("dists")
    for name in ("dense", "copy"):
        make_dist(root / name, targets=(), context=512)
    make_dist(root / "pruned", targets=(), context=512, shards=(b"less",))
    return root


Bench = Callable[..., BenchOutcome]


@pytest.fixture
def bench(dists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Runs a bench of ``names`` on a `NoisyDevice`, into one log."""

    def run(device: NoisyDevice, names: str = "dense copy pruned", **options: object) -> BenchOutcome:
        monkeypatch.setattr(session, "drivers_of", lambda *_, **__: [device])
        how = QUICK.model_copy(update={"repetitions": 5, **options})
        return bench_models([dists / name for name in names.split()], how, log=tmp_path / "log.jsonl")

    return run


def by_name(outcome: BenchOutcome):
    return {result["model"]: result for result in outcome.results}


EQUAL_AND_FASTER = {"dense": 1.0, "copy": 1.0, "pruned": 0.8}


def test_a_copy_is_no_faster_and_a_pruned_model_is(bench: Bench) -> None:
    """The first model named is the baseline, although it isn't the slowest; the machine drifts by 1 % a visit."""
    device = NoisyDevice(EQUAL_AND_FASTER, noise=0.01, drift=0.01)
    results = by_name(bench(device, repetitions=6))
    assert [name for name, _ in device.visited[:6]] == ["dense", "copy", "pruned", "pruned", "copy", "dense"]
    assert results["dense"]["baseline"] is results["dense"]["verdict"] is results["dense"]["e2e_speedup"] is None
    assert results["copy"]["model_digest"] == f"{results['dense']['model_digest']}-2"
    assert (results["copy"]["baseline"], results["copy"]["verdict"], results["copy"]["pairs"]) == ("dense", "noise", 6)
    assert results["pruned"]["verdict"] == "faster"
    assert results["pruned"]["e2e_speedup_low"] < 1.25 < results["pruned"]["e2e_speedup_high"]
    assert "no difference beyond noise" in sentence(results["copy"])
    assert sentence(results["dense"]) is None and " times as fast (" in sentence(results["pruned"])
    turned = by_name(bench(NoisyDevice(EQUAL_AND_FASTER), "pruned dense", repetitions=6))
    assert turned["dense"]["baseline"] == "pruned" and turned["dense"]["verdict"] == "slower"


@pytest.mark.parametrize("names", ["dense copy pruned", "dense"])
def test_rounds_are_added_until_it_is_known(bench: Bench, names: str, tmp_path: Path) -> None:
    bench(NoisyDevice(EQUAL_AND_FASTER, noise=0.05, seed=2), names, until=0.03)
    records = repetitions(tmp_path / "log.jsonl")
    digests = list(dict.fromkeys(record.model_digest for record in records))
    last = max(record.round for record in records)
    assert 5 < last + 1 < options.MOST_ROUNDS
    assert known_to(records, digests, {"host"}, [PAIR]) <= 0.03
    earlier = [record for record in records if record.round < last]
    assert known_to(earlier, digests, {"host"}, [PAIR]) > 0.03


def test_a_cap_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(options, "MOST_ROUNDS", 7)
    caplog.set_level("INFO", "edge_transact")
    outcome = bench(NoisyDevice(EQUAL_AND_FASTER, noise=0.5), until=0.03)
    assert "5 to 7 rounds, until ±3.0%" in caplog.text
    assert "only after 7 rounds, the most that --until adds" in caplog.text
    pruned = by_name(outcome)["pruned"]
    assert pruned["pairs"] == 7 and "no load, heat or clock explains it" in pruned["warnings"][0]


def test_a_second_run_adds_to_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edge_transact")
    bench(NoisyDevice(EQUAL_AND_FASTER, noise=0.01), repetitions=3)
    more = NoisyDevice(EQUAL_AND_FASTER, noise=0.01)
    assert by_name(bench(more, repetitions=5))["pruned"]["pairs"] == 5
    assert [number for _, number in more.visited] == [3, 3, 3, 4, 4, 4]
    nothing = NoisyDevice(EQUAL_AND_FASTER)
    assert by_name(bench(nothing, repetitions=5))["pruned"]["pairs"] == 5 and nothing.visited == []
    assert "holds all of it: --repetitions 10 or --until 3% add to it" in caplog.text


def test_models_that_took_no_turns_are_not_taken_for_pairs(bench: Bench) -> None:
    """Measured alone, and then, on a machine that has become slower, together with another."""
    bench(NoisyDevice({"dense": 1.0}, noise=0.001), "dense", repetitions=3)
    slower = {"dense": 2.0, "pruned": 2.0}
    results = bench(NoisyDevice(slower), "dense pruned", repetitions=3).results
    (warning,) = [text for result in results for text in result["warnings"] if "turns" in text]
    assert warning.startswith("took no turns with dense") and "--fresh" in warning
    together = by_name(bench(NoisyDevice(slower, noise=0.001), "dense pruned", repetitions=7))["pruned"]
    assert together["pairs"] == 4 and together["e2e_speedup"] == pytest.approx(1, abs=0.01)


class InterruptedDevice(NoisyDevice):
    """Ctrl-C is pressed between the two turns of its second round."""

    def lines(self, *visit) -> Generator[Line, None, None]:
        if len(self.visited) == 3:
            raise KeyboardInterrupt
        yield from super().lines(*visit)


def test_an_interrupt_between_two_turns_breaks_one_pair(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench(InterruptedDevice(EQUAL_AND_FASTER), "dense pruned", repetitions=4)
    results = by_name(bench(NoisyDevice(EQUAL_AND_FASTER), "dense pruned", repetitions=4))
    assert [results[name]["repetitions"] for name in ("dense", "pruned")] == [4, 4]
    assert results["pruned"]["pairs"] == 3


def test_a_model_that_crashes_costs_its_attempts_once(bench: Bench) -> None:
    device = NoisyDevice({**EQUAL_AND_FASTER, "copy": None})
    outcome = bench(device, until=0.03)
    assert device.visited.count(("copy", 0)) == 3 and ("copy", 1) not in device.visited
    assert max(number for _, number in device.visited) == 4, "what can be known is known after five rounds"
    assert outcome.failures == ["host: copy 8+4: given up after 3 attempts: copy crashes"]
    assert by_name(outcome)["pruned"]["e2e_speedup"] == pytest.approx(1.25)


class HotDevice(NoisyDevice):
    """Passes the ceiling while it loads a model, and is cool at once when the run has ended."""

    runs, reads = False, 0

    def lines(self, *visit) -> Generator[Line, None, None]:
        self.runs, before = True, self.reads
        while self.reads < before + 3:  # one may have begun earlier, and when a third begins, the second has arrived
            time.sleep(0.001)
        try:
            yield from super().lines(*visit)
        finally:
            self.runs = False

    def read(self) -> Reading:
        self.reads += 1
        return Reading(at_s=time.monotonic(), temp_c=50 if self.runs else 30)


def test_a_model_that_passes_the_ceiling_before_it_is_measured_costs_its_attempts(bench: Bench) -> None:
    device = HotDevice({"dense": 1.0})
    outcome = bench(device, "dense", sample_s=0.001)
    assert device.visited == [("dense", 0)] * 3
    assert outcome.failures == [
        "host: dense 8+4: given up after 3 attempts: host: dense 8+4: 50.0 C, above the ceiling of 46 C before a "
        "repetition has ended"
    ]


class WarmingDevice(NoisyDevice):
    """Takes the time that it says, and is `end_c` warm from the fifth repetition of a run to its end."""

    temp_c, end_c = 30.0, 40.0

    def lines(self, *visit) -> Generator[Line, None, None]:
        try:
            for number, line in enumerate(super().lines(*visit)):
                time.sleep(0.02)
                self.temp_c = self.end_c if number > 4 else 30.0
                yield line
        finally:
            self.temp_c = 30.0

    def read(self) -> Reading:
        return Reading(at_s=time.monotonic(), temp_c=self.temp_c)

    def recover(self) -> list[Line]:
        raise AssertionError("nothing was lost")


def test_a_sustained_visit_ends_by_the_clock_or_at_the_ceiling(bench: Bench) -> None:
    device, once = WarmingDevice({"dense": 0.02, "pruned": 0.02}), [("dense", 0), ("pruned", 0)]
    outcome = bench(device, "dense pruned", sustained_s=0.3, sample_s=0.001, cool_c=45.0)
    assert device.visited == once and outcome.failures == outcome.results == []
    assert all(each["complete"] and each["seconds"] >= 0.3 for each in outcome.sustained)
    assert [each["temp_max_c"] for each in outcome.sustained] == [40, 40]
    hot = WarmingDevice({"dense": 0.02, "pruned": 0.02})
    hot.end_c = 50.0
    outcome = bench(hot, "dense pruned", sustained_s=1000.0, sample_s=0.001, cool_c=60.0)
    assert hot.visited == once, "neither paused nor tried again"
    words = r"host: {} 8\+4: ended after \d+ s: 50\.0 C, above the ceiling of 46 C"
    for name, failure in zip(("dense", "pruned"), outcome.failures, strict=True):
        assert re.fullmatch(words.format(name), failure)
    assert [each["complete"] for each in outcome.sustained] == [True, True, False, False]
    assert any(re.fullmatch(r"ended after \d+ s of 17 min", each) for each in outcome.sustained[-1]["warnings"])


@pytest.mark.parametrize("warm", [{"ceiling_c": 35}, {"ceiling_c": 37}, {"cool_c": 50}])
def test_a_visit_cannot_start_above_the_ceiling(warm: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="is not above --cool-below") as error:
        BenchOptions(**warm)
    assert "--ceiling" in error.value.fix


class FlakyDevice(NoisyDevice):
    """Is lost in its first run, then while it recovers, and so on: `losses` times."""

    def __init__(self, losses: int) -> None:
        super().__init__({"dense": 1.0})
        self.info = replace(self.info, serial="flaky")
        self.losses = losses

    def lose(self) -> None:
        if self.losses:
            self.losses -= 1
            raise DeviceLost("flaky is gone")

    def lines(self, *visit) -> Generator[Line, None, None]:
        self.lose()
        yield from super().lines(*visit)

    def recover(self) -> list[Line]:
        self.lose()
        return [MalformedLine("half a li")]


@pytest.mark.parametrize("losses", [1, 2, 3, 99])
def test_a_phone_that_is_lost_again_and_again_costs_its_attempts_alone(dists: Path, tmp_path: Path, losses) -> None:
    steady, flaky = NoisyDevice({"dense": 1.0}), FlakyDevice(losses)
    steady.info = replace(steady.info, serial="steady")
    log = Log(tmp_path / "log.jsonl", {})
    failures = run_plan([steady, flaky], open_models([dists / "dense"], [PAIR]), QUICK, log)
    measured = Counter(record.serial for record in repetitions(tmp_path / "log.jsonl"))
    if losses < 6:
        assert failures == [] and measured == {"steady": 2, "flaky": 2}
    else:
        assert failures == ["host: dense 8+4: given up after 3 attempts: flaky is gone"]
        assert measured == {"steady": 2}


class RoundingDevice(NoisyDevice):
    """One of its models' first tokens differ from the build's."""

    def __init__(self) -> None:
        super().__init__(EQUAL_AND_FASTER)
        self.runs, self.prepared = False, []

    def prepare(self, models, stop) -> bool:
        assert not self.runs, "nothing is measured meanwhile"
        self.prepared.append([model.name for model in models])
        return False

    def lines(self, model, *visit) -> Generator[Line, None, None]:
        self.runs = True
        try:
            yield CheckLine(run="", tokens_checked=17, tokens_agreed=16 if model.name == "copy" else 17)
            yield from super().lines(model, *visit)
        finally:
            self.runs = False


def test_a_model_whose_tokens_differ_is_checked_once_and_not_while_it_is_measured(bench: Bench) -> None:
    device = RoundingDevice()
    results = by_name(bench(device))
    assert device.prepared == [["dense", "copy", "pruned"], ["copy"]]
    assert all(result["repetitions"] == 5 for result in results.values()) and len(device.visited) == 15
    assert (results["copy"]["tokens_agreed"], results["copy"]["tokens_checked"]) == (16, 17)


def test_copies_are_told_apart_and_a_path_is_named_once(dists: Path) -> None:
    models = open_models([dists / "dense", dists / "copy", dists / "pruned"], [])
    assert len({model.digest for model in models}) == 3 and len({model.digest[:64] for model in models}) == 2
    with pytest.raises(UsageError, match="named twice"):
        open_models([dists / "dense", dists / "pruned" / ".." / "dense"], [])


def test_a_plan_is_told_and_nothing_is_done(dists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "drivers_of", lambda *_, **__: [NoisyDevice({})])
    log = tmp_path / "log.jsonl"
    command = ["bench", str(dists / "dense"), str(dists / "pruned"), "--lengths", "8+4,16+4", "-o", str(log)]
    done = run(*command, "--dry-run", "--until", "3%", "--repetitions", "6")
    assert done.exit_code == 0 and not log.exists()
    says = "plan: 2 models, dense the baseline, at 8+4, 16+4 on host, 6 to 50 rounds, until ±3.0%: 24 visits"
    assert done.stdout.startswith(says)

    def planned(repetitions: int):
        return plan_bench([dists / "dense"], QUICK.model_copy(update={"repetitions": repetitions}), log=log)

    plan = planned(4)
    assert (plan.visits, planned(8).visits, plan.seconds) == (4, 8, None), "the log has measured nothing"
    monkeypatch.setattr(session, "drivers_of", lambda *_, **__: [NoisyDevice({"dense": 1.0})])
    bench_models([dists / "dense"], QUICK.model_copy(update={"repetitions": 2}), log=log)
    plan, longer = planned(4), planned(6)
    assert longer.seconds == pytest.approx(2 * plan.seconds) and ": 2 visits, about " in plan.line()


def test_a_report_is_written_again_and_nothing_else_is_replaced(dists: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(session, "drivers_of", lambda *_, **__: [NoisyDevice({"dense": 1.0})])
    log, report = tmp_path / "logs" / "log.jsonl", tmp_path / "report"
    log.parent.mkdir()

    def exit_code(repetitions: int, report: Path) -> int:
        options = ["--lengths", "8+4", "--repetitions", str(repetitions), "-o", str(log), "--report", str(report)]
        return run("bench", dists / "dense", *options).exit_code

    assert exit_code(2, report) == exit_code(3, report) == 0
    (result,) = json.loads((report / "results.json").read_text())
    assert result["repetitions"] == 3
    notes = report / "notes.txt"
    notes.write_text("mine")
    assert exit_code(3, report) == 1 and notes.read_text() == "mine"
    for kept in (dists, dists / "dense", log.parent):
        assert exit_code(3, kept) == 2 and (dists / "dense/manifest.json").exists() and log.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("compare a b --format csv --lengths 8+4 --json", "bench compare does not use --lengths, --format"),
        ("dense --perplexity dense=20 --dry-run", "--perplexity is for a report"),
        ("dense --report r --perplexity 29.4", "--perplexity '29.4' is not NAME=VALUE"),
        ("dense --report r --perplexity =29.4", "--perplexity '=29.4' is not NAME=VALUE"),
        ("dense --report r --perplexity dense=nan", "--perplexity 'dense=nan' is not NAME=VALUE"),
        ("dense --report r --perplexity dense=20 --perplexity dense=x", "--perplexity 'dense=x' is not NAME=VALUE"),
        ("dense --report r --perplexity dense=-1", "--perplexity 'dense=-1' is not NAME=VALUE"),
        ("dense --report r --perplexity dens=20 --lengths 8+4", "--perplexity dens=...: no such model is measured"),
    ],
)
def test_what_a_bench_would_ignore_is_refused_before_it(dists: Path, monkeypatch, words: str, says: str) -> None:
    monkeypatch.setenv("EDGE_BENCH_RUNNER", "runner")
    monkeypatch.chdir(dists)
    done = run("bench", *words.split())
    assert done.exit_code == 2 and f"edge-transact: {says}\n" in done.stderr
    assert {path.name for path in dists.iterdir()} == {"dense", "copy", "pruned"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"thermal_status": 2}, "the phone was throttling"),
        ({"cpu_mhz": 1500.0}, "the CPU's clock varied from 1,500 to 3,000 MHz"),
        ({"temp_start_c": 41.0}, "the phone's temperature varied from 30 to 41 C"),
        ({"other_cpu_share": 0.9}, "other programs took 40% of the CPU"),
        ({}, "no load, heat or clock explains it"),
    ],
)
def test_a_large_spread_has_its_reason(changed, reason) -> None:
    samples = in_rounds(1.0, 1.3, 0.9, 1.0, 1.2, other_cpu_share=0.4 if "other_cpu_share" in changed else 0.05)
    samples[1] = replace(samples[1], **changed)
    (said,) = warnings_of(samples, [])
    assert reason in said and "is known to ±" in said and "only" not in said.partition(": ")[2]
    calm = [replace(sample, ttft_s=1.0, decode_s=1.0, e2e_s=2.0) for sample in samples]
    assert warnings_of(calm, []) == []
    assert "only 3 rounds" in warnings_of(samples[:3], [])[0]


def test_a_median_and_its_interval_are_printed(bench: Bench, capsys, monkeypatch) -> None:
    from edge_transact.cli import bench as command

    monkeypatch.setenv("COLUMNS", "80")
    outcome = bench(NoisyDevice({"dense": 1.0, "copy": 1.0, "pruned": 0.8}, noise=0.02), lengths=(Lengths(256, 256),))
    command._print(outcome.results)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("copy" in line and "no difference beyond noise" in line for line in lines)
    half = statistics.mean(float(word[1:-1]) for line in lines for word in line.split() if word.startswith("±"))
    assert 0.5 < half < 5, "about 2.8 standard errors of 2 % in five rounds"
