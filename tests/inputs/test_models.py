"""MODEL: demo models against their own implementations, GGUF, the hub, and names that are nearly right."""

import json
import struct

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from edge_transact import cache as store
from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.inputs import models, resolve_model
from edge_transact.inputs.gguf import convert_gguf
from edge_transact.inputs.names import package_directory
from tests.support.checkpoints import LLAMA3
from tests.support.gguf_files import write_gguf


def test_demo_tiny_equals_its_own_implementation(tiny_model):
    from glassllm.model import GlassLM

    reference = GlassLM.load(package_directory("glassllm", "demo:tiny") / "weights" / "en.npz")
    tokens = torch.randint(4, 1024, (2, 128), generator=torch.Generator().manual_seed(0))
    expected = reference(tokens.numpy()).data
    logits = AutoModelForCausalLM.from_pretrained(tiny_model)(tokens).logits.detach().numpy()
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


def test_demo_tiny_tokenizer_equals_its_own(tiny_model):
    from glassllm.tokenizer import Tokenizer

    reference = Tokenizer.load(package_directory("glassllm", "demo:tiny") / "weights" / "en.tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "It was the best of times,  it was\n the worst of times; zürich 1859: “don't”.\n\n\n  End "
    ids = tokenizer(text).input_ids
    assert ids == reference.encode(text)
    known = [token for token in ids if token != tokenizer.unk_token_id]
    assert tokenizer.decode(known) == reference.decode(known)


def test_conversions_are_cached_by_content(own_cache):
    first = resolve_model("demo:tiny")
    assert first.is_relative_to(own_cache)
    written = (first / "config.json").stat().st_mtime_ns
    assert resolve_model("demo:tiny") == first
    assert (first / "config.json").stat().st_mtime_ns == written


def test_a_conversion_depends_on_packages(monkeypatch):
    monkeypatch.setattr(store, "made", lambda recipe: recipe.entry)
    before = resolve_model("demo:tiny")
    monkeypatch.setattr(models, "version", lambda package: "0")
    assert resolve_model("demo:tiny") != before


@pytest.mark.parametrize(("tensor_type", "dtype"), [("F32", "F32"), ("F16", "F32"), ("Q8_0", "BF16"), ("Q4_1", "BF16")])
def test_gguf(make_llama, tmp_path, own_cache, tensor_type, dtype):
    source = Checkpoint.open(
        make_llama(hidden_size=64, intermediate_size=96, num_attention_heads=8, num_key_value_heads=4)
    )
    write_gguf(tmp_path / "model.gguf", source, tensor_type)
    converted = Checkpoint.open(resolve_model(str(tmp_path / "model.gguf")))
    assert converted.path.is_relative_to(own_cache) and converted.path.name == "model"
    assert converted.plan == source.plan
    assert {stored.dtype for stored in converted._stored.values()} == {dtype}
    for name in source.tensor_names():
        expected = source.tensor(name)
        error = (converted.tensor(name).float() - expected).abs().max()
        steps = {"F32": 0, "F16": 2**-11, "Q8_0": 2**-7, "Q4_1": 2**-3}[tensor_type]
        assert error <= steps * expected.abs().max(), name
    tokens = torch.arange(20)[None]
    if tensor_type == "F32":
        models = [LlamaForCausalLM.from_pretrained(path) for path in (source.path, converted.path)]
        torch.testing.assert_close(models[0](tokens).logits, models[1](tokens).logits)


def test_gguf_keeps_llama3_scaling(make_llama, tmp_path):
    """GGUF stores the frequencies' divisors; config.json names the scaling that they come from."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192}
    model = make_llama(hidden_size=256, head_dim=64, num_attention_heads=4, num_key_value_heads=2, rope_parameters=rope)
    source = Checkpoint.open(model)
    stock = LlamaForCausalLM.from_pretrained(source.path)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](stock.config)
    divisors = 500000.0 ** (-torch.arange(0, 64, 2) / 64) / scaled
    write_gguf(tmp_path / "m.gguf", source, "F32", tensors={"rope_freqs.weight": divisors.float().numpy()})
    (tmp_path / "out").mkdir()
    convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").rope_scaling == source.rope_scaling

    odd = divisors.float().numpy() + np.linspace(0, 1, 32, dtype=np.float32)
    write_gguf(tmp_path / "odd.gguf", source, "F32", tensors={"rope_freqs.weight": odd})
    with pytest.raises(EdgeTransactError, match="rope_freqs"):
        convert_gguf(tmp_path / "odd.gguf", tmp_path / "out")


def test_gguf_of_other_models_and_broken_ones(make_llama, tmp_path, own_cache):
    source = Checkpoint.open(make_llama())
    write_gguf(tmp_path / "q.gguf", source, "F32", architecture="gemma2")
    with pytest.raises(
        EdgeTransactError, match="'gemma2', and only deci, llama, qwen2, qwen3, smollm3, phi3, gemma3 are read"
    ):
        resolve_model(str(tmp_path / "q.gguf"))
    write_gguf(tmp_path / "m.gguf", source, "F32")
    content = (tmp_path / "m.gguf").read_bytes()
    for length in (0, 3, 100, len(content) // 2):
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(EdgeTransactError, match="truncated"):
            resolve_model(str(tmp_path / "cut.gguf"))
    assert not list(own_cache.rglob("config.json"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("llama.block_count", 10**9, r"has 3 layers, its metadata says 1000000000"),
        ("llama.attention.key_length", 1 << 31, "head_dim is 2147483648, more than any model's"),
        ("llama.attention.head_count", 3 << 28, "m.gguf has .* parameters, its metadata says"),
        ("llama.embedding_length", "wide", "embedding_length cannot be read .'wide'|Input should be a valid integer"),
        ("llama.context_length", "long", "m.gguf, context_length cannot be read"),
        ("edge_transact.config", "[1]", "m.gguf, edge_transact.config cannot be read"),
        ("edge_transact.config", 5, "m.gguf, edge_transact.config cannot be read"),
        ("edge_transact.config", "{" * 10**5, "m.gguf, edge_transact.config is not JSON"),
        ("edge_transact.config", '{"num_hidden_layers": 1000000000}', "its metadata says 1000000000"),
        ("edge_transact.rope_pairs", '{"0": [[10]]}', "rope_pairs cannot be read .0.0.0 is 10"),
        ("edge_transact.rope_pairs", '{"0": [[1]]}', "rope_pairs: layer 0 has other than"),
    ],
)
def test_metadata_that_contradicts_a_gguf_file(make_llama, tmp_path, name, value, words):
    write_gguf(tmp_path / "m.gguf", Checkpoint.open(make_llama()), "F32", extra={name: value})
    with pytest.raises(EdgeTransactError, match=words):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "out")


def test_a_bomb_in_a_gguf_file(tmp_path):
    """An array of 10^12 numbers in 70 bytes."""
    key = b"general.file_type"
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key
    for count in (10**12, 10**6):
        (tmp_path / "m.gguf").write_bytes(head + struct.pack("<IIQ", 9, 4, count) + bytes(16))
        with pytest.raises(EdgeTransactError, match=r"m.gguf is not a GGUF file.* it has (an array of|0 of 1)"):
            convert_gguf(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.slow
def test_demo_smollm2():
    """The model as its card describes it, in the file's own tokenizer and chat template."""
    checkpoint = Checkpoint.open(resolve_model("demo:smollm2"))
    layer = checkpoint.plan.layers[0]
    assert len(checkpoint.plan.layers) == 30
    assert (layer.num_attention_heads, layer.num_key_value_heads, layer.qk_head_dim) == (9, 3, 64)
    assert (layer.intermediate_size, checkpoint.plan.hidden_size, checkpoint.rope_theta) == (1536, 576, 1e5)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    assert tokenizer.chat_template


def test_a_directory_is_used_directly(make_llama):
    path = make_llama()
    assert resolve_model(str(path)) == path


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("demo:smolm2", "demo:smollm2"),
        ("demo:tinny", "demo:tiny"),
        ("smollm2", "demo:smollm2"),
        ("{directory}/lama", "{directory}/llama"),
        ("{directory}/llama/weights.ggf", "{directory}/llama/weights.gguf"),
    ],
)
def test_misspelt_names_get_a_suggestion(tmp_path, name, suggested):
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "weights.gguf").touch()
    with pytest.raises(EdgeTransactError) as refused:
        resolve_model(name.format(directory=tmp_path))
    assert refused.value.fix == f"Did you mean {suggested.format(directory=tmp_path)}?"


def test_unknown_names(tmp_path):
    for name in ("demo:x", str(tmp_path / "nothing" / "here"), "a/b/c"):
        with pytest.raises(EdgeTransactError) as refused:
            resolve_model(name)
        assert name in refused.value.message and refused.value.fix
    (tmp_path / "notes.txt").touch()
    with pytest.raises(EdgeTransactError, match="neither a directory nor"):
        resolve_model(str(tmp_path / "notes.txt"))


def test_a_missing_demo_package_has_a_fix(monkeypatch):
    monkeypatch.setattr("edge_transact.inputs.names.find_spec", lambda name: None)
    with pytest.raises(EdgeTransactError, match="glassllm") as refused:
        resolve_model("demo:tiny")
    assert refused.value.fix == "pip install 'edge-transact[demo-data]'"


def test_written_configs_are_plain_json(tiny_model):
    config = json.loads((tiny_model / "config.json").read_text())
    assert config["model_type"] == "llama" and config["intermediate_size"] == 341
