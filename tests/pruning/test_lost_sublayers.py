"""Attention and MLPs that are pruned as a whole, and models without them that are pruned, trained and evaluated."""

import json
import shutil
from dataclasses import replace
from operator import le
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.evaluation.models import REPORT_TEXTS, evaluate_model
from edge_transact.healing.options import HealOptions
from edge_transact.healing.run import heal
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.pruning.compensate.compensation import compensate
from edge_transact.pruning.cut import LayerSelection, cut_layer, pruned_tensors
from edge_transact.pruning.options import METHODS, PruneOptions
from edge_transact.pruning.report import write_report
from edge_transact.pruning.run import prune
from tests.support.checkpoints import lost_plan, save_llama
from tests.support.command import edge_transact
from tests.support.pruning import TEXT, everything, scores_of

NO_ATTENTION, NO_MLP = {"num_key_value_heads": 0}, {"intermediate_size": 0}
ROWS = [NO_ATTENTION, NO_ATTENTION | NO_MLP, {}, NO_MLP]
"""A ``--widths`` file: what `lost_plan` has."""

WINDOWS = torch.randint(3, 1000, (16, 32), generator=torch.Generator().manual_seed(0))


def lose(selection: LayerSelection, row: dict[str, int]) -> LayerSelection:
    """A selection without the sublayers that a row lacks."""
    none = torch.empty(0, dtype=torch.int64)
    attention = {"groups": none} | dict.fromkeys(("queries", "qk_pairs", "v_dims"), none.view(0, 0))
    selection = replace(selection, **attention) if "num_key_value_heads" in row else selection
    return replace(selection, intermediate=none) if "intermediate_size" in row else selection


@pytest.fixture(scope="module")
def dense(random_model: Path, tmp_path_factory) -> Path:
    """`random_model` with biases."""
    sizes = {"vocab_size": 1024, "num_hidden_layers": 4, "intermediate_size": 96}
    path = save_llama(tmp_path_factory.mktemp("dense") / "model", **sizes, attention_bias=True, mlp_bias=True)
    for file in random_model.glob("tokenizer*"):
        shutil.copy(file, path)
    return path


@pytest.fixture(scope="module")
def zeroed(dense: Path, tmp_path_factory) -> Path:
    """`dense`, in which the sublayers that `lost` lacks add zeros."""
    path = shutil.copytree(dense, tmp_path_factory.mktemp("zeroed") / "model")
    model = AutoModelForCausalLM.from_pretrained(path)
    for row, layer in zip(ROWS, model.model.layers, strict=True):
        for name, consumer in (
            ("num_key_value_heads", layer.self_attn.o_proj),
            ("intermediate_size", layer.mlp.down_proj),
        ):
            for parameter in consumer.parameters() if name in row else ():
                torch.nn.init.zeros_(parameter)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def lost(dense: Path, tmp_path_factory) -> Checkpoint:
    """`dense` without some of its sublayers."""
    source = Checkpoint.open(dense)
    selections = [lose(kept, row) for kept, row in zip(everything(source), ROWS, strict=True)]
    path = tmp_path_factory.mktemp("lost") / "model"
    return write_checkpoint(source, lost_plan(source.plan), pruned_tensors(source, selections), {}, path)


@pytest.fixture(scope="module")
def widths(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("widths") / "widths.json"
    path.write_text(json.dumps(ROWS))
    return path


def test_the_command(dense, zeroed, widths, chapters, tmp_path: Path) -> None:
    """Without compensation, the model is the dense one with zeros."""
    options = ["--method", "transact", "--widths", widths, "--calibration", chapters, "--calibration-tokens", 512]
    code, out, err = edge_transact(
        "prune", dense, *options, "-o", tmp_path / "out", "--json", "--report", tmp_path / "r"
    )
    assert code == 0, err
    result, pruned = json.loads(out.splitlines()[-1]), Checkpoint.open(tmp_path / "out")
    assert result["parameters"] == sum(pruned.tensor(name).numel() for name in pruned.tensor_names())
    assert [row["num_key_value_heads"] for row in result["widths"]] == [0, 0, 3, 3]
    assert [row["intermediate_size"] for row in result["widths"]] == [96, 0, 96, 0]
    with torch.inference_mode():
        ours, expected = (
            AutoModelForCausalLM.from_pretrained(path)(WINDOWS[:2]).logits for path in (pruned.path, zeroed)
        )
    torch.testing.assert_close(ours, expected)


def test_evaluation(lost, zeroed) -> None:
    ours, expected = (evaluate_model(str(path), TEXT, max_windows=2) for path in (lost.path, zeroed))
    assert ours["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
def test_scores_are_those_of_a_model_that_adds_zeros(lost, zeroed, method: str) -> None:
    with_zeros = scores_of(Checkpoint.open(zeroed), WINDOWS, method)
    for row, ours, expected in zip(ROWS, scores_of(lost, WINDOWS, method), with_zeros, strict=True):
        for name, tensor in ours.ranks().items():
            gone = "intermediate_size" if name == "intermediate" else "num_key_value_heads"
            if gone in row:
                assert tensor.numel() == 0
            else:
                torch.testing.assert_close(tensor, expected.ranks()[name], rtol=1e-3, atol=1e-5)


def test_later_layers_make_up_for_a_lost_sublayer(dense, tmp_path: Path) -> None:
    """The last hidden states, with solved weights and without."""
    source = Checkpoint.open(dense)
    selections = [lose(kept, row) for kept, row in zip(everything(source), [NO_ATTENTION, NO_MLP, {}, {}], strict=True)]
    weights, fits, _ = compensate(LayerwiseModel(source, WINDOWS), selections, Journal(tmp_path / "out"))
    assert [list(fit) for fit in fits] == [
        ["mlp.down_proj"],
        ["self_attn.o_proj"],
        *[["self_attn.o_proj", "mlp.down_proj"]] * 2,
    ]
    assert all(fit.error_after < fit.error_before for of_layer in fits for fit in of_layer.values())
    solved = LayerwiseModel(source, WINDOWS)
    for index, of_layer in enumerate(weights):
        for name, tensor in of_layer.items():
            solved.replace(f"model.layers.{index}.{name}", tensor)

    @torch.no_grad()
    def output(model: LayerwiseModel, kept: list[LayerSelection]) -> torch.Tensor:
        hidden = model.embeddings(Journal(tmp_path / "other"))
        for index, of_layer in enumerate(kept):
            hidden = model.run(cut_layer(model, index, of_layer), hidden)
        return hidden

    expected = output(LayerwiseModel(source, WINDOWS), everything(source))
    before, after = (
        (output(model, selections) - expected).square().mean() for model in (LayerwiseModel(source, WINDOWS), solved)
    )
    assert after < 0.9 * before


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.3},
        {"ratio": 0.3, "drop": False},
        {"ratio": 0.3, "method": "transact", "shots": 2, "compensate": True},
        {"ratio": 0.3, "method": "wanda", "allocation": "sensitivity"},
        {"heads": 2, "intermediate": 50, "method": "flap"},
    ],
    ids=str,
)
def test_pruned_again(lost, tmp_path: Path, options: dict, calibration: dict) -> None:
    result = prune(str(lost.path), tmp_path / "out", PruneOptions(**options, **calibration, bucket=8))
    plan = result.checkpoint.plan
    for old, new in zip(lost.plan.layers, plan.layers, strict=True):
        before, after = (old.has_attention, old.has_mlp), (new.has_attention, new.has_mlp)
        # What is gone stays gone; only an allocation that weighs drops takes more.
        assert all(map(le, after, before)) if result.options.drop else after == before
    assert sum(layer.intermediate_size for layer in plan.layers) < 2 * 96
    values = write_report(result, tmp_path / "report", dict.fromkeys(REPORT_TEXTS, TEXT))
    assert values["models"]["pruned"]["perplexity"] > 0
    assert "mlp.down_proj" not in values["layers"][1]["compensation"]


@pytest.mark.parametrize("options", [{}, {"lora": 2}, {"gradient_checkpointing": True}], ids=str)
def test_healed(lost, dense, chapters, tmp_path: Path, options: dict) -> None:
    sizes = {"train_tokens": 1024, "batch_tokens": 256, "micro_batch_tokens": 128, "learning_rate": 3e-3}
    healed = heal(
        str(lost.path), tmp_path / "out", HealOptions(train=str(chapters), teacher=str(dense), **sizes, **options)
    )
    assert healed.trained.held_out < healed.trained.held_out_before
    assert Checkpoint.open(tmp_path / "out").plan == lost.plan


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([NO_ATTENTION] * 4, "no layer has heads"),
        ([NO_MLP] * 4, "no layer has MLP dims"),
        ([{"num_key_value_heads": -1}, {}, {}, {}], "layer 0: num_key_value_heads is -1"),
        ([{}, {}, {}, {"intermediate_size": 8}], "layer 3: intermediate_size 8 is more than the model's 0"),
        ([{"num_key_value_heads": 3}, {}, {}, {}], "layer 0: num_key_value_heads 3 is more than the model's 0"),
        ([{"num_attention_heads": 6}, {}, {}, {}], "layer 0: num_attention_heads 6 is more than the model's 0"),
    ],
)
def test_refusals(lost, chapters, tmp_path: Path, rows: list, message: str) -> None:
    (tmp_path / "widths.json").write_text(json.dumps(rows))
    options = ["--widths", tmp_path / "widths.json", "--calibration", chapters, "-o", tmp_path / "out"]
    code, _, err = edge_transact("prune", lost.path, *options)
    assert (code, message in " ".join(err.split())) == (2, True), err
