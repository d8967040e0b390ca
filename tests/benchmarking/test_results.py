"""Results, their exports, the log and comparisons."""

import csv
import io
import json
import math
import re
import sqlite3
import statistics
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_transact.benchmarking.analysis.compare import compare, paired, to_markdown
from edge_transact.benchmarking.analysis.export import to_text, write_sqlite
from edge_transact.benchmarking.analysis.results import SAMPLE_FIELDS, make_results
from edge_transact.benchmarking.records.record import RepetitionRecord
from edge_transact.errors import EdgeTransactError, UsageError
from tests.support.bench_logs import in_rounds, repetition, visit, write_log

REFERENCE = Path(__file__).parents[2] / "docs/bench-reference.md"
CONTRACT = (
    "model", "device", "target", "quantization", "prefill_tokens", "decode_tokens", "repetitions", "load_s",
    "kernel_build_s", "ttft_s", "prefill_s", "decode_s", "e2e_s", "prefill_tok_s", "decode_tok_s", "peak_rss_mib",
    "kv_mib", "weights_mib", "samples",
)  # fmt: skip
LLAMA_BENCH = (
    "build_commit", "backends", "model_type", "model_size", "model_n_params", "n_threads", "n_prompt", "n_gen",
    "n_depth", "repetitions", "warmups", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns",
    "samples_ts", "test",
)  # fmt: skip


def test_fields_are_listed_once():
    """Samples have fields of the log, and the page explains all fields of a result."""
    (result,) = make_results([repetition()])
    (sample,) = result["samples"]
    assert list(sample) == list(SAMPLE_FIELDS)
    assert set(sample) <= {field.name for field in fields(RepetitionRecord)}
    table = REFERENCE.read_text().partition("| field | meaning |")[2].partition("\n\n")[0]
    explained = {name for row in table.splitlines()[1:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert explained == {name for name in result if not name.endswith(("_std", "_low", "_high"))}


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9))
def test_a_result_is_the_median_of_its_repetitions(seconds):
    (result,) = make_results([repetition(value) for value in seconds])
    assert set(CONTRACT) | set(LLAMA_BENCH) <= set(result)
    middle = statistics.median(seconds)
    assert result["e2e_s"] == middle and result["repetitions"] == len(seconds)
    assert result["e2e_s_std"] == statistics.stdev(seconds)
    assert math.isclose(result["prefill_tok_s"], 64 / (0.2 * middle))
    # The answer has five tokens, the first of which the prefill gives.
    assert math.isclose(result["decode_tok_s"], 4 / (0.8 * middle))
    # A repetition's four steps are equal, so the middle of all steps is that of the repetitions.
    assert math.isclose(result["decode_step_p50_s"], 0.2 * middle)
    assert math.isclose(result["bandwidth_share"], 0.6 * result["decode_tok_s"] / 76.8)
    assert result["avg_ns"] == round(statistics.fmean(seconds) * 1e9)
    assert result["samples_ts"] == [69 / value for value in seconds]


def test_results_never_mix():
    records = [
        repetition(1.0),
        repetition(2.0, model_digest="e" * 64),
        repetition(3.0, serial="s2"),
        repetition(4.0, target="android-cpu"),
        repetition(5.0, prefill_tokens=128),
        repetition(6.0, batch_size=4),
        visit(seconds=6.0),
        repetition(7.0),
    ]
    assert [result["samples_ns"] for result in make_results(records)] == [
        [10**9, 7 * 10**9], [2 * 10**9], [3 * 10**9], [4 * 10**9], [5 * 10**9], [6 * 10**9]
    ]  # fmt: skip


def test_builds_of_one_name_are_told_apart():
    """The same DIST was built again, and measured into the same log."""
    old, new = make_results([repetition(model_digest="0123456789"), repetition(2.0, model_digest="fedcba9876")])
    assert (old["model"], new["model"], new["baseline"]) == ("m (01234567)", "m", "m (01234567)")


def test_devices_of_one_name_are_told_apart():
    """Each was measured by a bench of its own, into the same log."""
    results = make_results([repetition(serial="USB1"), repetition(serial="192.168.1.5:5555"), visit(serial="USB1")])
    assert [result["device"] for result in results] == ["Phone (USB1)", "Phone (192.168.1.5:5555)"]
    (alone,) = make_results([repetition(serial="USB1")])
    assert alone["device"] == "Phone"


def test_unknown_values_are_null_and_warnings_are_noted():
    unknown = ("thermal_status", "temp_start_c", "temp_peak_c", "peak_rss_mib", "bandwidth_gb_s")
    (result,) = make_results([repetition(**dict.fromkeys(unknown))])
    assert result["throttled"] is result["peak_rss_mib"] is result["bandwidth_share"] is result["e2e_s_std"] is None
    (slow,) = make_results(
        [repetition(prefill_s=40.0, thermal_status=3, tokens_agreed=2), repetition(prefill_s=40.0, tokens=[9] * 5)]
    )
    assert slow["prefill_slow"] and slow["throttled"] and not slow["tokens_equal"]
    table = to_text([slow], "md")
    for words in ("bad kernel", "throttled", "2 of 17 tokens", "differ between repetitions"):
        assert words in table


def test_compiled_kernels_are_distinguished_from_restored_ones():
    kept = {"kernel_build_s": 0.5, "kernels_restored": True}
    (first,) = make_results([repetition(), repetition(**kept), repetition(**kept)])
    (later,) = make_results([repetition(**kept), repetition(**kept)])
    assert (first["kernel_build_s"], first["kernels_restored"]) == (9.0, False)
    assert (later["kernel_build_s"], later["kernels_restored"]) == (0.5, True)


def test_one_decoded_token_has_no_decode_speed():
    record = replace(repetition(decode_tokens=2), decode_tokens=1, decode_steps_s=(), decode_s=0.0, tokens=(1,))
    (result,) = make_results([record])
    assert result["decode_tok_s"] is result["decode_step_p50_s"] is None
    assert "| - |" in to_text([result], "md")


def test_exports_hold_the_same(tmp_path):
    results = make_results([repetition(1.0, model='a "b",\n c|d'), repetition(2.0, model='a "b",\n c|d')])
    assert json.loads(to_text(results, "json")) == results
    assert [json.loads(line) for line in to_text(results, "jsonl").splitlines()] == results
    (row,) = csv.DictReader(io.StringIO(to_text(results, "csv")))
    assert row["model"] == results[0]["model"] and json.loads(row["samples_ns"]) == [10**9, 2 * 10**9]
    for _ in range(2):
        write_sqlite(results, tmp_path / "r.sqlite")
    with sqlite3.connect(tmp_path / "r.sqlite") as database:
        rows = database.execute("SELECT model, e2e_s, samples_ns FROM results").fetchall()
    assert rows == [(results[0]["model"], 1.5, "[1000000000, 2000000000]")] * 2
    table = to_text(results, "md").splitlines()
    assert {line.replace("\\|", "").count("|") for line in table} == {19} and len(table) == 3
    (tmp_path / "other").write_text("text")
    with pytest.raises(UsageError):
        write_sqlite(results, tmp_path / "other")


def test_a_difference_is_distinguished_from_noise(tmp_path):
    steady = in_rounds(1.00, 1.01, 0.99, 1.0, 1.0)
    slower = in_rounds(*(1.2 * record.e2e_s for record in steady))
    noisy = in_rounds(0.7, 1.4, 1.0, 0.8, 1.3)
    a, b, c = (write_log(tmp_path / name, records) for name, records in (("a", steady), ("b", slower), ("c", noisy)))
    for row in compare(paired(a, b)):
        assert row["verdict"] == "slower" and row["low"] < 1.2 < row["high"] and math.isclose(row["ratio"], 1.2)
    assert {row["verdict"] for row in compare(paired(b, a))} == {"faster"}
    assert {row["verdict"] for row in compare(paired(a, c))} == {"noise"}
    assert "slower" in to_markdown(compare(paired(a, b)))
    assert "no difference beyond noise" in to_markdown(compare(paired(a, c)))


def test_comparison_warns_of_throttling_and_heat(tmp_path):
    cool = write_log(tmp_path / "cool", [repetition()] * 3)
    hot = write_log(tmp_path / "hot", [repetition(1.5, thermal_status=2, temp_start_c=41.0)] * 2)
    warnings = compare(paired(cool, hot))[0]["warnings"]
    assert any("throttling after" in warning for warning in warnings)
    assert any("41 C after" in warning for warning in warnings) and any("2 repetitions" in w for w in warnings)
    with pytest.raises(EdgeTransactError, match="in common"):
        paired(cool, write_log(tmp_path / "else", [repetition(prefill_tokens=128)]))
