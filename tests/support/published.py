"""The models that people bring: tiny ones with each family's published config.json, and what is done with one."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import edge_transact as et
from edge_transact.artifacts.manifest import Manifest
from edge_transact.compiler.targets import library_name
from tests.support.command import said
from tests.support.dists import make_archive

LLAMA_3_ROPE = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3_ROPE |= {"original_max_position_embeddings": 32}
"""Of Llama 3.2, but for the last: 8192 there, and the first positions would be all the same."""

YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
SMOLLM3_ROPE = {"rope_scaling": YARN, "no_rope_layer_interval": 2}


def model_config(hidden: int, heads: int, kv_heads: int, mlp: int, tied: bool, **others) -> dict:
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
PUBLISHED = {
    "Llama-2-7b, Sheared-LLaMA-1.3B": model_config(64, 4, 4, 172, False, rope_scaling=None),
    "Llama-3.1-8B": model_config(
        64, 8, 2, 96, False, rope_theta=500000.0, rope_scaling=LLAMA_3_ROPE | {"factor": 8.0}, **NO_BIASES
    ),
    "Llama-3.2-1B": model_config(64, 8, 2, 96, True, head_dim=16, rope_theta=500000.0, rope_scaling=LLAMA_3_ROPE),
    "SmolLM2-135M": model_config(72, 9, 3, 192, True, rope_interleaved=False, rope_theta=100000),
    "TinyLlama-1.1B": model_config(64, 16, 2, 176, False, pretraining_tp=1, rope_theta=10000.0),
    "Mistral-7B-v0.3": model_config(
        64, 8, 2, 96, False, model_type="mistral", rope_theta=1000000.0, sliding_window=None
    ),
    "Qwen2.5-0.5B": model_config(
        224, 14, 2, 1024, True, model_type="qwen2", rope_theta=1000000.0, sliding_window=32768, **NO_WINDOW
    ),
    "Qwen3-0.6B": model_config(
        64, 8, 4, 96, True, model_type="qwen3", head_dim=16, attention_bias=False, rope_theta=1000000, **NO_WINDOW
    ),
    "SmolLM3-3B": model_config(
        64, 4, 2, 96, True, **NO_WINDOW, **SMOLLM3_ROPE, model_type="smollm3", rope_theta=5e6, pad_token_id=0
    ),
    "Phi-3.5-mini": model_config(64, 4, 4, 96, False, **longrope(8, original=96)),
    "Phi-4-mini": model_config(96, 6, 2, 96, True, partial_rotary_factor=0.75, **longrope(6, original=32)),
}
"""What their config.json says, at a fraction of the sizes: ratios, RoPE and ties are theirs."""


def save_published(name: str, tokenizer: Path, directory: Path) -> Path:
    """One of `PUBLISHED` with two layers and random weights that bf16 holds exactly, as q0f32 stores them."""
    config = {"model_type": "llama", "rms_norm_eps": 1e-05, "vocab_size": 1024} | PUBLISHED[name]
    config |= {"num_hidden_layers": 2, "max_position_embeddings": 1024, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**copy.deepcopy(config))).to(torch.bfloat16)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("bias", "q_norm.weight", "k_norm.weight")):
            torch.nn.init.uniform_(parameter, 0.5, 2)
    model.save_pretrained(directory)
    # Not as transformers 5 writes it, but as it lies on the hub.
    (directory / "config.json").write_text(json.dumps(config))
    shutil.copyfile(tokenizer, directory / "tokenizer.json")
    return directory


def use(checkpoint: Path, dist: Path, text: Path, directory: Path) -> None:
    """What people do with a DIST: `run`, `eval`, `bench` and `bundle`."""
    answer = said("run", dist, "--prompt", "It was", "--max-tokens", 4, "--temperature", 0)
    assert len(answer["tokens"]) == 4
    torchs, librarys = et.evaluate(checkpoint, dist, text=str(text), window=64, max_windows=2)
    assert abs(librarys["perplexity"] / torchs["perplexity"] - 1) < 0.05
    measured = et.bench(dist, directory / "log.jsonl", lengths="8+4", repetitions=1, warmups=0)
    assert measured.failures == []
    assert measured.results[0]["tokens_agreed"] == measured.results[0]["tokens_checked"] > 0
    manifest = Manifest.read(dist)
    (model,) = et.bundle(dist, directory / "app").models
    assert set(model.libraries) == {"android-cpu", "android"} & set(manifest.libraries)
    assert min(model.memory_bytes.values()) > manifest.weights_bytes


def with_archive(dist: Path) -> None:
    """Gives a DIST a small archive instead of the library for phones that it lacks."""
    manifest = Manifest.read(dist)
    name = f"lib/{manifest.model_lib}-android-cpu.tar"
    make_archive(dist / name, library_name(manifest.model_lib, "android-cpu"))
    replace(manifest, libraries=manifest.libraries | {"android-cpu": name}, files={}).write(dist)
