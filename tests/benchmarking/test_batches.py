"""Benches of several prompts that are answered together."""

import json

import pytest

from edge_transact.benchmarking.analysis.compare import compare, paired
from edge_transact.benchmarking.analysis.export import sentence, to_text
from edge_transact.benchmarking.analysis.results import make_results
from edge_transact.benchmarking.model import open_models
from edge_transact.benchmarking.records.log import read_records
from edge_transact.benchmarking.records.plan import Lengths, prompt_ids
from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.host import HostModel
from tests.support.bench_logs import in_rounds, repetition, write_log
from tests.support.command import run, said
from tests.support.dists import make_dist

LENGTHS = ["--lengths", "8+4", "--repetitions", "2", "--warmups", "0"]


@pytest.mark.slow
def test_a_batch_is_measured_next_to_a_single_prompt(batch_dist, tmp_path):
    log = tmp_path / "log.jsonl"
    for batch in ([], ["--batch", "2"]):
        done = said("bench", batch_dist, *LENGTHS, *batch, "-o", log, "--report", tmp_path / "report")
    one, two = done["results"]
    assert (one["batch_size"], two["batch_size"]) == (1, 2) and two["test"] == "2 x pp8+tg4"
    assert one["baseline"] is two["baseline"] is None, "they are not compared"
    for result in (one, two):
        assert result["repetitions"] == 2 and result["tokens_agreed"] == result["tokens_checked"] > 0
        assert result["prefill_tok_s"] == pytest.approx(result["batch_size"] * 8 / result["prefill_s"])
        assert result["decode_tok_s"] == pytest.approx(result["batch_size"] * 3 / result["decode_s"])
    library = HostModel.load(batch_dist)
    prompt = prompt_ids(library.metadata["active_vocab_size"], 8)
    assert list(library.generate(prompt, 4)) == one["tokens"] == two["tokens"]
    # 11 tokens of each sequence are kept: a page of 16 each, and one more.
    (model,) = open_models([batch_dist], [])
    full_pages = model.manifest.context_window_size // 16 + 1
    assert two["kv_mib"] / one["kv_mib"] == pytest.approx(3 / full_pages)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "2 x 8+4 tokens" in page and "tokens a second, with 2 prompts at once on this host" in page
    plan = said("bench", batch_dist, *LENGTHS, "--batch", "2", "-o", log, "--dry-run")["plan"]
    assert (plan["lengths"], plan["visits"]) == (["2 x 8+4"], 0), "the log holds all of it"


def test_what_takes_no_batch_says_so(tmp_path):
    dist = make_dist(tmp_path / "dist")
    refused = run("bench", dist, "--batch", "2", "-o", tmp_path / "log.jsonl")
    assert refused.exit_code == 2
    message = " ".join(refused.stderr.split())
    assert "built with --max-batch 1, too few for 2 x 64+64" in message and "again with `--max-batch 2`" in message
    # A phone wouldn't take it from another build.
    refused = run("bench", dist, "--batch", "2", "--device", "all", "-o", tmp_path / "log.jsonl")
    assert refused.exit_code == 2 and "--device host" in " ".join(refused.stderr.split())
    assert not (tmp_path / "log.jsonl").exists()


def test_a_tokens_share_of_what_a_step_reads(tmp_path):
    """Weights are read once for all sequences, the KV cache once for each."""
    (model,) = open_models([make_dist(tmp_path / "dist")], [])
    one, four = (model.decode_read_bytes(Lengths(64, 8, batch)) for batch in (1, 4))
    without = model.decode_read_bytes(Lengths(0, 0))
    assert four == pytest.approx(without / 4 + (one - without), abs=1)


def test_speeds_count_all_sequences_and_batches_are_compared_with_their_like():
    dense = [*in_rounds(1.0, 1.0, 1.0), *in_rounds(2.0, 2.0, 2.0, batch_size=4)]
    pruned = [*in_rounds(0.5, 0.5, 0.5, model="p", model_digest="e"),
              *in_rounds(1.6, 1.6, 1.6, batch_size=4, model="p", model_digest="e")]  # fmt: skip
    results = make_results([*dense, *pruned])
    of = {(result["model"], result["batch_size"]): result for result in results}
    assert of["m", 4]["prefill_tok_s"] == pytest.approx(2 * of["m", 1]["prefill_tok_s"])
    assert of["m", 4]["decode_tok_s"] == pytest.approx(2 * of["m", 1]["decode_tok_s"])
    assert of["m", 4]["decode_step_p50_s"] == pytest.approx(2 * of["m", 1]["decode_step_p50_s"])
    assert of["m", 4]["samples_ts"] == [4 * 69 / 2.0] * 3
    assert of["m", 4]["baseline"] is None
    assert of["p", 1]["e2e_speedup"] == pytest.approx(2) and of["p", 4]["e2e_speedup"] == pytest.approx(1.25)
    assert sentence(of["p", 4]).startswith("p against m at 4 x 64+5 tokens on Phone")
    assert "| 4 x pp64+tg5 |" in to_text([of["m", 4]], "md")


def test_a_prefill_is_slow_that_takes_longer_than_a_step_for_each_token_of_a_prompt():
    """Steps of a batch may decode more tokens than a good prefill computes in that time."""

    def is_slow(prefill_s: float, batch_size: int) -> bool:
        """Four steps take a second, and 64 of them would take 16."""
        (result,) = make_results([repetition(prefill_s=prefill_s, decode_s=1.0, batch_size=batch_size)])
        return result["prefill_slow"]

    assert is_slow(17.0, 1) and not is_slow(15.0, 1)
    assert is_slow(4 * 17.0, 4) and not is_slow(4 * 15.0, 4)


def test_logs_of_different_batches_have_nothing_in_common(tmp_path):
    """Records from before there were batches are of one prompt."""
    old = write_log(tmp_path / "old", in_rounds(1.0, 1.1))
    fields = [json.loads(line) for line in old.read_text().splitlines()]
    for record in fields:
        assert record.pop("batch_size") == 1
    old.write_text("".join(json.dumps(record) + "\n" for record in fields))
    assert {record.lengths for record in read_records(old)} == {Lengths(64, 5)}
    new = write_log(tmp_path / "new", [*in_rounds(1.0, 1.1), *in_rounds(1.0, 1.1, batch_size=2)])
    rows = compare(paired(old, new))
    assert {row["batch_size"] for row in rows} == {1} and rows
    with pytest.raises(EdgeTransactError, match="in common") as refused:
        paired(old, write_log(tmp_path / "batches", in_rounds(1.0, 1.1, batch_size=2)))
    assert "--batch" in refused.value.fix
