"""The parity check passes what computes the model, and fails what doesn't."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edge_transact.building.parity import compare, reference_model
from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.weights.convert import convert
from edge_transact.weights.shards import ShardReader
from tests.support.definitions import emit

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
def reference_of(tmp_path):
    """``reference_of(path, name)``: what torch computes with a checkpoint's shards."""

    def make(path, name: str):
        checkpoint = Checkpoint.open(path)
        directory = tmp_path / name
        sources = emit(directory, checkpoint.plan, {**checkpoint.config, "rope_scaling": None}).parameter_sources()
        convert(checkpoint, sources, QUANTIZATIONS[name], directory)
        return reference_model(ShardReader(directory), sources, checkpoint.config, checkpoint.plan, QUANTIZATIONS[name])

    return make


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("name", "tolerance"), [("q0f32", 0.02), ("q0f16", 0.005), ("q4f32_1", 0.5)])
def test_the_reference_is_the_checkpoint_up_to_quantization(make_llama, reference_of, name, tolerance, tied):
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


class HalfLibrary(TorchLibrary):
    """Computes in fp16, without torch's cache."""

    def __init__(self, model, spoil=lambda logits: logits):
        super().__init__(copy.deepcopy(model).half(), lambda logits: spoil(logits.astype(np.float32)))


@pytest.fixture
def ill_conditioned(make_llama, reference_of):
    """A model whose hidden states are small differences on a large offset, which the logits don't depend on."""
    path = make_llama(tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(300)
        head = model.get_output_embeddings().weight
        head.sub_(head.mean(1, keepdim=True))
    model.save_pretrained(path)
    return reference_of(path, "q0f16")


def test_a_model_that_is_ill_conditioned_in_fp16_passes_with_a_warning(ill_conditioned, caplog):
    library = HalfLibrary(ill_conditioned)
    parity = compare(library, ill_conditioned, PROMPT, QUANTIZATIONS["q0f16"], decode_steps=8, name="half")
    assert not parity.close and parity.passed
    assert parity.torch_fp16.error > parity.tolerance
    parity.require()
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "ill-conditioned in fp16" in message and "--quant q4f32_1" in message
    assert f"{parity.error:.1e}" in message and f"{parity.torch_fp16.error:.1e}" in message
    record = parity.to_dict()
    assert record["passed"] and record["torch_fp16"]["decode_error"] == parity.torch_fp16.decode_error


def test_a_wrong_library_of_an_ill_conditioned_model_fails(ill_conditioned):
    library = HalfLibrary(ill_conditioned, lambda logits: np.roll(logits, 1))
    parity = compare(library, ill_conditioned, PROMPT, QUANTIZATIONS["q0f16"], decode_steps=8, name="rolled")
    with pytest.raises(EdgeTransactError, match="torch in fp16 differs by") as caught:
        parity.require()
    assert "bug in the build" in caught.value.fix


def test_a_wrong_fp16_library_is_a_bug(make_llama, reference_of):
    model = reference_of(make_llama(), "q4f16_1")
    library = TorchLibrary(model, lambda logits: logits * 1.05)
    parity = compare(library, model, PROMPT, QUANTIZATIONS["q4f16_1"], name="scaled")
    assert not parity.passed and 0 < parity.torch_fp16.error < parity.tolerance
    with pytest.raises(EdgeTransactError) as caught:
        parity.require()
    assert "bug in the build" in caught.value.fix


def test_a_model_that_overflows_in_fp16_is_no_bug(make_llama, reference_of):
    model = reference_of(make_llama(), "q0f32")
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight").mul_(1e6)
    library = TorchLibrary(model, lambda logits: np.full_like(logits, np.nan))
    parity = compare(library, model, PROMPT, QUANTIZATIONS["q0f16"], decode_steps=2, name="overflowing")
    assert not parity.passed and not np.isfinite(parity.torch_fp16.error)
    with pytest.raises(EdgeTransactError, match="overflows on this model too") as caught:
        parity.require()
    assert "--quant q4f32_1" in caught.value.fix


def test_torch_in_fp16_is_only_computed_for_fp16_libraries_that_fail(make_llama, reference_of):
    model = reference_of(make_llama(), "q4f16_0")
    assert compare(TorchLibrary(model), model, PROMPT, QUANTIZATIONS["q4f16_0"], name="torch").torch_fp16 is None
    wrong = TorchLibrary(model, lambda logits: logits * 2)
    assert compare(wrong, model, PROMPT, QUANTIZATIONS["q4f32_1"], name="scaled").torch_fp16 is None
