"""The parity check passes what computes the model, and fails what doesn't."""

import numpy as np
import pytest
import torch

from edge_transact.build.parity import compare, reference_model
from edge_transact.checkpoint import Checkpoint
from edge_transact.definition import load, render
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.weights.convert import convert
from edge_transact.weights.shards import ShardReader

PROMPT = [5, 17, 60, 2, 33, 8, 91, 4, 40]


class TorchLibrary:
    """A model behind the interface of a host library; `spoil` changes its logits."""

    def __init__(self, model, spoil=lambda logits: logits):
        self.model, self.spoil = model, spoil

    def reset(self):
        self.ids = []

    def prefill(self, ids):
        self.ids += ids
        with torch.inference_mode():
            return self.spoil(self.model(torch.tensor([self.ids])).logits[0, -1].numpy().copy())

    def decode(self, token_id):
        return self.prefill([token_id])


@pytest.fixture
def shards_of(tmp_path):
    """``shards_of(checkpoint, name)``: the definition's sources, and a reader of the checkpoint's shards."""

    def make(checkpoint: Checkpoint, name: str):
        directory = tmp_path / name
        directory.mkdir()
        for file, text in render(checkpoint.plan).items():
            (directory / file).write_text(text)
        sources = load(directory, {**checkpoint.config, "rope_scaling": None}).parameter_sources()
        convert(checkpoint, sources, QUANTIZATIONS[name], directory)
        return sources, ShardReader(directory)

    return make


@pytest.fixture
def reference_of(shards_of):
    def make(path, name):
        checkpoint = Checkpoint.open(path)
        sources, reader = shards_of(checkpoint, name)
        return reference_model(reader, sources, checkpoint.config, checkpoint.plan, QUANTIZATIONS[name])

    return make


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("name", "tolerance"), [("q0f32", 0.02), ("q0f16", 0.005), ("q4f32_1", 0.5)])
def test_the_reference_is_the_checkpoint_up_to_quantization(make_llama, reference_of, name, tolerance, tied):
    from transformers import AutoModelForCausalLM

    path = make_llama(tie_word_embeddings=tied)
    dense = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    reference = reference_of(path, name)
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        theirs, ours = dense(ids).logits, reference(ids).logits
    error = (theirs - ours).norm() / theirs.norm()
    assert 0 < error < tolerance


@pytest.mark.parametrize("name", ["q4f32_1", "q4f16_0"])
def test_a_faithful_library_passes(make_llama, reference_of, name):
    model = reference_of(make_llama(), name)
    parity = compare(TorchLibrary(model), model, PROMPT, QUANTIZATIONS[name], decode_steps=5, name="torch")
    assert parity.passed and parity.token_agreement == 1.0
    assert parity.prefill_error < 1e-5 and parity.decode_error < 1e-5
    assert (parity.prompt_tokens, parity.decode_tokens, parity.layers) == (len(PROMPT), 5, 3)
    parity.require()


def swapped_likeliest(logits):
    first, second = np.argsort(logits)[-1:-3:-1]
    logits[[first, second]] = logits[[second, first]]
    return logits


@pytest.mark.parametrize(
    "spoil",
    [
        lambda logits: logits * 1.01,
        lambda logits: logits + 0.05 * np.abs(logits).max() * (np.arange(len(logits)) == 3),
        lambda logits: np.full_like(logits, np.nan),
        swapped_likeliest,
    ],
    ids=["scaled", "one logit off", "nan", "tokens swapped"],
)
def test_an_unfaithful_library_fails(make_llama, reference_of, spoil):
    model = reference_of(make_llama(), "q4f32_1")
    library = TorchLibrary(model, spoil)
    parity = compare(library, model, PROMPT, QUANTIZATIONS["q4f32_1"], decode_steps=3, name="torch")
    assert not parity.passed
    with pytest.raises(EdgeTransactError, match="differs from torch"):
        parity.require()


def test_a_library_that_loses_the_cache_fails_in_decode(make_llama, reference_of):
    class Forgetful(TorchLibrary):
        def decode(self, token_id):
            self.ids = self.ids[1:]
            return super().decode(token_id)

    model = reference_of(make_llama(), "q0f32")
    parity = compare(Forgetful(model), model, PROMPT, QUANTIZATIONS["q0f32"], decode_steps=3, name="torch")
    assert parity.prefill_error < 1e-5 < parity.tolerance < parity.decode_error
    assert not parity.passed
