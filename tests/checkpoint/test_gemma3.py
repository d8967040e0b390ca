"""Gemma 3 in torch: as a checkpoint, written as ``edge_llama``, and layer by layer, against transformers."""

from dataclasses import replace

import pytest
import torch
from transformers import Gemma3ForCausalLM

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint, causal_attention, write_checkpoint
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM
from edge_transact.errors import EdgeTransactError
from edge_transact.layerwise.model import LayerwiseModel, through
from edge_transact.pruning.compensate.compensation import compensate
from edge_transact.pruning.cut import cut_layer
from edge_transact.quantization import get_quantization
from edge_transact.rounding import calibrated
from edge_transact.rounding.importance import InputImportance
from tests.support.checkpoints import GEMMA3, TINY, save_llama
from tests.support.pruning import everything


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Gemma3ForCausalLM, Checkpoint]:
    """A tiny Gemma 3 of transformers, and ours, written as a pruned model is. The window is crossed by most texts."""
    directory = tmp_path_factory.mktemp("gemma3")
    source = Checkpoint.open(save_llama(directory / "stock", **GEMMA3))
    tensors = ((name, source.tensor(name)) for name in source.tensor_names())
    return (
        Gemma3ForCausalLM.from_pretrained(source.path).eval(),
        write_checkpoint(source, source.plan, tensors, {}, directory / "ours"),
    )


def assert_close(ours: torch.Tensor, stock: torch.Tensor) -> None:
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5 * stock.abs().max().item())


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, TINY["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("attention", ["sdpa", "eager", causal_attention.NAME])
def test_logits_are_those_of_transformers(both, attention):
    stock, checkpoint = both
    ours = EdgeLlamaForCausalLM.from_pretrained(checkpoint.path, attn_implementation=attention).eval()
    with torch.inference_mode():
        assert_close(ours(tokens(2, 40), use_cache=False).logits, stock(tokens(2, 40)).logits)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_of_a_padded_batch(both, cache):
    stock, checkpoint = both
    ours = EdgeLlamaForCausalLM.from_pretrained(checkpoint.path).eval()
    prompts = [tokens(1, length, seed=length) for length in (5, 12)]
    ids = torch.cat([torch.nn.functional.pad(prompt, (12 - prompt.shape[1], 0)) for prompt in prompts])
    options = {"attention_mask": (ids != 0).long(), "max_new_tokens": 9, "do_sample": False}
    expected = stock.generate(ids, **options)
    assert torch.equal(ours.generate(ids, cache_implementation=cache, **options), expected)


def test_attention_that_would_ignore_the_window_is_refused(both):
    ours = EdgeLlamaForCausalLM.from_pretrained(both[1].path).eval()
    ours.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="flex_attention has no sliding windows"):
        ours.model.layers[0].self_attn._windowed(None, torch.ones(1, 1, 9, 2), torch.ones(1, 1, 9, 2))


def test_layer_by_layer(both, tmp_path):
    stock, checkpoint = both
    ids = tokens(3, 33)
    model = LayerwiseModel(checkpoint, ids, torch.float32)
    with torch.inference_mode():
        hidden = model.embeddings(Journal(tmp_path))
        for index in range(checkpoint.plan.num_hidden_layers):
            layer = model.layer(index)
            # What attention and the MLP read, apart.
            inputs = model.attend(layer, hidden)
            assert inputs.shape == (3, 33, checkpoint.plan.layers[index].attention_size)
            through(model, layer, hidden)
        assert_close(model.logits(hidden.flatten(end_dim=1)).view(3, 33, -1), stock(ids).logits)


def test_a_missing_norm_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    path = save_llama(tmp_path / "model", **GEMMA3)
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.pre_feedforward_layernorm.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EdgeTransactError, match=r"tensor model.layers.1.pre_feedforward_layernorm.weight is missing"):
        Checkpoint.open(path)


def test_rounding_runs_the_layer_that_it_rounds(both, tmp_path):
    """What follows a layer reads the rounded layer's output: norms of outputs, GELU and windows included."""
    _, checkpoint = both
    model = LayerwiseModel(checkpoint, tokens(3, 33), torch.float32)
    with torch.no_grad():
        hidden = model.embeddings(Journal(tmp_path))
        before = hidden.clone()
        rounding = calibrated._Layer(
            model, 0, get_quantization("q4f16_1"), Journal(tmp_path), InputImportance(checkpoint)
        )
        rounding.round(hidden, lambda batches: None)
        assert len(rounding.tensors) == 2 * 7
        assert_close(hidden, model.run(rounding.layer, before))
        assert not torch.allclose(hidden, model.run(model.layer(0), before), rtol=1e-3)


def test_compensation_makes_up_for_what_was_cut(both, tmp_path):
    """Where the output of a projection is normed, too."""
    _, checkpoint = both
    model = LayerwiseModel(checkpoint, tokens(40, 33), torch.float32)
    selections = [replace(whole, intermediate=torch.arange(0, 40, 2)) for whole in everything(checkpoint)]
    weights, fits, _ = compensate(model, selections, Journal(tmp_path))
    assert all(fit["mlp.down_proj"].error_after < fit["mlp.down_proj"].error_before for fit in fits)
    with torch.no_grad():
        source, cut, compensated = (model.embeddings(Journal(tmp_path)) for _ in range(3))
        for index, (selection, solved) in enumerate(zip(selections, weights, strict=True)):
            through(model, model.layer(index), source)
            layer = cut_layer(model, index, selection)
            through(model, layer, cut)
            layer.load_state_dict(solved, strict=False)
            through(model, layer, compensated)
        assert (compensated - source).norm() < 0.9 * (cut - source).norm()
