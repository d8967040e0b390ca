"""The models that people bring: tiny ones with each family's config.json, their host library against transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions
from edge_transact.building.parity import LOGIT_TOLERANCE
from edge_transact.runtime.host import HostModel

LLAMA_3_ROPE = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3_ROPE |= {"original_max_position_embeddings": 32}
"""Of Llama 3.2, but for the last: 8192 there, and the first positions would be all the same."""


def config(hidden: int, heads: int, kv_heads: int, mlp: int, tied: bool, **others) -> dict:
    others |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "tie_word_embeddings": tied}
    return {"hidden_size": hidden, "intermediate_size": mlp, **others}


NO_BIASES = {"attention_bias": False, "mlp_bias": False}
FAMILIES = {
    "Llama-2-7b, Sheared-LLaMA-1.3B": config(64, 4, 4, 172, False, rope_scaling=None),
    "Llama-3.1-8B": config(
        64, 8, 2, 96, False, rope_theta=500000.0, rope_scaling=LLAMA_3_ROPE | {"factor": 8.0}, **NO_BIASES
    ),
    "Llama-3.2-1B": config(64, 8, 2, 96, True, head_dim=16, rope_theta=500000.0, rope_scaling=LLAMA_3_ROPE),
    "SmolLM2-135M": config(72, 9, 3, 192, True, rope_interleaved=False, rope_theta=100000),
    "TinyLlama-1.1B": config(64, 16, 2, 176, False, pretraining_tp=1, rope_theta=10000.0),
}
"""What their config.json says, at a fraction of the sizes: ratios, RoPE and ties are theirs."""

IDS = [(37 * i + 5) % 1024 for i in range(60)]


@pytest.fixture(params=FAMILIES)
def checkpoint(request, tiny_model, tmp_path):
    """With random weights that bf16 holds exactly, as q0f32 stores them."""
    config = FAMILIES[request.param] | {"model_type": "llama", "rms_norm_eps": 1e-05, "vocab_size": 1024}
    config |= {"num_hidden_layers": 2, "max_position_embeddings": 1024, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16)
    directory = tmp_path / request.param
    model.save_pretrained(directory)
    # Not as transformers 5 writes it, but as it lies on the hub.
    (directory / "config.json").write_text(json.dumps(config))
    shutil.copyfile(tiny_model / "tokenizer.json", directory / "tokenizer.json")
    return directory


def logits(checkpoint, **changes) -> np.ndarray:
    """Of transformers' own LLaMA in fp32, after each of `IDS`."""
    config = AutoConfig.from_pretrained(checkpoint)
    config.update(changes)
    model = LlamaForCausalLM.from_pretrained(checkpoint, config=config, dtype=torch.float32)
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
