"""The models that people bring: tiny ones with each family's config.json, their host library against transformers."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edge_transact.architecture.families import family_of
from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions
from edge_transact.building.parity import LOGIT_TOLERANCE
from edge_transact.checkpoint import Checkpoint
from edge_transact.healing.options import HealOptions
from edge_transact.healing.run import heal
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune
from edge_transact.runtime.host import Batch, HostModel
from tests.support.published import PUBLISHED, save_published, use, with_archive

IDS = [(37 * i + 5) % 1024 for i in range(60)]


LIKE_OTHERS = (
    *("Llama-2-7b, Sheared-LLaMA-1.3B", "Llama-3.2-1B", "TinyLlama-1.1B", "Mistral-7B-v0.3", "SmolLM2-135M"),
    *("Phi-3.5-mini", "Llama-3.1-8B", "SmolLM3-3B", "Qwen3-0.6B"),
)
"""Whose layers compute what those of others here or of the odd plans in tests of the compiler do, with other sizes."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.soak] * (name in LIKE_OTHERS)) for name in PUBLISHED])
def checkpoint(request, tiny_model, tmp_path):
    return save_published(request.param, tiny_model / "tokenizer.json", tmp_path / request.param)


def logits(checkpoint, **changes) -> np.ndarray:
    """Of transformers' own class in fp32, after each of `IDS`."""
    config = AutoConfig.from_pretrained(checkpoint)
    config.update(changes)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, config=config, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.slow
def test_the_host_library_agrees_with_transformers(checkpoint, tmp_path):
    options = BuildOptions(target=["host"], quant="q0f32", context=64, prefill_chunk=16)
    build(str(checkpoint), tmp_path / "dist", options)
    library = HostModel.load(tmp_path / "dist")
    theirs = logits(checkpoint)
    bound = LOGIT_TOLERANCE["float32"] * np.abs(theirs).max()
    assert np.abs(library.window_logits(IDS) - theirs).max() <= bound
    library.reset()
    assert np.abs(library.prefill(IDS[:-1]) - theirs[-2]).max() <= bound
    assert np.abs(library.decode(IDS[-1]) - theirs[-1]).max() <= bound
    # What the comparison sees: with plain RoPE of the default base, the logits are others.
    plain = logits(checkpoint, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    rope = json.loads((checkpoint / "config.json").read_text())
    if rope.get("rope_scaling") or rope.get("rope_theta", 10000.0) != 10000.0:
        assert np.abs(plain - theirs).max() > 10 * bound
    else:
        assert np.abs(plain - theirs).max() <= bound


@pytest.mark.soak
@pytest.mark.parametrize("allocation", ["uniform", "budgeted"])
def test_the_host_library_of_a_cut_model_agrees_with_torch(checkpoint, allocation, calibration, tmp_path):
    """A prompt in chunks, decode after it, two sequences. test_surgery.py compares cut models with zeroed ones."""
    prune(str(checkpoint), tmp_path / "cut", PruneOptions(ratio=0.5, bucket=8, allocation=allocation, **calibration))
    assert (len(set(Checkpoint.open(tmp_path / "cut").plan.layers)) == 1) == (allocation == "uniform")
    options = {"target": ["host"], "context": 64, "prefill_chunk": 16}
    build(str(tmp_path / "cut"), tmp_path / "dist", BuildOptions(quant="q0f32", max_batch=2, **options))
    library, theirs = HostModel.load(tmp_path / "dist"), logits(tmp_path / "cut")
    bound = LOGIT_TOLERANCE["float32"] * np.abs(theirs).max()
    assert np.abs(library.window_logits(IDS) - theirs).max() <= bound
    library.reset()
    assert np.abs(library.prefill(IDS[:-1]) - theirs[-2]).max() <= bound
    assert np.abs(library.decode(IDS[-1]) - theirs[-1]).max() <= bound
    several = Batch(library, 2, 64)
    for sequence, length in enumerate((20, 33)):
        assert np.abs(several.prefill(sequence, IDS[:length]) - theirs[length - 1]).max() <= bound
    assert np.abs(several.decode({0: IDS[20], 1: IDS[33]}) - theirs[[20, 33]]).max() <= bound
    # A build compares its library with torch and the weights that it has.
    quantized = build(str(tmp_path / "cut"), tmp_path / "quantized", BuildOptions(quant="q4f16_1", **options))
    parity = quantized.manifest.parity
    assert max(parity["prefill_error"], parity["decode_error"]) <= LOGIT_TOLERANCE["float16"]


CHAINED = [
    "Qwen3-0.6B",
    *(
        pytest.param(name, marks=pytest.mark.soak)
        for name in ("Phi-4-mini", "Qwen2.5-0.5B", "Mistral-7B-v0.3", "SmolLM3-3B", "Phi-3.5-mini")
    ),
]  # fmt: skip
"""Norms of heads; RoPE of a part, and matrices that hold several."""


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", CHAINED, indirect=True)
def test_other_families_from_checkpoint_to_app(checkpoint, calibration, chapters, tmp_path):
    """The teacher is transformers' own class, the student ours; the build compares its library with torch."""
    prune(str(checkpoint), tmp_path / "pruned", PruneOptions(ratio=0.5, bucket=8, **calibration))
    plan, family = Checkpoint.open(tmp_path / "pruned").plan, family_of(Checkpoint.open(checkpoint).config)
    assert len(set(plan.layers)) > 1 or plan.has_own_head_dims
    whole = (layer.qk_head_dim == plan.head_dim for layer in plan.layers if layer.has_attention)
    assert all(whole) or "queries-keys" not in family.uncut
    training = {
        "learning_rate": 3e-3,
        "train": str(chapters),
        "train_tokens": 2048,
        "batch_tokens": 256,
        "train_window": 64,
    }
    healed = heal(str(tmp_path / "pruned"), tmp_path / "healed", HealOptions(**training, quant="q4f16_0"))
    assert healed.trained.held_out < healed.trained.held_out_before
    options = BuildOptions(target=["host"], quant="q4f16_0", context=64)
    assert build(str(tmp_path / "healed"), tmp_path / "dist", options).manifest.rounding == "trained"
    with_archive(tmp_path / "dist")
    use(tmp_path / "healed", tmp_path / "dist", chapters, tmp_path)
    tuned = heal(str(checkpoint), tmp_path / "tuned", HealOptions(**training, lora=2, teacher=str(checkpoint)))
    assert tuned.checkpoint.config["source_model_type"] == family.model_type
