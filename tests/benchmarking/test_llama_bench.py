"""llama-bench's JSON next to a bench's own records: one table of both."""

import json

import pytest

from edge_transact.benchmarking.analysis.export import to_text
from edge_transact.benchmarking.analysis.results import make_results
from edge_transact.benchmarking.records.llama_bench import read_llama_bench, repetitions_of
from edge_transact.errors import EdgeTransactError, UsageError
from tests.support.bench_logs import llama_bench_test, repetition

MEASURED = [repetition(1.0, prefill_tokens=64, decode_tokens=5), repetition(3.0, prefill_tokens=256, decode_tokens=5)]


@pytest.fixture
def file(tmp_path):
    tests = [(64, 0, 0, [100, 120]), (256, 0, 0, [400, 440])]
    tests += [(0, 5, 0, [50, 50]), (0, 5, 64, [100, 110]), (0, 5, 256, [200, 200])]
    made = [llama_bench_test(*lengths, [each * 10**6 for each in milliseconds]) for *lengths, milliseconds in tests]
    (tmp_path / "llama-bench.json").write_text(json.dumps(made))
    return tmp_path / "llama-bench.json"


def test_prompts_and_answers_are_paired_by_length_and_depth(file):
    results = make_results([*MEASURED, *repetitions_of(read_llama_bench(file), MEASURED)])
    assert [result["target"] for result in results] == ["android"] * 2 + ["llama.cpp OpenCL"] * 2
    theirs = results[2]
    assert (theirs["model"], theirs["device"], theirs["test"]) == ("pruned.Q4_0", "Phone", "pp64+tg5")
    assert theirs["prefill_tok_s"] == pytest.approx(64 / 0.11) and theirs["repetitions"] == 2
    # Of five tokens the first is the prompt's.
    assert theirs["decode_tok_s"] == pytest.approx(5 / 0.105)
    assert theirs["e2e_s"] == pytest.approx(0.11 + 0.105 * 4 / 5)
    assert results[3]["decode_tok_s"] == pytest.approx(5 / 0.2)
    table = to_text(results, "md").splitlines()
    assert len(table) == 6 and "| llama.cpp OpenCL |" in table[-1]


def test_other_files_and_lengths_are_refused(file, tmp_path):
    tests = read_llama_bench(file)
    with pytest.raises(EdgeTransactError, match="none of the bench's lengths") as caught:
        repetitions_of(tests, [repetition(prefill_tokens=512, decode_tokens=7)])
    assert "-p 512 -n 7 -d 0,512" in caught.value.fix
    with pytest.raises(UsageError, match="2"):
        repetitions_of(tests, [*MEASURED, repetition(serial="other")])
    with pytest.raises(EdgeTransactError, match="does not exist"):
        read_llama_bench(tmp_path / "missing.json")
    whole = json.loads(file.read_text())[0]
    for content in ({"model": 1}, whole | {"model_n_params": 10**400}, whole | {"samples_ns": [0]}):
        file.write_text(json.dumps([content]))
        with pytest.raises(EdgeTransactError, match="not what llama-bench"):
            read_llama_bench(file)
