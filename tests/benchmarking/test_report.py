"""The report of a bench; ``tests/pages`` shows it in a browser."""

import json
import re
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

import pytest

from edge_transact.benchmarking.analysis import report as reports
from edge_transact.benchmarking.analysis.intervals import ratio_in_words
from edge_transact.benchmarking.analysis.report import answer
from edge_transact.benchmarking.analysis.results import make_results
from edge_transact.benchmarking.records.log import Log, read_records
from edge_transact.benchmarking.records.readings import Reading
from edge_transact.errors import EdgeTransactError
from tests.support.bench_logs import bench_of, in_rounds, repetition, visit
from tests.support.hostile_names import NAME

write_report = partial(reports.write_report, command="edge-transact bench dense pruned")


@pytest.fixture(scope="module")
def records():
    noise, models = (0.99, 1.0, 1.02), {"dense": 2.0, "pruned": 1.0, NAME: 1.5}
    return bench_of({model: [factor * each for each in noise] for model, factor in models.items()})


@pytest.fixture(scope="module")
def report(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report"
    names = write_report(records, path, perplexities={"dense": 23.8, "pruned": 29.1})
    return path, names


def test_figures_are_drawn(report):
    path, names = report
    assert names == ["1-latency.svg", "1-speedup.svg", "1-quality.svg", "1-temperature.svg"]
    assert {file.name for file in path.iterdir()} == {"index.html", "results.json", *names}
    for name in names:
        assert ElementTree.parse(path / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    results = json.loads((path / "results.json").read_text())
    assert len(results) == 6
    assert "2.00 times as fast (2.00 to 2.00)" in (path / "index.html").read_text()
    assert "256+5 tokens: 2.00 (2.00 to 2.00)" in (path / "1-speedup.svg").read_text()
    chart = (path / "1-latency.svg").read_text()
    for result in results:
        assert f"{result['e2e_s']:.3g} s (" in chart, "the text alternative has each figure with its interval"


def test_the_first_line_says_what_a_person_wants(records):
    """Sizes are equal here, and the second model has no perplexity."""
    results = make_results(records)
    assert answer([each for each in results if each["model"] != NAME], {"dense": 23.8, "pruned": 29.1}) == (
        "pruned: perplexity 23.8 → 29.1, 2.00 times as fast (2.00 to 2.00), against dense on Phone"
    )
    small = [each | {"weights_mib": 460.0} if each["model"] == "pruned" else each for each in results]
    assert answer(small, {"dense": 23.8}).startswith("pruned: 23 % smaller, 2.00 times as fast (2.00 to 2.00); ")
    (first,) = [each for each in results if each["model"] == "dense" and each["prefill_tokens"] == 64]
    assert answer([first], {}) == "dense: the first token after 0.4 s, then 2.5 tokens a second, on Phone"


@pytest.mark.parametrize(
    ("ratio", "low", "high", "verdict", "words"),
    [
        (2.0, 1.9, 2.1, "faster", "2.00 times as fast (1.90 to 2.10)"),
        (0.8, 0.78, 0.82, "slower", "1.25 times as slow (1.22 to 1.28)"),
        (0.02, 0.0016, 0.25, "slower", "50 times as slow (at least 4.00, known to ±99% only)"),
        (1.0, 0.9, 1.1, "noise", "no difference beyond noise (0.90 to 1.10 times as fast)"),
        (0.5, None, None, "unknown", "2.00 times as slow, from one round, which tells nothing of the noise"),
    ],
)
def test_what_is_slower_is_called_slower_with_how_well_that_is_known(ratio, low, high, verdict, words):
    assert ratio_in_words(ratio, low, high, verdict) == words


def test_phones_of_one_name_have_pictures_of_their_own(tmp_path):
    """Each was measured by a bench of its own, into the same log; on the second, the pruned model gains nothing."""
    trace = [Reading(at_s=0.0, temp_c=30.0), Reading(at_s=60.0, temp_c=35.0)]
    records = []
    for serial, dense_s in (("USB1", 2.0), ("192.168.1.5:5555", 1.0)):
        for model, seconds in (("dense", dense_s), ("pruned", 1.0)):
            what = {"model": model, "model_digest": model, "serial": serial}
            records += [*in_rounds(seconds, seconds, seconds, **what), visit(trace, **what)]
    names = write_report(records, tmp_path / "report")
    assert names == [f"{place}-{what}.svg" for place in (1, 2) for what in ("latency", "speedup", "temperature")]
    assert "Temperature of Phone (USB1)" in (tmp_path / "report" / "1-temperature.svg").read_text()
    page = (tmp_path / "report" / "index.html").read_text()
    assert "pruned: 2.00 times as fast (2.00 to 2.00), against dense on Phone (USB1)" in page
    assert "Latency on Phone (192.168.1.5:5555)" in page


def test_a_report_of_a_plan_that_was_cut_short(tmp_path):
    """Two models, each with a perplexity, have no lengths in common yet."""
    records = [repetition(model="a", model_digest="a"), repetition(model="b", model_digest="b", prefill_tokens=128)]
    names = write_report(records, tmp_path / "report", perplexities={"a": 1.0, "b": 2.0})
    assert names == ["1-latency.svg"]


def test_neither_pages_nor_logs_name_the_home_directory(tmp_path, monkeypatch):
    """Whatever it is called; they are given to others as model cards are."""
    home = tmp_path / "José&sons"
    monkeypatch.setenv("HOME", str(home))
    model = f"{home}/dist"
    ended = replace(visit(model=model), error=f"{home}/dist/lib.so: no such file, nor {home}s/x")
    reports.write_report([repetition(model=model), ended], tmp_path / "report", command=f"edge-transact bench {model}")
    log = Log(tmp_path / "log.jsonl", {})
    log.append(ended)
    log.close()
    texts = {file.name: file.read_text() for file in [*(tmp_path / "report").iterdir(), tmp_path / "log.jsonl"]}
    assert len(texts) > 3 and "<span>~/dist</span>" in texts["index.html"]
    assert not [name for name, text in texts.items() if re.search(r"Jos(é|\\u00e9)&(amp;)?sons/", text)]
    (read,) = read_records(tmp_path / "log.jsonl")
    assert read.error == f"~/dist/lib.so: no such file, nor {home}s/x"


def test_an_existing_report_stays(report, records):
    path, _ = report
    with pytest.raises(EdgeTransactError, match="exists"):
        write_report(records, path)
