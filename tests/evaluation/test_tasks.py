"""Tasks of lm-evaluation-harness on a checkpoint and on a DIST, against scores made here."""

import json
import math
import multiprocessing
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions
from edge_transact.cli import app
from edge_transact.evaluation import library_lm
from edge_transact.evaluation.tasks import Tasks
from edge_transact.runtime.generation import generate
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.text import TextCodec

ROWS = [("It was the", "time"), ("the old man", "said"), ("Once upon a", "time")]
TASK = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: DIRECTORY/rows.jsonl}, cache_dir: DIRECTORY/cache}
test_split: test
doc_to_text: "{{context}}"
doc_to_target: "{{target}}"
"""
KINDS = {
    "two_words": "output_type: loglikelihood\nmetric_list: [{metric: perplexity}, {metric: acc}]",
    "next_words": "output_type: generate_until\ngeneration_kwargs: {until: [' '], max_gen_toks: 6, do_sample: SAMPLE}\n"
    "metric_list: [{metric: exact_match}]",
}


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tasks")
    rows = [json.dumps({"context": context, "target": f" {word}"}) for context, word in ROWS]
    (directory / "rows.jsonl").write_text("\n".join(rows))
    kinds = {**KINDS, "sampled": KINDS["next_words"].replace("SAMPLE", "true")}
    for name, kind in kinds.items():
        text = TASK.replace("NAME", name).replace("DIRECTORY", str(directory)) + kind.replace("SAMPLE", "false")
        (directory / f"{name}.yaml").write_text(text)
    return directory


@pytest.fixture
def quickly(monkeypatch):
    """Without lm-eval's thousands of tasks, which take seconds to list."""
    import lm_eval.tasks

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks") / "dist"
    build("demo:tiny", path, BuildOptions(target=["host"], quant="q4f16_0"))
    return path


def expected(logits_of, codec) -> dict[str, float]:
    """Perplexity of the words and how many are the likeliest, as `two_words` asks, with our own sums."""
    losses, hits = [], []
    for context, word in ROWS:
        start, ids = len(codec.encode(context)), codec.encode(f"{context} {word}")
        log_probabilities = torch.as_tensor(logits_of(ids[:-1])).float().log_softmax(-1)[start - 1 :]
        targets = torch.tensor(ids[start:])
        losses.append(-log_probabilities.gather(1, targets[:, None]).sum().item())
        hits.append(bool((log_probabilities.argmax(-1) == targets).all()))
    return {"perplexity": math.exp(sum(losses) / len(losses)), "acc": sum(hits) / len(hits)}


@pytest.mark.slow
def test_eval_scores_a_checkpoint_and_a_dist(own_tasks, dist, tiny_model, quickly, monkeypatch):
    # A pool is forked from a process with threads, and then may never end.
    monkeypatch.delattr(multiprocessing, "Pool")
    options = ["--tasks", "two_words", "--include-path", str(own_tasks), "--window", "64", "--max-windows", "1"]
    done = CliRunner().invoke(app, ["eval", str(tiny_model), str(dist), *options, "--json"])
    assert done.exit_code == 0, done.stderr
    torch_scores, dist_scores = (result["tasks"] for result in json.loads(done.stdout.splitlines()[-1])["models"])

    network, codec = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), TextCodec(tiny_model)
    with torch.inference_mode():
        own = expected(lambda ids: network(torch.tensor([ids])).logits[0], codec)
    for scores, right in ((torch_scores, own), (dist_scores, expected(HostModel.load(dist).window_logits, codec))):
        assert set(scores) == {"two_words"}
        assert {"perplexity", "acc", "acc_stderr"} <= set(scores["two_words"])
        assert {name: scores["two_words"][name] for name in right} == pytest.approx(right, rel=1e-3)
    assert torch_scores["two_words"]["perplexity"] != dist_scores["two_words"]["perplexity"]


@pytest.mark.slow
def test_generation_ends_at_the_tasks_stop_and_limit(own_tasks, dist, batch_dist, quickly, monkeypatch):
    handed_over, answers = [], {}

    def watched(library, prompts, *how):
        handed_over.append(len(prompts))
        for index, tokens in generate(library, prompts, *how):
            answers[codec.decode(prompts[index])] = tokens
            yield index, tokens

    monkeypatch.setattr(library_lm, "generate", watched)
    codec = TextCodec(dist)
    expected = {}
    for built, prompts_at_once in ((dist, [1, 1]), (batch_dist, [2])):
        library = HostModel.load(built)
        scores = Tasks(["next_words"], include_path=own_tasks, limit=2).scores(library, codec.tokenizer)
        assert handed_over == prompts_at_once, "prompts are of different length, and padded where there are several"
        assert set(answers) == {context for context, _ in ROWS[:2]}
        for context, answer in answers.items():
            assert 0 < len(answer) <= 6 and " " not in codec.decode(answer[:-1])
            library.reset()
            assert answer == list(library.generate(codec.encode(context), len(answer)))
        texts = [codec.decode(answers[context]).split(" ")[0] == f" {word}" for context, word in ROWS[:2]]
        assert scores["next_words"]["exact_match"] == sum(texts) / 2
        expected = expected or dict(answers)
        assert answers == expected
        handed_over.clear()
        answers.clear()
    with pytest.raises(Exception, match="takes the likeliest"):
        Tasks(["sampled"], include_path=own_tasks).scores(library, codec.tokenizer)


@pytest.mark.slow
def test_texts_are_scored_one_at_a_time(own_tasks, dist, batch_dist, quickly):
    """A library for several sequences gives the scores of one for one."""
    codec = TextCodec(dist)
    asked = Tasks(["two_words", "next_words"], include_path=own_tasks)
    one, several = (asked.scores(HostModel.load(built), codec.tokenizer) for built in (dist, batch_dist))
    assert one == several


def test_what_was_asked_is_what_the_tasks_say(own_tasks, tmp_path, quickly):
    """An interrupted `eval` goes on only with the same tasks."""
    shutil.copytree(own_tasks, tmp_path / "tasks")
    before, same = (Tasks(["two_words"], include_path=path).to_dict() for path in (own_tasks, tmp_path / "tasks"))
    task = next((tmp_path / "tasks").rglob("two_words.yaml"))
    task.write_text(task.read_text() + "\n# corrected\n")
    assert before == same != Tasks(["two_words"], include_path=tmp_path / "tasks").to_dict()


@pytest.mark.slow
def test_unknown_names_are_refused_before_a_model_is_loaded(own_tasks, monkeypatch):
    from lm_eval.tasks import manager

    # As if lm-eval had no tasks but ARC's: listing all of them takes 20 seconds.
    monkeypatch.setattr(manager, "__file__", str(Path(manager.__file__).parent / "arc" / "manager.py"))
    options = ["--tasks", "two_words,arc_esay", "--include-path", str(own_tasks)]
    refused = CliRunner().invoke(app, ["eval", "no-such-model", *options])
    assert refused.exit_code == 1 and "Did you mean 'arc_easy'?" in refused.stderr


def test_what_tasks_need(monkeypatch, own_tasks):
    refused = CliRunner().invoke(app, ["eval", "demo:tiny", "--limit", "3"])
    assert refused.exit_code == 2 and "--tasks" in refused.stderr
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    refused = CliRunner().invoke(app, ["eval", "demo:tiny", "--tasks", "two_words"])
    assert refused.exit_code == 1 and "edge-transact[eval]" in refused.stderr


def test_the_papers_suite(monkeypatch):
    """Every name is one of lm-eval's, with the paper's examples in the prompt; data out of reach is said."""
    from lm_eval import tasks

    root = Path(tasks.__file__).parent
    folders = ("wikitext", "lambada", "arc", "super_glue/boolq", "logiqa", "openbookqa", "piqa", "truthfulqa",
               "hellaswag", "winogrande", "triviaqa")  # fmt: skip
    manager = tasks.TaskManager(include_defaults=False, include_path=[root / folder for folder in folders])
    asked = []

    def load(specs):
        asked.extend(specs)
        if specs[0]["task"] == "triviaqa":
            raise ConnectionError("Couldn't reach 'mandarjoshi/trivia_qa' on the Hub")
        return {"groups": {}, "tasks": {}}

    monkeypatch.setattr(manager, "load", load)
    monkeypatch.setattr(tasks, "TaskManager", lambda **_: manager)
    refused = CliRunner().invoke(app, ["eval", "no-such-model", "--tasks", "basics,paper"])
    assert refused.exit_code == 1
    message = " ".join(refused.stderr.split())
    assert "task triviaqa can't be reached" in message and "--tasks basics needs no network" in message
    assert {spec["task"] for spec in asked} <= set(manager.all_tasks)
    shots = {spec["task"]: spec["num_fewshot"] for spec in asked if spec["num_fewshot"]}
    assert shots == {"arc_challenge": 25, "hellaswag": 10, "winogrande": 5, "triviaqa": 5}
    asked.clear()
    planned = CliRunner().invoke(app, ["eval", "no-such-model", "--tasks", "basics,paper", "--dry-run"])
    assert "no-such-model does not exist" in planned.stderr and not asked
