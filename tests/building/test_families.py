"""The models that people bring: tiny ones with each family's config.json, their host library against transformers."""

import copy
import json
import shutil

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
from edge_transact.runtime.host import HostModel

LLAMA_3_ROPE = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3_ROPE |= {"original_max_position_embeddings": 32}
"""Of Llama 3.2, but for the last: 8192 there, and the first positions would be all the same."""


YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
SMOLLM3_ROPE = {"rope_scaling": YARN, "no_rope_layer_interval": 2}


def config(hidden: int, heads: int, kv_heads: int, mlp: int, tied: bool, **others) -> dict:
    others |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "tie_word_embeddings": tied}
    return {"hidden_size": hidden, "intermediate_size": mlp, **others}


def longrope(pairs: int, original: int) -> dict:
    factors = {
        f"{length}_factor": [1 + pair / by for pair in range(pairs)] for length, by in (("short", 5), ("long", 1))
    }
    scaling = {"type": "longrope", **factors}
    others = {"original_max_position_embeddings": original, "sliding_window": 262144, "pad_token_id": None}
    return {"model_type": "phi3", "rope_theta": 10000.0, "rope_scaling": scaling, **others}


NO_BIASES = {"attention_bias": False, "mlp_bias": False}
NO_WINDOW = {"use_sliding_window": False, "max_window_layers": 21}
FAMILIES = {
    "Llama-2-7b, Sheared-LLaMA-1.3B": config(64, 4, 4, 172, False, rope_scaling=None),
    "Llama-3.1-8B": config(
        64, 8, 2, 96, False, rope_theta=500000.0, rope_scaling=LLAMA_3_ROPE | {"factor": 8.0}, **NO_BIASES
    ),
    "Llama-3.2-1B": config(64, 8, 2, 96, True, head_dim=16, rope_theta=500000.0, rope_scaling=LLAMA_3_ROPE),
    "SmolLM2-135M": config(72, 9, 3, 192, True, rope_interleaved=False, rope_theta=100000),
    "TinyLlama-1.1B": config(64, 16, 2, 176, False, pretraining_tp=1, rope_theta=10000.0),
    "Mistral-7B-v0.3": config(64, 8, 2, 96, False, model_type="mistral", rope_theta=1000000.0, sliding_window=None),
    "Qwen2.5-0.5B": config(
        84, 14, 2, 192, True, model_type="qwen2", rope_theta=1000000.0, sliding_window=32768, **NO_WINDOW
    ),
    "Qwen3-0.6B": config(
        64, 8, 4, 96, True, model_type="qwen3", head_dim=16, attention_bias=False, rope_theta=1000000, **NO_WINDOW
    ),
    "SmolLM3-3B": config(
        64, 4, 2, 96, True, **NO_WINDOW, **SMOLLM3_ROPE, model_type="smollm3", rope_theta=5e6, pad_token_id=0
    ),
    "Phi-3.5-mini": config(64, 4, 4, 96, False, **longrope(8, original=96)),
    "Phi-4-mini": config(96, 6, 2, 96, True, partial_rotary_factor=0.75, **longrope(6, original=32)),
}
"""What their config.json says, at a fraction of the sizes: ratios, RoPE and ties are theirs."""

IDS = [(37 * i + 5) % 1024 for i in range(60)]


@pytest.fixture(params=FAMILIES)
def checkpoint(request, tiny_model, tmp_path):
    """With random weights that bf16 holds exactly, as q0f32 stores them."""
    config = {"model_type": "llama", "rms_norm_eps": 1e-05, "vocab_size": 1024} | FAMILIES[request.param]
    config |= {"num_hidden_layers": 2, "max_position_embeddings": 1024, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**copy.deepcopy(config))).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "q_norm.weight", "k_norm.weight")):
            torch.nn.init.uniform_(parameter, 0.5, 2)
    directory = tmp_path / request.param
    model.save_pretrained(directory)
    # Not as transformers 5 writes it, but as it lies on the hub.
    (directory / "config.json").write_text(json.dumps(config))
    shutil.copyfile(tiny_model / "tokenizer.json", directory / "tokenizer.json")
    return directory


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


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["Qwen2.5-0.5B", "Qwen3-0.6B", "SmolLM3-3B", "Phi-4-mini"], indirect=True)
def test_other_families_are_pruned_trained_and_built(checkpoint, calibration, chapters, tmp_path):
    """The teacher is transformers' own class, the student ours; the build compares its library with torch."""
    prune(str(checkpoint), tmp_path / "pruned", PruneOptions(ratio=0.5, bucket=8, **calibration))
    plan, family = Checkpoint.open(tmp_path / "pruned").plan, family_of(Checkpoint.open(checkpoint).config)
    assert len(set(plan.layers)) > 1 or plan.has_own_head_dims
    assert all(layer.qk_head_dim == plan.head_dim for layer in plan.layers) or "queries-keys" not in family.uncut
    training = {
        "learning_rate": 3e-3,
        "train": str(chapters),
        "train_tokens": 2048,
        "batch_tokens": 256,
        "train_window": 64,
    }
    healed = heal(str(tmp_path / "pruned"), tmp_path / "healed", HealOptions(**training))
    assert healed.trained.held_out < healed.trained.held_out_before
    build(str(tmp_path / "healed"), tmp_path / "dist", BuildOptions(target=["host"], quant="q4f32_1", context=64))
    tuned = heal(str(checkpoint), tmp_path / "tuned", HealOptions(**training, lora=2, teacher=str(checkpoint)))
    assert tuned.checkpoint.config["source_model_type"] == family.model_type
