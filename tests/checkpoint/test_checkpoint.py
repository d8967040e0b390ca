"""Reading and writing checkpoint directories, and what is refused with which words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.writer import copy_files, provenance_of
from edge_transact.errors import EdgeTransactError
from tests.support.checkpoints import FAMILIES, LLAMA3, narrowed, odd_plan


def edit_config(path: Path, **changes) -> None:
    config = json.loads((path / "config.json").read_text())
    config |= changes
    (path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reads_what_transformers_wrote(make_llama, tied, biases, dtype):
    path = make_llama(tie_word_embeddings=tied, attention_bias=biases, mlp_bias=biases, dtype=dtype)
    checkpoint = Checkpoint.open(path)
    state = LlamaForCausalLM.from_pretrained(path).state_dict()
    assert set(checkpoint.tensor_names()) == set(state) - ({"lm_head.weight"} if tied else set())
    assert all(torch.equal(checkpoint.tensor(name), state[name]) for name in checkpoint.tensor_names())


def test_reads_shards(make_llama, tmp_path):
    path = make_llama()
    LlamaForCausalLM.from_pretrained(path).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    sharded, whole = Checkpoint.open(tmp_path / "sharded"), Checkpoint.open(path)
    assert not (tmp_path / "sharded" / "model.safetensors").exists()
    assert all(torch.equal(sharded.tensor(name), whole.tensor(name)) for name in whole.tensor_names())


def test_rope_in_old_and_new_notation(make_llama):
    path = make_llama(rope_parameters=dict(LLAMA3))
    scaling = {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    assert Checkpoint.open(path).rope_theta == 5e5
    assert Checkpoint.open(path).rope_scaling == scaling
    # as transformers 4 wrote it, and as it did before that
    for name in ("rope_type", "type"):
        old = {**{key: value for key, value in scaling.items() if key != "rope_type"}, name: "llama3"}
        edit_config(path, rope_parameters=None, rope_theta=5e5, rope_scaling=old)
        assert Checkpoint.open(path).rope_theta == 5e5
        assert Checkpoint.open(path).rope_scaling == scaling
    edit_config(path, rope_scaling=None)
    assert Checkpoint.open(path).rope_scaling is None
    edit_config(path, rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    with pytest.raises(EdgeTransactError, match="'dynamic'"):
        _ = Checkpoint.open(path).rope_scaling


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("max_shard_bytes", [1 << 30, 20_000])
def test_written_checkpoints_load(make_llama, tmp_path, tied, max_shard_bytes):
    biases = {"attention_bias": True, "mlp_bias": True}
    source = Checkpoint.open(make_llama(tie_word_embeddings=tied, rope_parameters=dict(LLAMA3), **biases))
    plan = odd_plan(source.plan)
    written = write_checkpoint(
        source, plan, narrowed(source, plan), {"method": "none"}, tmp_path / "out", max_shard_bytes=max_shard_bytes
    )
    assert written.plan == plan
    assert written.rope_scaling == source.rope_scaling
    assert (len(list(written.path.glob("*.safetensors"))) > 1) == (max_shard_bytes == 20_000)
    assert all(file.stat().st_size < max_shard_bytes + 8192 for file in written.path.glob("*.safetensors"))
    for name, tensor in narrowed(source, plan):
        assert torch.equal(written.tensor(name), tensor)

    model = AutoModelForCausalLM.from_pretrained(written.path, dtype="auto")
    assert model.dtype == torch.float32
    assert model.config.tie_word_embeddings == tied
    state = model.state_dict()
    assert all(torch.equal(state[name], written.tensor(name)) for name in written.tensor_names())


def test_a_written_checkpoint_can_be_written_again(make_llama, tmp_path):
    source = Checkpoint.open(make_llama())
    odd = odd_plan(source.plan)
    once = write_checkpoint(source, odd, narrowed(source, odd), {}, tmp_path / "once")
    plan = once.plan.with_layers(replace(layer, intermediate_size=5) for layer in once.plan.layers)
    twice = write_checkpoint(once, plan, narrowed(once, plan), {}, tmp_path / "twice")
    assert twice.plan == plan


def test_equal_layers_need_no_per_layer_config(make_llama, tmp_path):
    source = Checkpoint.open(make_llama())
    plan = source.plan.with_layers(replace(layer, intermediate_size=16) for layer in source.plan.layers)
    written = write_checkpoint(source, plan, narrowed(source, plan), {}, tmp_path / "out")
    assert "per_layer_config" not in written.config
    assert written.config["intermediate_size"] == 16


def test_the_directory_is_complete(tiny_model, tmp_path):
    source = Checkpoint.open(tiny_model)
    plan = odd_plan(source.plan)
    provenance = {"source": "demo:tiny", "method": "transact", "budget": {"ratio": 0.5}, "seed": 7}
    written = write_checkpoint(source, plan, narrowed(source, plan), provenance, tmp_path / "tiny-half")
    assert {file.name for file in written.path.iterdir()} >= {
        *("config.json", "generation_config.json", "model.safetensors", "README.md", "edge_transact.json"),
        *("tokenizer.json", "tokenizer_config.json", "configuration_edge_llama.py", "modeling_edge_llama.py"),
    }
    record = json.loads((written.path / "edge_transact.json").read_text())
    assert provenance.items() <= record.items()
    assert set(record["versions"]) == {"edge-transact", "torch", "transformers"}
    card = (written.path / "README.md").read_text()
    assert "demo:tiny" in card and "tiny-half" in card and "num_key_value_heads: 1..2" in card
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (tiny_model, written.path)]
    assert tokenizers[0]("the time of").input_ids == tokenizers[1]("the time of").input_ids


def test_the_places_of_a_strangers_disk_stay_behind(tmp_path):
    """What was written is published by `push`; a file without such places keeps its bytes."""
    for name, places in {"named": {"name_or_path": "/home/ann/x", "tokenizer_file": "/root/y"}, "plain": {}}.items():
        (tmp_path / name).mkdir()
        written = json.dumps({"model_max_length": 128, **places})
        (tmp_path / f"{name}/tokenizer_config.json").write_text(written)
        (tmp_path / f"{name}/vocab.json").write_text("{}")
        copy_files(tmp_path / name, tmp_path, ["tokenizer_config.json", "vocab.json", "merges.txt"])
        copied = (tmp_path / "tokenizer_config.json").read_text()
        assert json.loads(copied) == {"model_max_length": 128} and (copied == written) is not bool(places)
        assert (tmp_path / "vocab.json").is_file() and not (tmp_path / "merges.txt").exists()


def test_output_is_complete_or_absent(make_llama, tmp_path):
    source = Checkpoint.open(make_llama())
    output = tmp_path / "out"

    def failing():
        yield from list(narrowed(source, source.plan))[:4]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_checkpoint(source, source.plan, failing(), {}, output, max_shard_bytes=1000)
    assert [entry.name for entry in tmp_path.iterdir()] == [source.path.name]

    write_checkpoint(source, source.plan, narrowed(source, source.plan), {}, output)
    before = sorted(entry.name for entry in output.iterdir())
    with pytest.raises(EdgeTransactError, match="exists") as refused:
        write_checkpoint(source, source.plan, narrowed(source, source.plan), {}, output)
    assert "--force" in refused.value.fix
    with pytest.raises(RuntimeError, match="stopped"):
        write_checkpoint(source, source.plan, failing(), {}, output, force=True)
    assert sorted(entry.name for entry in output.iterdir()) == before
    for mine in ("mine", "adapter.safetensors"):
        (output / mine).touch()
        with pytest.raises(EdgeTransactError, match=rf"out holds {mine}, which edge-transact didn't write"):
            write_checkpoint(source, source.plan, narrowed(source, source.plan), {}, output, force=True)
        (output / mine).unlink()
    write_checkpoint(source, source.plan, narrowed(source, source.plan), {}, output, force=True)
    assert Checkpoint.open(output).plan == source.plan
    assert {entry.name for entry in tmp_path.iterdir()} == {source.path.name, "out"}


def test_tensors_that_differ_from_the_plan_are_a_bug(make_llama, tmp_path):
    source = Checkpoint.open(make_llama())
    first, *others = narrowed(source, source.plan)
    name, tensor = first
    for pairs in (
        others,  # one is missing
        [(name, tensor[1:]), *others],
        [first, *others, ("model.rope", torch.ones(1))],
        [first, *others, first],
    ):
        with pytest.raises(ValueError, match=r"plan"):
            write_checkpoint(source, source.plan, pairs, {}, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def refusal(path: Path) -> EdgeTransactError:
    with pytest.raises(EdgeTransactError) as refused:
        Checkpoint.open(path)
    assert refused.value.fix
    return refused.value


def test_refuses_directories_that_are_not_checkpoints(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing").message
    assert "no config.json" in refusal(tmp_path).message
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in refusal(tmp_path).message
    assert "is not a directory" in refusal(tmp_path / "config.json").message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel (model_type 'gpt2')"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "a mixture of experts"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already (gptq)"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"intermediate_size": 41}, "layers.0.mlp.gate_proj.weight has shape [40, 48], config.json says [41, 48]"),
        ({"num_hidden_layers": 4}, "tensor model.layers.3.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 10**9}, "config.json says num_hidden_layers 1000000000, the weights have 3 layers"),
        ({"num_hidden_layers": 10**100}, "the weights have 3 layers"),
        ({"num_hidden_layers": 3.0}, "num_hidden_layers is 3.0, not an integer"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1, not an integer of at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, not an integer of at least 1"),
        ({"num_attention_heads": 10**9}, "num_attention_heads 1000000000 is not a multiple"),
        ({"hidden_size": "48"}, "hidden_size is '48', not an integer"),
        ({"hidden_size": 10**15}, "config.json says [96, 1000000000000000]"),
        ({"vocab_size": 10**15}, "config.json says [1000000000000000, 48]"),
        ({"intermediate_size": 10**15}, "config.json says [1000000000000000, 48]"),
        ({"per_layer_config": {"1000000000": {"intermediate_size": 8}}}, "has a layer '1000000000', the model has 3"),
        ({"per_layer_config": {"first": {"intermediate_size": 8}}}, "has a layer 'first', the model has 3"),
        ({"per_layer_config": [8, 8, 8]}, "per_layer_config is not a map from layers to widths"),
        ({"head_dim": 10**9}, "head_dim is 1000000000, more than any model's"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM': Input should be a valid array"),
        ({"quantization_config": "gptq"}, "quantization_config is 'gptq'"),
        ({"max_position_embeddings": -5}, "max_position_embeddings is -5: Input should be greater than 0"),
        ({"max_position_embeddings": "2048"}, "max_position_embeddings is '2048': Input should be a valid integer"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps is 'x': Input should be a valid number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false': Input should be a valid boolean"),
        ({"rope_parameters": [1]}, "rope_parameters is [1]"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_parameters.rope_theta is 0: Input should be greater than 0"),
        ({"rope_parameters": {"rope_theta": float("inf")}}, "rope_theta is inf: Input should be a finite number"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "needs low_freq_factor, high_freq_factor"),
        ({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}}, "longrope needs long_factor"),
        (
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "rope_parameters.short_factor has 1 numbers for 4 pairs",
        ),
        ({"eos_token_id": {"a": 1}}, "eos_token_id"),
    ],
)
def test_refuses_other_models(make_llama, changes, words):
    path = make_llama()
    edit_config(path, **changes)
    assert words in refusal(path).message


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_refuses_truncated_safetensors(make_llama, keep):
    path = make_llama()
    file = path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:keep])
    message = refusal(path).message
    assert str(file) in message
    if keep in (1000, -1):
        assert "truncated" in message and str(len(content[:keep])) in message


def test_refuses_a_missing_shard(make_llama, tmp_path):
    LlamaForCausalLM.from_pretrained(make_llama()).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    shard = sorted((tmp_path / "sharded").glob("*.safetensors"))[1]
    shard.unlink()
    assert f"{shard} is missing" in refusal(tmp_path / "sharded").message


def test_refuses_pickles_without_reading_them(make_llama):
    path = make_llama()
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/edge-transact-unpickled'\ntR.")
    refused = refusal(path)
    assert "pytorch_model.bin" in refused.message and "safetensors" in refused.fix
    assert not Path("/tmp/edge-transact-unpickled").exists()
    (path / "pytorch_model.bin").unlink()
    assert "no model.safetensors" in refusal(path).message


def test_refuses_quantized_tensors(make_llama):
    path = make_llama()
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].to(torch.int8)
    save_file(tensors, path / "model.safetensors")
    assert "model.layers.1.mlp.up_proj.weight is I8" in refusal(path).message


def test_rows_of_fused_and_reordered_tensors(make_llama):
    checkpoint = Checkpoint.open(make_llama(**FAMILIES["phi3"]))
    names = [f"model.layers.1.{name}.weight" for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")]
    whole = [checkpoint.tensor(name) for name in names]
    assert [tuple(tensor.shape) for tensor in whole] == [checkpoint.shape(name) for name in names]
    pieces = [(name, 5, 21) for name in names]
    assert torch.equal(checkpoint.rows(pieces), torch.cat([tensor[5:21] for tensor in whole]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intermediate_size": 39}, "mlp.gate_up_proj.weight has shape [80, 48], config.json says [78, 48]"),
        ({"num_key_value_heads": 1}, "self_attn.qkv_proj.weight has shape [96, 48], config.json says [64, 48]"),
        ({"num_hidden_layers": 4}, "model.layers.3.input_layernorm.weight is missing"),
        ({"rope_parameters": {"partial_rotary_factor": 0.7}}, "RoPE rotates 5 of 8 dims of a head"),
        ({"rope_parameters": {"partial_rotary_factor": 2}}, "RoPE rotates 16 of 8 dims of a head"),
    ],
)
def test_fused_tensors_that_contradict_the_configuration(make_llama, changes, words):
    path = make_llama(**FAMILIES["phi3"])
    edit_config(path, **changes)
    with pytest.raises(EdgeTransactError) as error:
        Checkpoint.open(path)
    assert words in error.value.message


def test_a_missing_fused_tensor_is_named(make_llama):
    path = make_llama(**FAMILIES["phi3"])
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.2.self_attn.qkv_proj.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EdgeTransactError, match=r"layers\.2\.self_attn\.qkv_proj\.weight is missing"):
        Checkpoint.open(path)


@pytest.mark.parametrize(
    "record", [{"source": 5}, {"source": "a", "budget": "all"}, {"license": ["mit"]}, {"healed": {"steps": 3}}, []]
)
def test_a_strangers_record_of_how_it_was_made(tmp_path, record):
    (tmp_path / "edge_transact.json").write_text(json.dumps(record))
    with pytest.raises(EdgeTransactError, match=r"edge_transact\.json"):
        provenance_of(tmp_path)
