"""Short questions: the rules, what counts as degenerate, and the answers of checkpoints and libraries."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from edge_transact.artifacts.dist_files import CHAT_CONFIG
from edge_transact.checkpoint import Checkpoint
from edge_transact.cli import app
from edge_transact.errors import EdgeTransactError
from edge_transact.evaluation.answers import basics
from edge_transact.evaluation.answers.basics import MAX_TOKENS, Answered, answers, ask, row_of, stop_ids
from edge_transact.evaluation.answers.collapse import CollapseFigures, warning
from edge_transact.evaluation.answers.decoding import TOKENS_PER_ROUND, decode_in_torch
from edge_transact.evaluation.answers.degenerate import cycles, degenerate, loops
from edge_transact.evaluation.answers.questions import QUESTIONS, Question, quick_questions
from edge_transact.evaluation.models import load
from edge_transact.runtime.session import Session
from edge_transact.runtime.text import TextCodec
from tests.support.chats import chatting
from tests.support.checkpoints import narrowed, odd_plan
from tests.support.dists import edit_json
from tests.support.examples import small_model

PROMPT = "system\nYou are a helpful assistant named Lem, trained by nobody\nuser\nWhat is the capital of France?"
SEA = "The sea is a vast and old place, full of life, which nobody has seen as a whole."

RIGHT = {
    "What is the capital of France?": ["Paris", "The capital of France is **Paris**.", "paris, of course"],
    "What is the capital of Italy?": ['It\'s "Rome".'],
    "What is 2 + 3?": ["5", "2 + 3 = 5.", "The answer is five.", "2+3=5", "5, because 2 and 3 are 5."],
    "How many days are there in a week?": ["A 7-day week.", "There are 7."],
    "On which planet do we live?": ["Earth", "On planet Earth's surface: on Earth."],
    "What is the opposite of up?": ["Down", "The opposite of up is down."],
    "Name three colors.": ["Red, green and blue.", "1. Red\n2. Yellow\n3. Grey",
                           "Sure! " + "Here they are. " * 9 + "red blue pink"],
    "Name three fruits.": ["Strawberries, raspberries, cherries"],
    "What is the Spanish word for house?": ["'Casa'", "It's casa."],
    "Write the word hello in capital letters, and nothing else.": ["HELLO", '"HELLO."'],
    "Answer with yes or no only: Is ice cold?": ["Yes", "yes."],
    "Write one sentence about the sea.": [SEA, "I love the ocean!"],
}  # fmt: skip
WRONG = {
    "What is the capital of France?": ["", "Lyon", "Parisian", "The capital of France is the capital of France.",
                                       " ".join(f"City{n}" for n in range(20)) + " Paris"],
    "What is 2 + 3?": ["2 + 3 = 3", "15", "23", "5.5", "0.5", "1,5", "-5", "2 + 3 = \u22125"],
    "On which planet do we live?": ["It is Venus, in Earth\u2019s system",
                                    "The planet we live on is called Venus. It is the second planet in the Earth's."],
    "Which letter comes after A, B, C?": ["I'd say it is E.", "I\u2019d say E.", "E"],
    "Name three colors.": ["Red, red and red.", "Red and blue.", "Gray, grey and red."],
    "Name three fruits.": ["An apple, apples and a banana."],
    "Name three seasons of the year.": ["Autumn, fall, winter"],
    "Write the word hello in capital letters, and nothing else.": ["Hello", "HELLO is the word."],
    "Answer with yes or no only: Is ice cold?": ["No", "Yes, ice is cold."],
    "Write one sentence about the sea.": ["The sea", "I like cats very much.", SEA[:-1],
                                          "Write one sentence about the sea."],
}  # fmt: skip


def question(text: str) -> Question:
    return next(each for each in QUESTIONS if each.text == text)


def test_rules_accept_what_a_person_would():
    for rules, right in ((RIGHT, True), (WRONG, False)):
        for text, given in rules.items():
            for answer in given:
                assert question(text).is_right(answer) is right, (text, answer)


def test_no_question_answers_itself_and_no_answer_answers_many():
    asked = QUESTIONS
    assert len({each.text for each in asked}) == len(asked) == 54
    assert len(quick_questions()) == 12 and {each.kind for each in quick_questions()} == {each.kind for each in asked}
    for answer in ("", *(each.text for each in asked)):
        assert not any(each.is_right(answer) for each in asked if each.text == answer or not answer)
    for constant in ("Paris", "5", "yes", "Red, green and blue.", "I'm Lem, a helpful assistant.", SEA):
        assert sum(each.is_right(constant) for each in asked) <= 3, constant


@pytest.mark.parametrize(
    ("answer", "ended", "kind"),
    [
        ("Paris", True, None),
        ("The capital of France is Paris.", True, None),
        ("What is the capital of France?", True, "copy"),
        ("I am a helpful assistant named Lem, trained by nobody. Ask!", True, "copy"),
        ("Paris Paris Paris Paris Paris Paris", True, "loop"),
        ("Tokyo, the city of the city of the city of the ci", False, "loop"),
        ("So: " + "!" * 40, False, "loop"),
        ("\n".join(f"{n}. The sea is blue." for n in range(1, 9)), True, "loop"),
        ("1. Red is a color.\n2. Blue is a color.\n3. Green is a color.", True, None),
        ("No, no, no!", True, None),
        (SEA, True, None),
        (SEA, False, "endless"),
        ("", True, "empty"),
        (" \n...", False, "empty"),
    ],
)
def test_what_is_degenerate(answer, ended, kind):
    assert degenerate(answer, PROMPT, ended=ended) == kind


def test_a_right_answer_in_the_words_of_the_question_is_no_copy():
    asked = question("What is the Spanish word for house?")
    for text, right in (("Casa is the Spanish word for house.", True), ("What is the Spanish word for house?", False)):
        found = degenerate(text, asked.text, ended=True)
        assert found == "copy"
        row = row_of(asked, Answered(asked.text, text, 9, True, found))
        assert (row["right"], row["degenerate"]) == (right, None if right else "copy")


@pytest.mark.parametrize("period", [1, 2, 7, 16])
def test_a_cycle_of_tokens_is_a_loop_of_text(period):
    cycle = [f"w{n} " for n in range(period)]
    ids = list(range(100, 105)) + 40 * list(range(period))
    fewest = next(length for length in range(1, len(ids)) if cycles(ids[:length]))
    assert max(24, 4 * period) <= fewest - 5 <= max(24, 4 * period) + period
    assert not cycles(range(100)) and not cycles([])
    assert loops("".join((["Well, "] * 5 + 40 * cycle)[:fewest]))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """Two layers with random weights and ChatML, whose tokens are bytes."""
    return small_model(tmp_path_factory.mktemp("chat") / "model", num_hidden_layers=2)


@pytest.fixture(scope="module")
def pruned(chat_model, tmp_path_factory):
    """The same with layers of different widths, as `prune` writes it."""
    from edge_transact.checkpoint.writer import write_checkpoint

    source, path = Checkpoint.open(chat_model), tmp_path_factory.mktemp("pruned") / "pruned"
    plan = odd_plan(source.plan)
    write_checkpoint(source, plan, narrowed(source, plan), {"source": str(chat_model)}, path)
    return path


@pytest.fixture(scope="module")
def dist(built_dist, pruned, tmp_path_factory):
    """A library that chats, and says that it was built from the pruned model."""
    path = chatting(built_dist, tmp_path_factory.mktemp("dist") / "dist", str(pruned))
    conversation = json.loads((path / CHAT_CONFIG).read_text())["conv_template"]
    edit_json(path / CHAT_CONFIG, conv_template=conversation | {"stop_token_ids": sorted(stop_ids(TextCodec(path)))})
    return path


def test_mlcs_configuration_may_name_a_template(tiny_model, tmp_path):
    """Its own tokens end answers then, as where it has none."""
    path = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    before = stop_ids(TextCodec(path))
    for template in ("llama-3", {"name": "x"}):
        (path / CHAT_CONFIG).write_text(json.dumps({"conv_template": template, "eos_token_id": [7]}))
        assert stop_ids(TextCodec(path)) == {*before, 7}
    (path / CHAT_CONFIG).write_text(json.dumps({"conv_template": {"stop_token_ids": "all"}}))
    with pytest.raises(EdgeTransactError, match=r"mlc-chat-config\.json .*stop_token_ids"):
        stop_ids(TextCodec(path))


@pytest.mark.parametrize("name", ["chat_model", "pruned"])
def test_a_batch_gives_the_answers_that_transformers_gives_one_by_one(request, name):
    path = request.getfixturevalue(name)
    network, codec = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), TextCodec(path)
    # A common token ends answers, too, so that they leave the batch at different times.
    prompts, stops = [each.text for each in quick_questions()[:5]], [2, 68]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    assert stop_ids(codec) == set(stops)
    network.train()
    given = answers(network, codec, prompts, max_tokens=20)
    assert network.training
    network.eval()
    for prompt, answer in zip(prompts, given, strict=True):
        ids = codec.encode_chat([{"role": "user", "content": prompt}])
        alone = network.generate(
            torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=stops, pad_token_id=0
        )[0, len(ids) :].tolist()
        ended = alone[-1] in stops
        assert (answer.ended, answer.tokens) == (ended, len(alone) - ended)
        assert answer.text == codec.decode(alone[:-1] if ended else alone).strip()


def test_work_counts_and_not_how_many_answers_have_ended(chat_model):
    network, done = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32), []
    rounds = [len(each) for each in decode_in_torch(network, [[5, 6, 7, 8], [9] * 10], (), 16, done.append)]
    assert len(done) == max(rounds) + 1 and sum(done) == pytest.approx(2), "in the end, the rounds that weren't needed"
    assert len(set(done[1:-1])) == 1, "rounds count alike"
    assert done[0] / done[1] == pytest.approx(1 + 20 / TOKENS_PER_ROUND), "the first one reads the prompts"


def test_a_library_gives_the_answers_of_run(dist):
    library, codec = load(str(dist))
    rows = ask(library, codec, QUESTIONS[::9])
    session = Session.load(dist, temperature=0.0, max_tokens=MAX_TOKENS)
    for row in rows:
        session.reset()
        theirs = session.answer(row["question"])
        # An answer that circles isn't followed to its end.
        count = row["tokens"]
        assert row["answer"] == codec.decode(theirs.tokens[:count]).strip()
        assert row["ended"] is (theirs.finish == "stop") and (count == len(theirs.tokens) or count >= 24)


@pytest.mark.slow
def test_a_library_for_several_sequences_gives_the_answers_of_one(batch_dist, pruned, tmp_path):
    library, codec = load(str(chatting(batch_dist, tmp_path / "dist", str(pruned))))
    assert library.max_batch_size == 3
    together = ask(library, codec, QUESTIONS[::5])
    library.max_batch_size = 1
    alone = ask(library, codec, QUESTIONS[::5])
    # But for rounding: where two tokens are as likely, the long answers of this tiny model may part. How likely they
    # are depends on the CPU, too, which trained it.
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= len(alone) - 2


def test_eval_asks_all_models_and_writes_a_page(pruned, dist, tmp_path):
    models, options = [str(pruned), str(dist)], ["--window", "64", "--max-windows", "1", "--tasks", "basics"]
    report = tmp_path / "report"
    done = CliRunner().invoke(app, ["eval", *models, *options, "--report", str(report), "--json"])
    assert done.exit_code == 0, done.stderr
    for result in json.loads(done.stdout.splitlines()[-1])["models"]:
        rows = result["answers"]
        assert [row["question"] for row in rows] == [each.text for each in QUESTIONS]
        right = [question(row["question"]).is_right(row["answer"]) and row["degenerate"] != "loop" for row in rows]
        assert [row["right"] for row in rows] == right
        assert result["tasks"]["basics"]["acc"] == sum(right) / 54
        assert len(result["tasks"]["basics"]) == 1 + 9
        figures = result["degenerate"]
        assert figures["share"] * 12 == sum(figures[kind] for kind in ("loop", "copy", "endless", "empty"))
        # Random weights don't answer.
        assert figures["share"] > 0.5
    warned = " ".join(done.stderr.split())
    assert warned.count(" are unusable: ") == 2
    assert warned.count(f"edge-transact heal {pruned} ") == 2, "a DIST names its checkpoint"
    rounded = f"edge-transact heal {pruned} --cross-entropy 0.3 --quant q4f32_1 "
    assert warned.count(rounded) == 1, "and how it was rounded"
    page = (report / "index.html").read_text()
    assert "What is the capital of France?" in page and page.count("<svg") == 2 + 1
    assert json.loads((report / "report.json").read_text())["models"][0]["answers"]
    refused = CliRunner().invoke(app, ["eval", *models, "--report", str(report)])
    assert refused.exit_code == 1 and "--force" in refused.stderr


@pytest.mark.parametrize("of_loops", [0, 6])
def test_the_next_command_of_a_model_that_hardly_answers(pruned, of_loops):
    """Training again, and where answers loop, against that."""
    figures = CollapseFigures(share=0.5, questions=12, loop=of_loops, copy=6 - of_loops, endless=0, empty=0)
    option = " --unlikelihood 0.5" if of_loops else ""
    assert f"edge-transact heal {pruned} --cross-entropy 0.3{option} -o pruned-healed" in warning(pruned, figures)


def test_prune_asks_what_it_made(chat_model, tmp_path, own_cache, monkeypatch):
    (tmp_path / "notes.txt").write_text("It was the best of times, it was the worst of times. " * 40)
    options = ["--heads", "6", "--intermediate", "64", "--method", "magnitude", "--calibration-tokens", "512",
               "--calibration", str(tmp_path / "notes.txt")]  # fmt: skip
    command = ["prune", str(chat_model), *options, "-o", str(tmp_path / "small")]
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    assert f"questions to {chat_model.name}" in dry.stdout and "questions to small" in dry.stdout
    asked = []
    noted = lambda *given, step: asked.append(step) or answers(*given, step=step)  # noqa: E731
    monkeypatch.setattr(basics, "answers", noted)
    done = CliRunner().invoke(app, command)
    assert asked == ["questions to small", f"questions to {chat_model.name}"], "each is asked once"
    assert done.exit_code == 0, done.stderr
    found = re.search(r"unusable answers\W+(\d+) of 12", done.stdout)
    assert found is not None and int(found[1]) > 6
    # Random weights: the model itself can't answer, so training what was pruned isn't the advice.
    assert "of 12 before" in done.stdout and "itself are unusable: is it trained to chat?" in done.stderr
    assert f"of 12: {found[1]}" in (tmp_path / "small" / "README.md").read_text()


def test_a_model_without_chat_template_continues_questions(tiny_model):
    network, codec = load(str(tiny_model))
    given = answers(network, codec, ["What is the sea?"], max_tokens=40)[0]
    ids = codec.encode("Question: What is the sea?\nAnswer:")
    alone = network.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False, pad_token_id=0)[0, len(ids) :]
    text = codec.decode(alone.tolist()).lstrip("\n")
    assert given.ended and given.text == text.split("\n\n")[0].split("\nQuestion:")[0].strip()
