"""Rounding with text, of whole models: what it is for, and what it depends on."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.errors import EdgeTransactError
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.rounding.calibrated import FEWEST, round_model
from edge_transact.rounding.gptq import GPTQ
from edge_transact.rounding.search import searching
from edge_transact.rounding.store import CODES, SCALES, Rounded, dequantized, group_of, keep_rounded
from edge_transact.weights import w4
from edge_transact.weights.convert import convert, restore
from edge_transact.weights.shards import ShardReader
from tests.support.checkpoints import SIZES
from tests.support.definitions import emit

W4 = [name for name, quantization in QUANTIZATIONS.items() if quantization.bits == 4]
WINDOWS = torch.randint(0, 96, (16, 24), generator=torch.Generator().manual_seed(0))


class Model:
    """A checkpoint, its definition's parameters, and its logits with rounded weights."""

    def __init__(self, directory, checkpoint):
        self.checkpoint = checkpoint
        self.sources = emit(directory, checkpoint.plan, checkpoint.config | SIZES).parameter_sources()

    def rounded(self, directory, quantization, windows=WINDOWS):
        journal = Journal(directory / "journal")
        round_model(LayerwiseModel(self.checkpoint, windows), quantization, journal)
        kept = directory / "kept"
        kept.mkdir()
        keep_rounded(journal, self.checkpoint, kept)
        return Rounded(kept, self.sources)

    def restored(self, directory, quantization, rounding_of):
        """The checkpoint's tensors, as its shards have them."""
        directory.mkdir()
        convert(self.checkpoint, self.sources, quantization, directory, rounding_of)
        shapes = tensor_shapes(self.checkpoint.plan)
        return dict(restore(ShardReader(directory), self.sources, shapes, quantization))

    def logits(self, tensors=None):
        model = AutoModelForCausalLM.from_pretrained(self.checkpoint.path, dtype=torch.float32)
        if tensors:
            model.load_state_dict(tensors, strict=False)
        with torch.inference_mode():
            return model(WINDOWS).logits.double()

    def divergence(self, tensors):
        exact, rounded = self.logits().log_softmax(-1), self.logits(tensors).log_softmax(-1)
        return (exact.exp() * (exact - rounded)).sum(-1).mean().item()


@pytest.fixture
def model(checkpoint, tmp_path):
    return Model(tmp_path / "definition", checkpoint)


@pytest.mark.parametrize("name", W4)
def test_predictions_stay_nearer_with_every_step(model, tmp_path, name):
    """On the text that it reads, gptq diverges less than search, and that less than nearest."""
    quantization = QUANTIZATIONS[name]
    roundings = {
        "nearest": None,
        "search": searching(model.checkpoint, model.sources, quantization),
        "gptq": model.rounded(tmp_path, quantization),
    }
    nearest, search, gptq = (
        model.divergence(model.restored(tmp_path / which, quantization, rounding))
        for which, rounding in roundings.items()
    )
    assert gptq < search < nearest


@pytest.mark.parametrize("tokens", [5, 12])
def test_too_few_tokens_do_no_harm(model, tmp_path, caplog, tokens):
    """On other text, the model is nearer to the exact one than with nearest. The log names all layers."""
    quantization = QUANTIZATIONS["q4f16_1"]
    rounded = model.rounded(tmp_path, quantization, WINDOWS[:1, :tokens])
    nearest, gptq = (
        model.divergence(model.restored(tmp_path / name, quantization, rounding))
        for name, rounding in (("nearest", None), ("gptq", rounded))
    )
    assert gptq < nearest
    few = f"{tokens} calibration tokens are few for"
    for index, layer in enumerate(model.checkpoint.plan.layers):
        warned = f"layer {index}, mlp.down_proj: {few}" in caplog.text
        assert warned == (tokens < layer.intermediate_size)
        searched = f"layer {index}, mlp.down_proj: {few} {layer.intermediate_size} inputs, so search" in caplog.text
        assert searched == (tokens < FEWEST * layer.intermediate_size)


def test_a_matrix_with_too_few_tokens_is_rounded_by_search(model, tmp_path, monkeypatch):
    """GPTQ is asked for all others only, and what is returned names those that it isn't asked for."""
    inputs = []

    class Counted(GPTQ):
        def __init__(self, gram, tokens, quantization):
            inputs.append(len(gram))
            super().__init__(gram, tokens, quantization)

    monkeypatch.setattr("edge_transact.rounding.calibrated.GPTQ", Counted)
    layerwise, journal = LayerwiseModel(model.checkpoint, WINDOWS[:1, :5]), Journal(tmp_path / "journal")
    quantization = QUANTIZATIONS["q4f16_1"]
    searched = round_model(layerwise, quantization, journal)
    layers = model.checkpoint.plan.layers
    down = [f"model.layers.{index}.mlp.down_proj.weight" for index, layer in enumerate(layers) if layer.has_mlp]
    assert searched == [name for name in down if model.checkpoint.shape(name)[1] > 5 / FEWEST]
    # q, k and v share their inputs, as do gate and up.
    expected = 2 * len(down) + 2 * sum(layer.has_attention for layer in layers) + 1 - len(searched)
    assert len(inputs) == expected and max(inputs) <= 5 / FEWEST
    for name in searched:
        tensors = journal[group_of(name)]
        weight = model.checkpoint.tensor(name).float()
        error = dequantized(tensors[name + CODES], tensors[name + SCALES], weight.shape[1], quantization) - weight
        nearest = dequantized(*w4.nearest(weight, quantization=quantization), weight.shape[1], quantization) - weight
        assert error.square().sum() < nearest.square().sum()


def test_the_shards_hold_what_was_chosen(model, tmp_path):
    """Every row of every matrix, also where the definition joins matrices or orders rows anew."""
    quantization = QUANTIZATIONS["q4f16_0"]
    rounded = model.rounded(tmp_path, quantization)
    tensors = model.restored(tmp_path / "shards", quantization, rounded)
    weight, stored = "model.layers.2.self_attn.k_proj.weight", load_file(tmp_path / "kept" / "rounded-2.safetensors")
    codes, scales = stored[f"{weight}.codes"], stored[f"{weight}.scales"]
    exact = (codes.reshape(len(codes), -1, 32).astype(np.float32) - 7) * scales.astype(np.float32)[..., None]
    columns = model.checkpoint.shape(weight)[1]
    np.testing.assert_allclose(tensors[weight], exact.reshape(len(codes), -1)[:, :columns], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("model.embed_tokens.weight", float("nan"), "model.embed_tokens.weight: a weight is not finite in float16"),
        ("model.layers.1.mlp.up_proj.weight", 7e4, "model.layers.1.mlp.up_proj.weight: a weight is not finite in"),
        ("lm_head.weight", float("inf"), "lm_head.weight"),
    ],
)
def test_a_weight_that_fp16_cannot_hold_is_named(make_llama, tmp_path, name, bad, words):
    source = Checkpoint.open(make_llama())
    tensors = {key: source.tensor(key).clone() for key in source.tensor_names()}
    tensors[name][3, 5] = bad
    checkpoint = write_checkpoint(source, source.plan, tensors.items(), {}, tmp_path / "bad")
    journal = Journal(tmp_path / "journal")
    with pytest.raises(EdgeTransactError, match=words):
        round_model(LayerwiseModel(checkpoint, WINDOWS), QUANTIZATIONS["q4f16_1"], journal)
