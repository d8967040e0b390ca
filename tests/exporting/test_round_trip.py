"""Export and import are each other's inverse: widths, values, and Q4_0's codes and scales bit for bit."""

import json

import gguf
import numpy as np
import pytest
import torch

from edge_transact.architecture.families import family_of
from edge_transact.artifacts.dist_files import CHAT_CONFIG
from edge_transact.artifacts.manifest import Manifest
from edge_transact.building.dist import Maker
from edge_transact.building.stages import Rounding, Weights, place_weights
from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.exporting.gguf import export_gguf
from edge_transact.gguf import layout
from edge_transact.inputs import resolve_model
from edge_transact.pruning.options import PruneChoices
from edge_transact.quantization import get_quantization
from edge_transact.weights import ShardReader
from edge_transact.widths import describe
from tests.support.checkpoints import FAMILIES, GEMMA3, YARN
from tests.support.dists import edit_json
from tests.support.gguf_files import copy_gguf
from tests.support.odd_models import CONFIG, GONE, OWN_DIMS, SIZES, emitted, make_source
from tests.support.tokenizers import save_byte_level

PLAIN = {"rope_type": "default", "rope_theta": 1e4}
MODELS = {"all layers differ": CONFIG, "heads that lost dims": OWN_DIMS, "attention and MLPs that are gone": GONE}


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory):
    """With weights that bf16 and fp16 hold."""
    from safetensors.torch import load_file, save_file

    path = make_source(tmp_path_factory.mktemp("model"), MODELS[request.param]).checkpoint.path
    tensors = load_file(path / "model.safetensors")
    rounded = {name: t.bfloat16().half().float() if t.is_floating_point() else t for name, t in tensors.items()}
    save_file(rounded, path / "model.safetensors", metadata={"format": "pt"})
    save_byte_level(path, 300)
    return Checkpoint.open(path)


def placed(checkpoint: Checkpoint, quantization: str, directory) -> Weights:
    """What `build` does with the weights."""
    definition, rounding = emitted(checkpoint, directory), Rounding("search", PruneChoices())
    return place_weights(checkpoint, definition, get_quantization(quantization), rounding, directory)


def shards(checkpoint: Checkpoint, quantization: str, directory) -> ShardReader:
    """What `build` makes of the weights."""
    placed(checkpoint, quantization, directory)
    return ShardReader(directory)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_a_checkpoint_comes_back(checkpoint, tmp_path, kind):
    export_gguf(str(checkpoint.path), tmp_path / "model.gguf", kind=kind)
    back = Checkpoint.open(resolve_model(str(tmp_path / "model.gguf")))
    assert back.plan == checkpoint.plan
    assert (back.rope_theta, back.rope_scaling) == (checkpoint.rope_theta, checkpoint.rope_scaling)
    for name in checkpoint.tensor_names():
        assert torch.equal(back.tensor(name).float(), checkpoint.tensor(name).float()), name


def test_foreign_deci_files_come_in_by_their_metadata(checkpoint, tmp_path):
    """Without our own metadata, the zeros of `layout` are weights like others."""
    export_gguf(str(checkpoint.path), tmp_path / "ours.gguf", kind="f16")
    copy_gguf(tmp_path / "ours.gguf", tmp_path / "foreign.gguf", without=["edge_transact.", "rope_freqs"])
    back = Checkpoint.open(resolve_model(str(tmp_path / "foreign.gguf")))
    ours, theirs = layout.computed(checkpoint.plan), back.plan
    assert [layer.intermediate_size for layer in theirs.layers] == [layer.intermediate_size for layer in ours.layers]
    heads = [(layer.num_attention_heads, layer.num_key_value_heads) for layer in ours.layers]
    assert [(layer.num_attention_heads, layer.num_key_value_heads) for layer in theirs.layers] == heads
    assert not theirs.has_own_head_dims and theirs.head_dim == ours.head_dim
    assert (theirs.attention_bias, theirs.mlp_bias) == (True, True)
    name = "model.layers.2.mlp.down_proj.weight"
    assert torch.equal(back.tensor(name), checkpoint.tensor(name))


ALL_FAMILIES = FAMILIES | {"gemma3_text": GEMMA3 | {"layer_types": None, "query_pre_attn_scalar": 16}}


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_other_families_come_back(make_llama, tmp_path, family, foreign):
    """With our own metadata, and by llama.cpp's alone."""
    every_fourth = {"no_rope_layer_interval": 4, "num_hidden_layers": 4, "rope_parameters": PLAIN}
    more = every_fourth if family == "smollm3" else {}
    source = Checkpoint.open(make_llama(vocab_size=300, **ALL_FAMILIES[family] | more))
    save_byte_level(source.path, 290)
    file = export_gguf(str(source.path), tmp_path / "model.gguf", kind="bf16").path
    if foreign:
        copy_gguf(file, tmp_path / "foreign.gguf", without=["edge_transact."])
        file = tmp_path / "foreign.gguf"
    back = Checkpoint.open(resolve_model(str(file)))
    assert back.plan == source.plan and back.rope_theta == source.rope_theta
    assert back.rope_scaling == source.rope_scaling
    assert family_of(back.config).gguf == family_of(source.config).gguf
    for name in source.tensor_names():
        stored = source.tensor(name)
        is_exact = family == "gemma3_text" and stored.dim() == 1  # one plus a weight
        assert torch.equal(back.tensor(name).float(), stored if is_exact else stored.bfloat16().float()), name


def test_a_foreign_file_with_a_window_is_refused(make_llama, tmp_path):
    """Phi-3-mini-4k's."""
    source = make_llama(vocab_size=300, **FAMILIES["phi3"])
    save_byte_level(source, 290)
    file = export_gguf(str(source), tmp_path / "model.gguf").path
    copy_gguf(file, tmp_path / "foreign.gguf", without=["edge_transact.", "phi3.attention.sliding"], sliding_window=16)
    with pytest.raises(EdgeTransactError, match="sliding window of 16 tokens"):
        resolve_model(str(tmp_path / "foreign.gguf"))


def test_a_foreign_file_with_yarn_is_refused(make_llama, tmp_path):
    source = make_llama(vocab_size=300, **FAMILIES["qwen3"] | {"rope_parameters": YARN})
    save_byte_level(source, 290)
    file = export_gguf(str(source), tmp_path / "model.gguf").path
    assert Checkpoint.open(resolve_model(str(file))).rope_scaling == Checkpoint.open(source).rope_scaling
    copy_gguf(file, tmp_path / "foreign.gguf", without=["edge_transact."])
    with pytest.raises(EdgeTransactError, match="RoPE scaling 'yarn' is not read from GGUF"):
        resolve_model(str(tmp_path / "foreign.gguf"))


@pytest.mark.parametrize("quantization", ["q4f16_0", "q4f16_1"])
def test_q4_0_keeps_every_code_and_scale(checkpoint, tmp_path, quantization):
    """From shards to Q4_0 and back to shards. Where Q4_0 can't have a group, the file has F16."""
    first = shards(checkpoint, quantization, tmp_path / "first")
    export_gguf(str(checkpoint.path), tmp_path / "model.gguf", kind="q4_0")
    back = Checkpoint.open(resolve_model(str(tmp_path / "model.gguf")))
    second = shards(back, quantization, tmp_path / "second")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    kept = 0
    for name in first.names():
        layer = name.split(".")[2] if ".layers." in name else ""
        of = {"o_proj": "attn_output", "down_proj": "ffn_down"}
        theirs = next((f"blk.{layer}.{of[part]}.weight" for part in of if part in name), None)
        if theirs is None or kinds[theirs] == "Q4_0":
            assert second.array(name).tobytes() == first.array(name).tobytes(), name
            kept += name.endswith("q_weight")
    assert kept >= 8


def test_a_manifest_tells_kept_codes_from_searched_ones(make_llama, tmp_path):
    """By what the file has: every matrix as Q4_0, some, or none that the quantization can hold."""
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    source = make_llama(num_attention_heads=4, num_key_value_heads=2, **sizes)
    save_byte_level(source, 300)
    export_gguf(str(source), tmp_path / "whole.gguf", kind="q4_0")
    copy_gguf(tmp_path / "whole.gguf", tmp_path / "part.gguf", in_float32=["attn_k"])
    whole, part = (Checkpoint.open(resolve_model(str(tmp_path / f"{name}.gguf"))) for name in ("whole", "part"))
    assert placed(whole, "q4f16_1", tmp_path / "1").rounding == "kept"
    assert placed(part, "q4f16_1", tmp_path / "2").rounding == "kept+search"
    assert placed(whole, "q4f32_1", tmp_path / "3").rounding == "search"
    assert placed(Checkpoint.open(source), "q4f16_1", tmp_path / "4").rounding == "search"


def dist_of(checkpoint: Checkpoint, quantization: str, directory):
    """What `build` writes, without libraries."""
    definition = emitted(checkpoint, directory / "definition")
    kind, rounding = get_quantization(quantization), Rounding("search", PruneChoices())
    Maker(checkpoint, kind, rounding, SIZES, "odd", directory / "definition", None).write_model(directory, definition)
    sizes = {name: SIZES[name] for name in ("context_window_size", "prefill_chunk_size", "max_batch_size")}
    values = {"source": "odd", "model_type": "edge_llama", "model_lib": "odd", "rounding": "search", "parameters": 1}
    values |= {"calibration": None, "weights_bytes": 1, "libraries": {}, "parity": {}, "versions": {}, **sizes}
    values["device_profile"] = None
    Manifest(quantization=quantization, plan=checkpoint.plan, **values).write(directory)
    return directory


@pytest.mark.parametrize("quantization", ["q4f16_0", "q4f16_1"])
def test_a_dist_has_the_tensors_of_its_checkpoint(checkpoint, tmp_path, quantization):
    """With its own tables of RoPE pairs, configuration and tokenizer: the checkpoint isn't needed any more."""
    dist = dist_of(checkpoint, quantization, tmp_path / "dist")
    results = [
        export_gguf(str(checkpoint.path), tmp_path / "checkpoint.gguf", kind="q4_0"),
        export_gguf(str(dist), tmp_path / "dist.gguf"),
    ]
    assert results[0].matrices == results[1].matrices and results[0].filled_parameters == results[1].filled_parameters
    expected, found = ({t.name: t for t in gguf.GGUFReader(result.path).tensors} for result in results)
    assert list(expected) == list(found)
    for name, tensor in found.items():
        assert tensor.data.tobytes() == expected[name].data.tobytes(), name
    back = Checkpoint.open(resolve_model(str(results[1].path)))
    assert back.plan == checkpoint.plan
    assert (back.rope_theta, back.rope_scaling) == (checkpoint.rope_theta, checkpoint.rope_scaling)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_a_dist_of_another_family_comes_back(make_llama, tmp_path, family):
    source = Checkpoint.open(make_llama(vocab_size=300, **FAMILIES[family] | {"hidden_size": 64, "head_dim": 16}))
    save_byte_level(source.path, 290)
    file = export_gguf(str(dist_of(source, "q4f16_0", tmp_path / "dist")), tmp_path / "dist.gguf").path
    back = Checkpoint.open(resolve_model(str(file)))
    assert back.plan == source.plan and family_of(back.config) is family_of(source.config)


def test_a_dists_python_is_never_executed(checkpoint, tmp_path):
    """Neither its definition, nor what its manifest could smuggle into the one that is rendered again."""
    dist = dist_of(checkpoint, "q4f16_0", tmp_path / "dist")
    code = f"open({str(tmp_path / 'run')!r}, 'w')"
    for file in (dist / "definition").iterdir():
        file.write_text(code)
    export_gguf(str(dist), tmp_path / "first.gguf")
    manifest = json.loads((dist / "manifest.json").read_text())
    for name in ("hidden_size", "vocab_size", "head_dim"):
        edit_json(dist / "manifest.json", model=manifest["model"] | {name: f'64"""\n{code}\n"""'})
        with pytest.raises(EdgeTransactError, match=rf"manifest\.json cannot be read .*{name} is"):
            export_gguf(str(dist), tmp_path / "third.gguf")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", [CHAT_CONFIG, "tensor-cache.json", "tokenizer.json", "params_shard_0.bin", "vocab.json"]
)
def test_every_file_of_a_dist_that_export_reads_is_as_it_was_built(checkpoint, tmp_path, name):
    """One byte more, or a file that the build didn't write."""
    dist = dist_of(checkpoint, "q4f16_0", tmp_path / "dist")
    with (dist / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(EdgeTransactError, match=rf"{name} (changed after the build|is not in manifest)"):
        export_gguf(str(dist), tmp_path / "broken.gguf")


def test_only_some_matrices_are_q4_0(checkpoint, tmp_path):
    """Others are rounded as ever, also where a parameter joins matrices of both types."""
    export_gguf(str(checkpoint.path), tmp_path / "q4_0.gguf", kind="q4_0")
    copy_gguf(tmp_path / "q4_0.gguf", tmp_path / "mixed.gguf", in_float32=["attn_k", "ffn_gate"])
    readers = [
        shards(Checkpoint.open(resolve_model(str(tmp_path / name))), "q4f16_1", tmp_path / name.replace(".", "-"))
        for name in ("q4_0.gguf", "mixed.gguf")
    ]
    index = checkpoint.plan.virtual_layers.index(1)  # its rows are q, k and v, in this order
    layer, head_dim = checkpoint.plan.layers[index], checkpoint.plan.layers[index].qk_head_dim
    name = f"model.layers.{index}.self_attn.qkv_proj.q_weight"
    whole, part = (reader.array(name) for reader in readers)
    queries = slice(0, layer.num_attention_heads * head_dim)
    keys = slice(queries.stop, queries.stop + layer.num_key_value_heads * head_dim)
    values = slice(keys.stop, None)
    assert np.array_equal(whole[queries], part[queries]) and np.array_equal(whole[values], part[values])
    scales = [reader.array(name.replace("q_weight", "q_scale"))[keys].astype(np.float32) for reader in readers]
    assert np.allclose(*map(np.abs, scales), rtol=0.2), "rounded again, from the same values"


def test_the_file_says_what_it_is(checkpoint, tmp_path):
    provenance = {"source": "someone/Model", "method": "obs", "budget": {"ratio": 0.3}, "license": "apache-2.0"}
    (checkpoint.path / "edge_transact.json").write_text(json.dumps(provenance))
    export_gguf(str(checkpoint.path), tmp_path / "small-model.gguf")
    reader = gguf.GGUFReader(tmp_path / "small-model.gguf")

    def value(name):
        return reader.get_field(name).contents()

    assert value("general.name") == "small-model"
    assert value("general.base_model.0.name") == "Model"
    assert value("general.base_model.0.repo_url") == "https://huggingface.co/someone/Model"
    assert value("general.license") == "apache-2.0"
    assert "ratio 0.3" in value("general.description") and describe(checkpoint.plan)[-1] in value("general.description")
    assert json.loads(value("edge_transact.provenance")) == provenance
    layers = layout.computed(checkpoint.plan).layers
    assert value("deci.attention.head_count") == [layer.num_attention_heads for layer in layers]
    assert value("deci.feed_forward_length") == [layer.intermediate_size for layer in layers]
    assert value("tokenizer.chat_template").startswith("{% for message")
    assert value("tokenizer.ggml.eos_token_id") == 1
