"""``inspect``: figures that agree with what torch counts and with the files on disk."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from tests.support.command import edge_transact


def inspected(*arguments) -> dict:
    code, out, err = edge_transact("inspect", *arguments, "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def test_parameters_and_flops_equal_torchs_counts(make_llama):
    path = make_llama()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    context, cache = 11, DynamicCache(config=model.config)
    with torch.inference_mode():
        model(torch.arange(context - 1)[None], None, None, cache)
        with FlopCounterMode(display=False) as counter:
            model(torch.tensor([[5]]), None, None, cache)
    result = inspected(path, "--context", context)
    assert result["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert result["flops_per_token"] == counter.get_total_flops()
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) // context
    assert result["kv_bytes_per_token"] == cached // 2, "fp16, where torch has fp32"
    pages = (context + costs.ENGINE_FREE_TOKENS) // 16 + 2
    assert result["kv_bytes"] == pages * 16 * result["kv_bytes_per_token"], "the last page is begun, another spare"


def test_memory_is_the_sum_of_its_parts(tiny_model):
    result = inspected(tiny_model)
    assert result["memory_bytes"] == result["weights_bytes"] + result["kv_bytes"] + result["workspace_bytes"]
    assert result["context"] == 128, "the model's own limit"
    assert result["attention_launches_per_token"] == len(result["widths"]) == 4
    assert result["quantization"] == "q4f16_0"


def test_a_configuration_alone_is_enough(tiny_model, tmp_path):
    """As a hub id is inspected, whose weights aren't downloaded."""
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    assert {**inspected(tmp_path), "model": ""} == {**inspected(tiny_model), "model": ""}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    code, _, err = edge_transact("inspect", tmp_path)
    assert code == 1 and "num_hidden_layers 1000000000" in err


def test_contexts_are_a_table(tiny_model):
    table = inspected(tiny_model, "--contexts", "64, 16,16")["contexts"]
    assert [row["context"] for row in table] == [16, 64]
    plan = Checkpoint.open(tiny_model).plan
    assert [row["prefill_flops"] for row in table] == [costs.prefill_flops(plan, tokens) for tokens in (16, 64)]
    code, out, _ = edge_transact("inspect", tiny_model, "--contexts", "16,64")
    assert code == 0 and "prefill GFLOPs" in out


def test_several_models_and_a_picture(tiny_model, tmp_path):
    picture = tmp_path / "new" / "flops.svg"
    result = inspected(tiny_model, tiny_model, "--plot", picture)
    assert len(result["models"]) == 2
    assert picture.read_text().lstrip().startswith("<?xml")


def test_a_picture_is_replaced_only_with_force(tiny_model, tmp_path):
    picture = tmp_path / "flops.png"
    picture.write_text("mine")
    code, _, err = edge_transact("inspect", tiny_model, "--plot", picture)
    assert code == 1 and f"{picture} exists" in err and picture.read_text() == "mine"
    code, _, err = edge_transact("inspect", tiny_model, "--plot", picture, "--force")
    assert code == 1 and "wasn't written by edge-transact" in err and picture.read_text() == "mine"
    picture.unlink()
    inspected(tiny_model, "--plot", picture)
    inspected(tiny_model, "--plot", picture, "--force")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_weights_are_read(tiny_model, monkeypatch):
    def fail(*_):
        raise AssertionError("inspect read a tensor")

    monkeypatch.setattr(Checkpoint, "tensor", fail)
    assert inspected(tiny_model)["parameters"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--contexts", "12,x"], 2, "--contexts x is not a whole number"),
        (["--contexts", "0"], 2, "--contexts 0 is not at least 1"),
        (["--quant", "q9"], 2, "unknown quantization 'q9'"),
        (["--plot", "flops.nothing"], 1, "cannot draw flops.nothing"),
    ],
)
def test_wrong_usage_is_explained(tiny_model, arguments, code, message):
    exit_code, _, err = edge_transact("inspect", tiny_model, *arguments)
    assert exit_code == code and message in err
