"""Sustained visits: how fast a model stays, how warm a phone gets, and what its battery gives."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_transact.benchmarking.analysis.report import write_report
from edge_transact.benchmarking.analysis.results import make_results
from edge_transact.benchmarking.analysis.sustained import make_sustained
from edge_transact.benchmarking.drivers.adb.sensors import parse_sensors
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.log import read_records
from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.benchmarking.records.readings import Reading
from edge_transact.benchmarking.records.series import done
from edge_transact.benchmarking.session import plan_bench
from edge_transact.errors import UsageError
from tests.support.bench_logs import in_rounds, repetition, visit, write_log
from tests.support.command import run, said
from tests.support.patience import HANG_S

START_S = 1000.0


def series(speeds, seconds=60.0, readings=(), ended=True, **changed):
    """The records of a visit whose decoding has each of some speeds for so long. A fifth of the time is prompts."""
    common = {"sustained_s": seconds * len(speeds), "session": "a", "decode_tokens": 33, **changed}
    records, now, index = [], START_S, 0
    for number, speed in enumerate(speeds, 1):
        while now < START_S + number * seconds:
            took_s = 32 / speed / 0.8
            now += took_s
            records.append(repetition(took_s, index=index, ended_s=now, **common))
            index += 1
    return [*records, visit(readings, **common)] if ended else records


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(5, 20), min_size=2, max_size=3))
def test_the_last_minute_against_the_first(speeds):
    """Against the speeds that the series was made from; a repetition that crosses an edge takes 8 s at most."""
    (found,) = make_sustained(series(speeds, seconds=120))
    assert found["complete"] and found["window_s"] == 60
    assert found["first_tok_s"] == pytest.approx(speeds[0])
    assert found["last_tok_s"] == pytest.approx(speeds[-1], rel=1e-6)
    share = speeds[-1] / speeds[0]
    assert found["last_share"] == pytest.approx(share)
    slow = [each for each in found["warnings"] if "slowed down" in each]
    assert bool(slow) == (share < 0.8)
    assert not slow or f"{share:.0%}" in slow[0]
    minutes = found["minutes"]
    assert len(minutes) == 2 * len(speeds) and minutes[-1]["to_s"] == found["seconds"]
    for number, minute in enumerate(minutes):
        near = {speeds[number // 2], speeds[max(0, number - 1) // 2]}
        assert min(near) * 0.999 <= minute["tok_s"] <= max(near) * 1.001


def throttled(**changed):
    """Ten minutes in which a phone warms up, and throttles after four and after seven."""
    readings = [
        Reading(
            at_s=START_S + second,
            temp_c=30 + second / 60,
            thermal_status=(second > 240) + 2 * (second > 420),
            cpu_mhz=3000.0 if second <= 240 else 2000.0,
            battery_percent=80 - second // 200,
            battery_v=4.0,
            charge_uah=4_000_000 - 250 * second,
            on_battery=True,
        )
        for second in range(0, 601, 2)
    ]
    return [replace(each, **{name: of(each) for name, of in changed.items()}) for each in readings]


def test_heat_clocks_and_energy_over_time(tmp_path):
    records = series([40] * 4 + [30] * 3 + [20] * 3, readings=throttled())
    (found,) = make_sustained(records)
    assert found["temp_min_c"] == 30 and found["temp_max_c"] == pytest.approx(40, abs=0.1)
    assert found["thermal_changes"] == [(0, 0), (242, 1), (422, 3)] and found["throttled_after_s"] == 242
    assert found["warnings"] == [
        "slowed down to 50%: 40 tokens a second in the first minute, 20 in the last",
        "throttling after 4 min, up to thermal status 3",
    ]
    assert [each["cpu_mhz"] for each in found["minutes"]] == [3000] * 4 + [pytest.approx(2000, abs=40)] * 6
    # 250 uAh a second at 4 V, which is 3.6 W.
    assert found["energy_mwh"] == pytest.approx(3.6 * found["seconds"] / 3.6)
    assert found["energy_mwh_per_1000_tokens"] == pytest.approx(found["energy_mwh"] / found["tokens"] * 1000)
    assert found["energy_source"] == "charge counter" and found["battery_percent"] == [80, 77]
    (chart,) = write_report(records, tmp_path / "report", command="edge-transact bench dist --sustained 10m")
    svg = (tmp_path / "report" / chart).read_text()
    assert ElementTree.fromstring(svg).tag.endswith("svg") and svg.count('class="rule"') == 2
    page = (tmp_path / "report/index.html").read_text()
    assert "40 tokens a second in the first minute, 20 in the last" in page and "slowed down to 50%" in page
    assert json.loads((tmp_path / "report/results.json").read_text())[0]["throttled_after_s"] == 242


@pytest.mark.parametrize(
    ("changed", "milliwatts", "source"),
    [
        # 900 mA in either unit, with either sign: beside no counter, one that hardly moves, and one that agrees.
        ({"current_now": lambda _: -900_000, "charge_uah": lambda _: None}, 3600, "current in microamperes"),
        ({"current_now": lambda _: 900, "charge_uah": lambda _: None}, 3600, "current in milliamperes"),
        (
            {"current_now": lambda _: -900, "charge_uah": lambda each: 4_000_000 - 50_000 * (each.at_s > 1300)},
            3600,
            "current in milliamperes",
        ),
        (
            {"current_now": lambda _: 450_000},
            3600,
            "charge counter; 300 mWh by the current in microamperes",
        ),
        ({"on_battery": lambda _: False}, None, "plugged in: the battery's current isn't the model's"),
        (
            dict.fromkeys(("charge_uah", "battery_v", "on_battery", "battery_percent"), lambda _: None),
            None,
            "the device tells neither charge nor current",
        ),
    ],
)
def test_which_figure_energy_is_taken_from(changed, milliwatts, source):
    (found,) = make_sustained(series([40] * 10, readings=throttled(**changed)))
    assert found["energy_source"] == source
    known = found["energy_mwh"] and found["energy_mwh"] / found["seconds"] * 3600
    assert known == (milliwatts and pytest.approx(milliwatts))


def test_what_phones_call_the_current():
    sysfs, samsung = "== battery\n  level: 50\n== current\n-850000\n", "== battery\n  current now: -441\n== current\n"
    unknown = "== battery\n== current\nUnknown get option: current_now\n== zones\n"
    assert [parse_sensors(text, 0).current_now for text in (sysfs, samsung, unknown, "")] == [-850000, -441, None, None]


def test_a_series_that_was_cut_is_told_apart_and_begun_again(tmp_path):
    killed = series([40] * 3, ended=False, session="killed")[:100]
    lost = series([40] * 3, session="lost", readings=[Reading(at_s=START_S + 5, temp_c=31.0)])
    lost = [*lost[:50], replace(lost[-1], error="the phone was lost")]
    whole = series([40] * 3, session="whole")
    found = make_sustained([*killed, *lost, *whole])
    assert [each["complete"] for each in found] == [False, False, True]
    assert [each["warnings"] for each in found] == [
        ["ended after 1.7 min of 3 min"], ["ended after 50 s of 3 min: the phone was lost"], []
    ]  # fmt: skip
    # The repetitions keep something of the sensors where a bench was killed before it could.
    assert found[0]["temp_max_c"] == 34.0 and found[1]["temp_max_c"] == 31.0
    key = whole[0].key
    assert done([*killed, *lost])[key] == 0 < done(whole)[key]
    assert done(whole)[replace(key, sustained_s=600)] == done(whole)[replace(key, sustained_s=None)] == 0


def test_ordinary_results_know_nothing_of_it(tmp_path):
    sustained, ordinary = series([40] * 3), in_rounds(1.0, 1.1, 1.2, decode_tokens=33)
    assert make_results([*sustained, *ordinary]) == make_results(ordinary)
    assert make_sustained([*ordinary, *sustained]) == make_sustained(sustained)
    both = write_log(tmp_path / "both.jsonl", [*sustained, *ordinary])
    alone = write_log(tmp_path / "alone.jsonl", ordinary)
    assert said("bench", "compare", both, alone)["comparisons"] == said("bench", "compare", alone, alone)["comparisons"]
    result = run("bench", "compare", write_log(tmp_path / "sustained.jsonl", sustained), alone)
    assert result.exit_code == 1 and "no model, device and lengths in common" in result.stderr


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("600s", 600), ("1.5h", 5400), (" 90 ", 90)])
def test_times(text, seconds):
    assert BenchOptions(sustained_s=text).sustained_s == seconds


@pytest.mark.parametrize("text", ["", "10 minutes", "0s", "7h", "361m", "-5m", "1e3", "nan", "9" * 9, "9" * 400, "٣m"])
def test_times_that_are_none(text):
    """Said as they were written, not in seconds."""
    with pytest.raises(UsageError) as error:
        BenchOptions(sustained_s=text)
    assert error.value.message == f"--sustained: {text!r} is not between 1s and 6h"
    assert error.value.fix == "Write it as 10m."


@pytest.mark.parametrize("seconds", [0, 1e9, True])
def test_numbers_that_are_no_times(seconds):
    with pytest.raises(UsageError, match=r"--sustained .* is (not|more than)") as error:
        BenchOptions(sustained_s=seconds)
    assert error.value.fix == "Decode without a pause for so long, from 1s to 6h, e.g. 10m."


def test_what_goes_with_it(tmp_path):
    with pytest.raises(UsageError, match="so --repetitions says nothing"):
        BenchOptions(sustained_s=60, until="3%", repetitions=3)
    phones = BenchOptions(sustained_s=60, device="all")
    with pytest.raises(UsageError, match="llama-bench says nothing before it ends"):
        plan_bench([tmp_path], phones, log=tmp_path / "log.jsonl", llama_cpp=Path(__file__))
    options = BenchOptions(sustained_s=3600)
    assert options.measured == (Lengths(64, 256),) and options.limit_s == options.timeout_s + 3600
    ((one, two),) = options.planned(2)
    assert (one.model, two.model, one.seconds) == (0, 1, 3600)


def test_on_this_host(built_dist, tmp_path):
    command = ("bench", built_dist, "--sustained", "1s", "--lengths", "8+4", "-o", tmp_path / "log.jsonl")
    first = said(*command, "--evidence", tmp_path / "host.zip")
    (found,) = first["sustained"]
    assert first["results"] == [] and found["complete"] and found["seconds"] >= 1
    records = [each for each in read_records(tmp_path / "log.jsonl") if each.kind == "repetition"]
    assert found["tokens"] == 4 * len(records) and found["first_tok_s"] > 0
    assert make_sustained(read_records(tmp_path / "host.zip"))[0]["minutes"] == found["minutes"]
    assert said(*command)["sustained"] == [found]


def test_a_phone_that_throttles_and_is_lost_once(phone, run_bench, when_logged):
    battery, log = "/sys/class/power_supply/battery", run_bench.log
    phone.write(f"{battery}/status", "Discharging")
    stop = threading.Event()

    def heat():
        for step in range(10_000):
            phone.write(f"{battery}/charge_counter", 4_000_000 - 500 * step)
            phone.set_temperature(30 + step % 60 / 10)
            _, cut, again = log.read_text().rpartition('"kind": "visit"') if log.exists() else ("", "", "")
            phone.write("/standin/thermal_status", int(cut != "" and '"kind": "repetition"' in again))
            if stop.wait(0.1):
                return

    thread = threading.Thread(target=heat, daemon=True)
    thread.start()
    when_logged("repetition", 1, lambda: phone.kill("edge-bench"))
    try:
        outcome = run_bench(phone.serial, sustained_s=5.0, sample_s=0.1, evidence=log.with_name("phone.zip"))
    finally:
        stop.set()
        thread.join(HANG_S)
    assert outcome.failures == [] and outcome.results == []
    cut, whole = outcome.sustained
    assert not cut["complete"] and "of 5 s" in cut["warnings"][0] and whole["complete"]
    assert whole["first_tok_s"] > 0 and whole["temp_max_c"] > whole["temp_min_c"]
    assert [status for _, status in whole["thermal_changes"]] == [0, 1] and whole["throttled_after_s"] > 0
    assert whole["energy_source"].startswith("charge counter; ") and whole["energy_mwh"] > 0
    assert whole["minutes"][0]["watts"] == pytest.approx(0.85 * 4.1)
    assert make_sustained(read_records(log.with_name("phone.zip")))[1]["minutes"] == whole["minutes"]
    assert [line for line in phone.processes().values() if "edge-bench" in line] == []
