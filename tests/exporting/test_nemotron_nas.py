"""``nemotron-nas`` checkpoints in mlx-lm's own reader, and the rules of what it and vLLM's can load."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM
from edge_transact.checkpoint.writer import write_checkpoint
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.exporting.nemotron_nas import export_nemotron_nas
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune
from edge_transact.runtimes import RUNTIMES, misfits, nemotron_nas
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.checkpoints import FAMILIES
from tests.support.command import said
from tests.support.odd_models import CONFIG, NEITHER, NO_ATTENTION, NO_MLP, make_source

NAS = {
    **{key: value for key, value in CONFIG.items() if key != "per_layer_config"},
    "hidden_size": 128,
    "intermediate_size": 768,
    "per_layer_config": {"1": {"intermediate_size": 256}, "2": {"intermediate_size": 512}},
}
NAS_GONE = NAS | {"num_hidden_layers": 4, "per_layer_config": {"0": NEITHER, "1": NO_MLP, "3": NO_ATTENTION}}
LAYER = LayerWidths(8, 4, 64, 64, 1024)
PLAN = WidthPlan(512, 100, True, False, False, (LAYER, replace(LAYER, intermediate_size=768)))


@pytest.mark.parametrize("config", [NAS, NAS | {"tie_word_embeddings": True}, NAS_GONE], ids=["", "tied", "gone"])
def test_mlx_lm_computes_what_transformers_does(tmp_path, config):
    import mlx.core as mx

    path = make_source(tmp_path, config).checkpoint.path
    said("export", path, "--format", "nemotron-nas", "-o", tmp_path / "nas")
    reader = importlib.import_module("mlx_lm.models.nemotron-nas")
    model = reader.Model(reader.ModelArgs.from_dict(json.loads((tmp_path / "nas" / "config.json").read_text())))
    model.load_weights(list(model.sanitize(mx.load(str(tmp_path / "nas" / "model.safetensors"))).items()))
    ids = [(37 * i + 5) % 300 for i in range(24)]
    with torch.inference_mode():
        theirs = EdgeLlamaForCausalLM.from_pretrained(path)(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(np.array(model(mx.array([ids]))[0]) - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_layers_that_are_alike_are_a_stock_llama(tmp_path):
    """With heads that don't add up to the hidden size, and an MLP size that is no multiple of 256."""
    alike = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 1000, "per_layer_config": {}}
    path = make_source(tmp_path, NAS | alike).checkpoint.path
    assert not misfits(Checkpoint.open(path).plan)["mlx"]
    assert export_nemotron_nas(str(path), tmp_path / "llama")["format"] == "llama"
    ids = torch.tensor([[(37 * i + 5) % 300 for i in range(24)]])
    with torch.inference_mode():
        ours = EdgeLlamaForCausalLM.from_pretrained(path)(ids).logits
        stock = LlamaForCausalLM.from_pretrained(tmp_path / "llama")(ids).logits
    torch.testing.assert_close(stock, ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_written_as_their_own_class(make_llama, family, tmp_path):
    """From a checkpoint of ours, as pruning to equal widths leaves one."""
    path = make_llama(**FAMILIES[family] | {"num_attention_heads": 6, "num_key_value_heads": 3})
    source = Checkpoint.open(path)
    pruned = write_checkpoint(
        source, source.plan, ((name, source.tensor(name)) for name in source.tensor_names()), {}, tmp_path / "pruned"
    )
    assert pruned.config["model_type"] == "edge_llama"
    assert export_nemotron_nas(str(pruned.path), tmp_path / "own")["format"] == FAMILIES[family]["model_type"]
    ids = torch.tensor([[(37 * i + 5) % 96 for i in range(24)]])
    with torch.inference_mode():
        ours, own = (AutoModelForCausalLM.from_pretrained(each)(ids).logits for each in (path, tmp_path / "own"))
    torch.testing.assert_close(own, ours)


def in_layer(**widths) -> WidthPlan:
    return PLAN.with_layers((PLAN.layers[0], replace(PLAN.layers[1], **widths)))


@pytest.mark.parametrize(
    ("plan", "no"),
    [
        (PLAN, {}),
        (in_layer(intermediate_size=800), {"llama.cpp": "800", "vllm": "800", "mlx": "800"}),
        (in_layer(num_attention_heads=6, num_key_value_heads=3), {"vllm": "6 to 8", "mlx": "6 to 8"}),
        (in_layer(v_head_dim=48), {"llama.cpp": "zeros", "vllm": "layer 1 lost dims", "mlx": "layer 1 lost dims"}),
        (in_layer(num_key_value_heads=4), {}),
        (in_layer(num_attention_heads=0, num_key_value_heads=0), {}),
        (in_layer(intermediate_size=0), {}),
        (PLAN.with_layers([LayerWidths(0, 0, 0, 0, 256), LAYER]), {"vllm": "begins its", "mlx": "begins its"}),
        (PLAN.with_layers([LayerWidths(0, 0, 0, 0, 0), replace(LAYER, intermediate_size=0), LAYER]), {}),
        (replace(PLAN, hidden_size=768), {"mlx": "768"}),
        (PLAN.with_layers([replace(LAYER, intermediate_size=1000)] * 2), {"llama.cpp": "1000"}),
    ],
)
def test_the_rules(plan, no):
    """vLLM and mlx-lm load layers that are all alike as a stock LLaMA, with any MLP size."""
    said = misfits(plan)
    assert {name for name, why in said.items() if why} == set(no)
    assert not [name for name, text in no.items() if text not in (said[name] or "")], said


def test_what_the_format_can_not_say_is_refused(tmp_path):
    path = make_source(tmp_path, CONFIG).checkpoint.path
    assert "2 to 8 query heads" in said("inspect", path)["runtimes"]["vllm"]
    with pytest.raises(EdgeTransactError, match="2 to 8 query heads"):
        export_nemotron_nas(str(path), tmp_path / "nas")
    assert not (tmp_path / "nas").exists()
    assert nemotron_nas(PLAN.with_layers([replace(LAYER, intermediate_size=1000)] * 2))


@pytest.fixture
def calibration(tmp_path):
    (tmp_path / "text.txt").write_text("It was the best of times, it was the worst of times. " * 40)
    return {"calibration": str(tmp_path / "text.txt"), "calibration_tokens": 256, "calibration_window": 64}


def test_prune_for_a_runtime(tiny_model, tmp_path, calibration, caplog):
    """demo:tiny's own 341 MLP dims are no multiple of 256, where a layer keeps them all."""
    options = PruneOptions(ratio=0.1, runtime="vllm", method="transact", **calibration)
    result = prune(str(tiny_model), tmp_path / "pruned", options)
    plan, source = result.checkpoint.plan, Checkpoint.open(tiny_model).plan
    assert result.provenance["units"] == ["mlp"] and result.provenance["bucket"] == 256
    assert {layer.intermediate_size for layer in plan.layers} <= {256, 341}
    heads = {(layer.num_attention_heads, layer.qk_head_dim, layer.v_head_dim) for layer in plan.layers}
    assert heads == {(source.layers[0].num_attention_heads, plan.head_dim, plan.head_dim)}
    assert ("does not fit vllm" in caplog.text) == bool(RUNTIMES["vllm"].misfit(plan))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"units": ["mlp", "values"]}, "--units values is not for llama.cpp"), ({"bucket": 32}, "--bucket 32 is not")],
)
def test_choices_that_a_runtime_does_not_take(tiny_model, tmp_path, calibration, wrong, said):
    options = PruneOptions(ratio=0.1, runtime="llama.cpp", **wrong, **calibration)
    with pytest.raises(UsageError, match=said) as caught:
        prune(str(tiny_model), tmp_path / "pruned", options)
    assert "K-quants" in caught.value.message
