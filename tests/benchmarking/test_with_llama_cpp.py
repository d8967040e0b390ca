"""llama-bench on the phone, in turns with the runner: a program that speaks its output format stands in for it."""

import pytest
from gguf import GGUFReader

from edge_transact.benchmarking import session
from edge_transact.benchmarking.analysis.report import write_report
from edge_transact.benchmarking.session import BenchOutcome, plan_bench
from edge_transact.errors import UsageError
from tests.support.bench_logs import repetitions
from tests.support.bench_runs import QUICK
from tests.support.command import run

# The lines are those of llama.cpp d82b7a7, without the fields that aren't read. A library beside it says its speed.
LLAMA_BENCH = r"""#!/system/bin/sh
echo "$@" >> /data/local/tmp/calls
read -r fate < "$LD_LIBRARY_PATH/libfate.so"
depth=0
while [ $# -gt 0 ]; do
    case $1 in
    -m) file=$2 ;; -p) prompt=$2 ;; -n) answer=$2 ;; -d) depth=$2 ;; -r) count=$2 ;; -t) threads=$2 ;;
    esac
    shift
done
echo "build: this goes to stderr" >&2
[ "$fate" = fails ] && echo "error: failed to load model '$file'" >&2 && exit 1
[ "$(cat "$file")" = "a model" ] || exit 2
nanoseconds=$(((prompt * 10 + answer * 30) * 1000000)) samples=
while [ $count -gt 0 ]; do samples="$samples${samples:+, }$nanoseconds"; count=$((count - 1)); done
echo "{\"build_commit\": \"d82b7a7\", \"build_number\": 6500, \"backends\": \"CPU\", \"n_threads\": ${threads:-9}," \
    "\"model_filename\": \"$file\", \"model_type\": \"llama ?B Q4_0\", \"model_size\": 1048576," \
    "\"model_n_params\": 100, \"n_prompt\": $prompt, \"n_gen\": $answer, \"n_depth\": $depth," \
    "\"test_time\": \"2026-12-02T10:00:00Z\", \"avg_ns\": 1, \"samples_ns\": [ $samples ]}"
"""


@pytest.fixture
def peer(tmp_path):
    """Options of a bench with llama-bench and its model."""
    program, gguf = tmp_path / "build" / "llama-bench", tmp_path / "tiny.gguf"
    program.parent.mkdir()
    program.write_text(LLAMA_BENCH)
    gguf.write_text("a model\n")
    (program.parent / "libfate.so").write_text("runs\n")
    return {"llama_cpp": program, "ggufs": [gguf]}


def test_llama_cpp_takes_turns_at_the_same_lengths(phone, run_bench, peer, tmp_path):
    outcome = run_bench(phone.serial, repetitions=3, cores="0", peer=peer)
    assert outcome.failures == []
    ours, theirs = outcome.results
    assert (ours["target"], theirs["target"]) == ("android-cpu", "llama.cpp")
    turns = [(each.round, each.target) for each in repetitions(run_bench.log)]
    # A B, B A: two repetitions in the first round, one in the second.
    assert turns == [(0, "android-cpu")] * 2 + [(0, "llama.cpp")] * 2 + [(1, "llama.cpp"), (1, "android-cpu")]
    assert theirs["ttft_s"] == pytest.approx(0.08) and theirs["n_threads"] == ours["n_threads"] == 1
    # Of four tokens the first is the prompt's.
    assert theirs["decode_s"] == pytest.approx(3 * 0.03) and theirs["decode_tok_s"] == pytest.approx(1 / 0.03)
    assert theirs["baseline"] == ours["model"] and theirs["pairs"] == 2 and theirs["e2e_speedup"] > 0
    calls = (phone.tmp / "calls").read_text().splitlines()
    assert len(calls) == 4 and all("-t 1 -C 0x1" in call and "--no-warmup" in call for call in calls)
    assert "-p 8 -n 0 -o jsonl -r 2" in calls[0] and "-p 0 -n 4 -d 8 -o jsonl -r 2" in calls[1]
    records = repetitions(run_bench.log)
    write_report(records, tmp_path / "report", command="", baseline=records[0].model_digest)
    assert ".gguf llama.cpp" in (tmp_path / "report" / "index.html").read_text()
    # What the log has isn't measured again; a program that fails is given up with its own words.
    assert run_bench(phone.serial, repetitions=3, cores="0", peer=peer).results == outcome.results
    (peer["llama_cpp"].parent / "libfate.so").write_text("fails\n")
    (failure,) = run_bench(phone.serial, repetitions=4, cores="0", peer=peer).failures
    assert "failed to load model" in failure
    assert not list((phone.tmp / "edge-transact").glob("runs/*")) and len(repetitions(run_bench.log)) == 7


def test_a_dist_is_measured_whose_tokenizer_gguf_cannot_hold(built_dist, peer, monkeypatch, tmp_path):
    exported = {}

    def measured(dists, options, *, ggufs, **_):
        exported.update(
            {
                dist: GGUFReader(file).get_field("tokenizer.ggml.model").contents()
                for dist, file in zip(dists, ggufs, strict=True)
            }
        )
        return BenchOutcome([], tmp_path / "log.jsonl")

    monkeypatch.setattr(session, "bench_models", measured)
    done = run("bench", built_dist, "--device", "s1", "--with-llama-cpp", peer["llama_cpp"])
    assert done.exit_code == 0, done.output
    assert exported == {built_dist: "none"}


def test_without_a_phone_or_a_program_it_is_refused(tiny_dist, peer, tmp_path):
    with pytest.raises(UsageError, match="on phones"):
        plan_bench([tiny_dist], QUICK, log=tmp_path / "log.jsonl", llama_cpp=peer["llama_cpp"])
    with pytest.raises(UsageError, match="not a file"):
        plan_bench(
            [tiny_dist], QUICK.model_copy(update={"device": "s1"}), log=tmp_path / "log.jsonl", llama_cpp=tmp_path
        )
