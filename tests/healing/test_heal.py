"""Recovery training from end to end, in one process: what is learned, kept, recorded, resumed and refused."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from edge_transact.checkpoint import Checkpoint, causal_attention
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.evaluation.answers import basics
from edge_transact.evaluation.answers.basics import answers, row_of
from edge_transact.evaluation.models import evaluate_model, evaluate_models
from edge_transact.evaluation.options import EvalOptions
from edge_transact.healing import run as pipeline
from edge_transact.healing import train
from edge_transact.healing.losses import CONTEXT
from edge_transact.healing.options import HealOptions
from edge_transact.healing.report import write_report
from edge_transact.healing.run import heal
from edge_transact.healing.student import generating, load
from edge_transact.inputs.source import pruned_from
from edge_transact.inputs.texts import read_text
from edge_transact.runtime.text import TextCodec
from tests.support.checkpoints import save_llama
from tests.support.command import edge_transact
from tests.support.damage import flip
from tests.support.interruption import killed_after, write_every_state
from tests.support.pruning import TEXT, weights_of

pytestmark = pytest.mark.usefixtures("own_cache")

SIZES = {"train_tokens": 64 * 4 * 12, "batch_tokens": 256, "micro_batch_tokens": 128, "learning_rate": 3e-3}


@pytest.fixture
def options(chapters: Path) -> HealOptions:
    return HealOptions(train=str(chapters), **SIZES)


def changed(options: HealOptions, **changes) -> HealOptions:
    return HealOptions(**{**{name: getattr(options, name) for name in options.model_fields_set}, **changes})


def test_command_lowers_the_loss_and_says_what_was_done(pruned_model, random_model, chapters, tmp_path: Path) -> None:
    report, words = tmp_path / "report", ["--train", chapters, "-o", tmp_path / "out", "--json"]
    words += [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", value)]
    code, out, err = edge_transact("heal", pruned_model, *words, "--report", report)
    assert code == 0, err
    values = json.loads(out.splitlines()[-1])
    assert values["held_out_loss"] < 0.9 * values["held_out_loss_before"] and values["tokens"] == SIZES["train_tokens"]
    assert values["tokens_per_s"] > 0
    rows = [json.loads(line) for line in (report / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert min(row["held_out_loss"] for row in rows if "held_out_loss" in row) == values["held_out_loss"]
    page, figures = (report / "index.html").read_text(), json.loads((report / "report.json").read_text())
    assert "<svg" in page and list(figures["perplexity"]) == ["teacher", "before", "after"]
    teacher = evaluate_model(str(random_model), read_text("demo:sotu", "evaluation"), max_windows=6)["perplexity"]
    assert figures["perplexity"]["teacher"] == pytest.approx(teacher) and f"teacher {teacher:,.0f})</h1>" in page
    board = EventAccumulator(str(report / "tensorboard")).Reload()
    losses = [(row["step"], pytest.approx(row["loss"])) for row in rows if "loss" in row]
    assert [(event.step, event.value) for event in board.Scalars("loss")] == losses

    provenance = json.loads((tmp_path / "out" / "edge_transact.json").read_text())
    assert provenance["source"] == random_model.name and provenance["method"] == "transact"
    assert provenance["healed"][0]["text"]["sources"][0]["text"] == chapters.name
    assert "trained by" in (tmp_path / "out" / "README.md").read_text()
    healed = Checkpoint.open(tmp_path / "out")
    assert healed.plan == Checkpoint.open(pruned_model).plan
    parent = pruned_from(healed)  # for healing it again, though its embedding has changed
    assert parent and parent.path == random_model


def curve(metrics: Path, kind: str, figure: str) -> list[tuple[int, float]]:
    """A figure by training tokens."""
    rows = map(json.loads, metrics.read_text().splitlines())
    return [(row["tokens"], row[kind][figure]) for row in rows if kind in row]


@pytest.mark.soak
def test_perplexity_of_other_text_and_tasks_while_it_trains(
    pruned_model: Path, tmp_path: Path, options: HealOptions, monkeypatch
) -> None:
    """Those of the last step are those of the checkpoint that was written: here it is the best one."""
    monkeypatch.setattr(pipeline, "read_text", lambda text, purpose: TEXT * 4)
    monkeypatch.setattr(pipeline, "WINDOWS", 1)
    # A model that was never trained is never right.
    monkeypatch.setattr(
        basics, "row_of", lambda asked, answer: row_of(asked, answer) | {"right": ord(answer.text[:1] or "a") % 2 == 0}
    )
    report, chosen = tmp_path / "report", changed(options, eval_every=1536, tasks="basics")
    (tmp_path / "text.txt").write_text(TEXT * 4)
    healed = heal(str(pruned_model), tmp_path / "out", chosen, finish=lambda done: write_report(done, report, TEXT * 4))
    assert healed.trained.best == 12
    asked = EvalOptions(text=str(tmp_path / "text.txt"), max_windows=1, tasks=["basics"])
    (expected,) = evaluate_models([str(tmp_path / "out")], asked)
    points = curve(report / "metrics.jsonl", "perplexity", "demo:sotu")
    scores = curve(report / "metrics.jsonl", "tasks", "basics")
    assert [tokens for tokens, _ in points] == [tokens for tokens, _ in scores] == [0, 1536, 3072]
    assert points[-1][1] == pytest.approx(expected["perplexity"], rel=0.02)
    assert 0 < expected["tasks"]["basics"]["acc"] < 1
    assert scores[-1][1] == pytest.approx(expected["tasks"]["basics"]["acc"], abs=0.04)  # two of 54, for bf16
    assert "basics" in (report / "index.html").read_text()
    board = EventAccumulator(str(report / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("tasks/basics")] == [pytest.approx(score) for _, score in scores]


def test_a_model_under_training_answers_as_transformers_does(pruned_model: Path) -> None:
    """Training's own attention knows neither padding nor a cache, which several prompts at once take."""
    codec = TextCodec(pruned_model)
    prompts = ["Why?", "Name three colours.", "What is the capital of France, in a word?"]
    reference = AutoModelForCausalLM.from_pretrained(pruned_model, dtype=torch.float32)
    model = load(Checkpoint.open(pruned_model), HealOptions())
    with generating(model):
        assert answers(model, codec, prompts) == answers(reference, codec, prompts)
    ids = torch.tensor([codec.encode(prompts[-1])])
    assert model(ids, use_cache=False).logits.allclose(reference(ids).logits, atol=1e-4)
    attentions = {layer.self_attn.config._attn_implementation for layer in model.model.layers}
    assert attentions == {causal_attention.NAME}


class Pickled:
    """Makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_same_bytes_wherever_it_was_interrupted(
    pruned_model: Path, tmp_path: Path, options: HealOptions, monkeypatch, own_cache: Path, caplog
) -> None:
    whole = heal(str(pruned_model), tmp_path / "whole", options)
    write_every_state(monkeypatch)
    for writes, damaged in ((2, None), (9, None), (10, "step")):
        with killed_after(writes):
            heal(str(pruned_model), tmp_path / "out", options)
        (kept,) = (own_cache / "unfinished").iterdir()
        assert not (tmp_path / "out").exists()
        if damaged:
            *_, snapshot = kept.glob(f"{damaged}-*.safetensors")
            flip(snapshot)
        for name in (".metadata", "step-9", "step-9.pt"):
            (kept / name).write_bytes(pickle.dumps(Pickled(tmp_path / "run")))
        again = heal(str(pruned_model), tmp_path / f"out-{writes}", options)
        assert not damaged or f"{snapshot.stem} in {kept} is damaged: making it again" in caplog.text
        assert weights_of(tmp_path / f"out-{writes}") == weights_of(tmp_path / "whole")
        losses = [[row["loss"] for row in run.measures.rows if "loss" in row] for run in (whole, again)]
        assert losses[0] == losses[1]
        assert not list((own_cache / "unfinished").iterdir())
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="nothing is kept of heal"):
        heal(str(pruned_model), tmp_path / "new", options, resume=True)


@pytest.mark.parametrize(
    "choices",
    [
        {"lora": 4},
        {"freeze_embedding": True, "gradient_checkpointing": True},
        {"cross_entropy": 1.0},
        {"cross_entropy": 0.5},
        pytest.param({"unlikelihood": 1.0, "lora": 4, "gradient_checkpointing": True}, marks=pytest.mark.soak),
    ],
)
def test_ways_to_train(pruned_model: Path, tmp_path: Path, options: HealOptions, choices: dict) -> None:
    result = heal(str(pruned_model), tmp_path / "out", changed(options, train_tokens=64 * 4 * 6, **choices))
    assert result.trained.held_out < result.trained.held_out_before
    before, after = (load_file(path / "model.safetensors") for path in (pruned_model, tmp_path / "out"))
    same = torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert same == ("lora" in choices or "freeze_embedding" in choices)
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])


def test_nan_stops_and_keeps_the_best_step(
    pruned_model: Path, tmp_path: Path, options: HealOptions, monkeypatch
) -> None:
    step = train.Training._step

    def damaged(training: train.Training, sequences: list) -> None:
        if training._done == 5:
            with torch.no_grad():
                training.student.model.model.norm.weight.fill_(torch.nan)
        step(training, sequences)

    monkeypatch.setattr(train.Training, "_step", damaged)
    message = "the loss is nan in step 6 of 12, on the sequences 20 to 23"
    with pytest.raises(EdgeTransactError, match=message) as failure:
        heal(str(pruned_model), tmp_path / "out", options)
    assert f"is in {tmp_path / 'out-step-4'}" in failure.value.fix and not (tmp_path / "out").exists()
    for tensor in load_file(tmp_path / "out-step-4" / "model.safetensors").values():
        assert tensor.isfinite().all()


def test_it_stops_when_held_out_text_gets_worse(
    pruned_model: Path, tmp_path: Path, options: HealOptions, monkeypatch
) -> None:
    losses = iter([5.0, 4.0, 3.0, 3.5, 3.6, 3.7])
    monkeypatch.setattr(train.Training, "_measure", lambda training, done: next(losses))
    result = heal(str(pruned_model), tmp_path / "out", options)
    assert result.trained.stopped and result.trained.best == 4 and result.trained.steps == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "OTHER"}, r"has a vocabulary of 512 tokens, .* one of 1024"),
        ({"batch_tokens": 63}, "--batch-tokens 63 is 0 sequences of 64"),
        ({"train_window": 65}, "more than the model's context of 64"),
        ({"tasks": "basics"}, "--tasks without --eval-every"),
        ({"unlikelihood": 1.0, "train_window": CONTEXT}, f"--unlikelihood with sequences of {CONTEXT} tokens"),
        ({"quant": "q4f16_0", "lora": 4}, "--quant with --lora"),
    ],
)
def test_refusals(pruned_model: Path, tmp_path: Path, options: HealOptions, change: dict, message: str) -> None:
    if "teacher" in change:
        change = {"teacher": str(save_llama(tmp_path / "other", vocab_size=512))}
    with pytest.raises(EdgeTransactError, match=message):
        heal(str(pruned_model), tmp_path / "out", changed(options, **change))
    assert not (tmp_path / "out").exists()


def test_an_unknown_parent_and_a_full_disk_are_refused(
    pruned_model: Path, random_model: Path, tmp_path: Path, options: HealOptions, monkeypatch
) -> None:
    with pytest.raises(UsageError, match="is not a pruned model"):
        heal(str(random_model), tmp_path / "out", options)
    orphan = shutil.copytree(random_model, tmp_path / "orphan")
    (orphan / "edge_transact.json").write_text('{"source": "gone"}')
    with pytest.raises(UsageError, match="names no model on this machine"):
        heal(str(orphan), tmp_path / "out", options)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(EdgeTransactError, match="a snapshot of the training needs"):
        heal(str(pruned_model), tmp_path / "out", options)


def test_resume_of_another_model(pruned_model: Path, tmp_path: Path, options: HealOptions, monkeypatch) -> None:
    model = tmp_path / "model"
    shutil.copytree(pruned_model, model)
    with killed_after(1):
        heal(str(model), tmp_path / "out", options)
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="--resume with other options: source was"):
        heal(str(model), tmp_path / "out", options, resume=True)


def test_a_dry_run_says_what_is_needed(pruned_model: Path, chapters: Path, tmp_path: Path) -> None:
    words = ["--train", chapters, "-o", tmp_path / "out", "--dry-run", "--json"]
    code, out, err = edge_transact("heal", pruned_model, *words)
    assert code == 0, err
    values = json.loads(out.splitlines()[-1])
    assert pipeline.TEXT_STEP in [step["name"] for step in values["steps"]]
    assert values["memory_bytes"] > values["disk_bytes"] > 0
    code, out, err = edge_transact("heal", pruned_model, "--train", "missing.txt", *words[2:])
    assert code == 1 and "missing.txt does not exist" in err, "as the run says"
    assert not (tmp_path / "out").exists()
