"""The modeling file: stock LLaMA where widths agree, and all that transformers' models can do where they don't."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edge_transact.architecture.families import with_rope_of
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM
from edge_transact.checkpoint.writer import model_config
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.checkpoints import FAMILIES, LLAMA3, LONGROPE, MODELS, TINY, save_llama

ODD = {
    "0": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 5},
    "2": {"num_attention_heads": 4, "num_key_value_heads": 2},
}
"""Every layer different; layer 1 is the widest."""
OWN_DIMS = {
    "0": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 5, "qk_head_dim": 6},
    "1": {"v_head_dim": 3},
    "2": {"num_attention_heads": 4, "num_key_value_heads": 2, "qk_head_dim": 2, "v_head_dim": 5},
}
"""The same, and no layer's heads have all of their dims."""


def build(seed: int = 0, **config) -> EdgeLlamaForCausalLM:
    torch.manual_seed(seed)
    return EdgeLlamaForCausalLM(EdgeLlamaConfig(**{**TINY, **config})).eval()


@pytest.fixture(params=[ODD, OWN_DIMS], ids=["whole heads", "own dims"])
def odd(request) -> EdgeLlamaForCausalLM:
    return build(per_layer_config=request.param)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, TINY["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("rope", [None, LLAMA3])
def test_equal_widths_are_stock_llama(tied, biases, rope):
    config = {**TINY, "tie_word_embeddings": tied, "attention_bias": biases, "mlp_bias": biases}
    config["rope_parameters"] = rope and dict(rope)
    stock = LlamaForCausalLM(LlamaConfig(**config)).eval()
    ours = build(**config)
    ours.load_state_dict(stock.state_dict())
    assert torch.equal(ours(tokens(2, 40)).logits, stock(tokens(2, 40)).logits)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_other_families_are_read_as_ours(tmp_path, name, tied):
    """Their config.json and tensors are transformers' own; ours computes the same of them, also when written again."""
    theirs = AutoModelForCausalLM.from_pretrained(
        save_llama(tmp_path / "theirs", **MODELS[name], tie_word_embeddings=tied)
    )
    source, family = Checkpoint.open(tmp_path / "theirs"), MODELS[name]["model_type"]
    tensors = ((name, source.tensor(name)) for name in source.tensor_names())
    ours = write_checkpoint(source, source.plan, tensors, {}, tmp_path / "ours")
    assert ours.config["source_model_type"] == family and ours.plan == source.plan
    loaded = EdgeLlamaForCausalLM.from_pretrained(ours.path)
    assert family == "phi3" or set(loaded.state_dict()) == set(theirs.state_dict())
    tolerance = 1e-4 if family == "phi3" else 1e-6  # its matrices are fused, and dims of partial RoPE reordered
    for length in (12, 40):  # below and above the original length of longrope
        ids = tokens(2, length)
        with torch.inference_mode():
            torch.testing.assert_close(loaded(ids).logits, theirs(ids).logits, rtol=tolerance, atol=tolerance)


def test_the_factors_of_a_library_beyond_longropes_length(tmp_path):
    """Of a dense model, and of one that was written by us."""
    source = Checkpoint.open(save_llama(tmp_path / "theirs", **FAMILIES["phi3"]))
    tensors = ((name, source.tensor(name)) for name in source.tensor_names())
    for checkpoint in (source, write_checkpoint(source, source.plan, tensors, {}, tmp_path / "ours")):
        for context, factors in ((16, "short_factor"), (17, "long_factor")):
            rope = model_config(with_rope_of(checkpoint.config, context), checkpoint.plan).rope_parameters
            assert rope["short_factor"] == LONGROPE[factors]


@settings(max_examples=25)
@given(
    groups=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    ratio=st.integers(1, 3),
    widths=st.lists(st.integers(1, 70), min_size=4, max_size=4),
    dims=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 8)), min_size=4, max_size=4),
)
def test_layers_have_the_plans_shapes(groups, ratio, widths, dims):
    plan = WidthPlan.from_config({**TINY, "num_hidden_layers": len(groups)})
    plan = plan.with_layers(
        LayerWidths(group * ratio, group, 2 * pairs, v_dims, width)
        for group, width, (pairs, v_dims) in zip(groups, widths, dims, strict=False)
    )
    config = model_config(TINY, plan)
    state = EdgeLlamaForCausalLM(config).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == tensor_shapes(plan)
    assert WidthPlan.from_config(config.to_dict()) == plan
    assert WidthPlan.from_config(config.to_diff_dict()) == plan


def test_a_zeroed_layer_equals_a_narrower_one():
    """A layer's missing heads and MLP dims are the same as present ones whose outputs are zero."""
    wide, odd = build(), build(per_layer_config=ODD)
    state = wide.state_dict()
    for name, tensor in odd.state_dict().items():
        state[name].zero_()
        state[name][tuple(slice(size) for size in tensor.shape)] = tensor
    wide.load_state_dict(state)
    torch.testing.assert_close(wide(tokens(2, 12)).logits, odd(tokens(2, 12)).logits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_equals_repeated_forward(odd, attention, cache):
    odd.set_attn_implementation(attention)
    prompt = tokens(1, 7)
    expected = prompt
    for _ in range(12):
        expected = torch.cat([expected, odd(expected, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    got = odd.generate(
        prompt, max_new_tokens=12, do_sample=False, eos_token_id=None, cache_implementation=cache, disable_compile=True
    )
    assert got.tolist() == expected.tolist()


def test_attention_implementations_agree_and_can_be_switched(odd):
    logits = {}
    for attention in ("sdpa", "eager"):
        odd.set_attn_implementation(attention)
        logits[attention] = odd(tokens(2, 9)).logits
    torch.testing.assert_close(logits["sdpa"], logits["eager"])
    assert odd(tokens(1, 9), output_attentions=True).attentions[0].shape == (1, 2, 9, 9)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_left_padded_batches_equal_single_prompts(odd, cache):
    prompts = [tokens(1, length, seed=length) for length in (3, 8, 5)]
    longest = max(prompt.shape[1] for prompt in prompts)
    ids = torch.cat([torch.nn.functional.pad(prompt, (longest - prompt.shape[1], 0)) for prompt in prompts])
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"cache_implementation": cache, "disable_compile": True}
    batched = odd.generate(ids, attention_mask=(ids != 0).long(), **options)[:, longest:]
    single = [odd.generate(prompt, **options)[0, prompt.shape[1] :] for prompt in prompts]
    assert batched.tolist() == [row.tolist() for row in single]


def test_gradient_checkpointing_keeps_gradients(odd):
    gradients = []
    for checkpointing in (False, True):
        odd.train()
        odd.zero_grad()
        if checkpointing:
            odd.gradient_checkpointing_enable()
        odd(tokens(2, 9), labels=tokens(2, 9), use_cache=False).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in odd.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layers", [ODD, OWN_DIMS], ids=["whole heads", "own dims"])
def test_save_and_load_in_shards(tmp_path, tied, layers):
    model = build(per_layer_config=layers, tie_word_embeddings=tied, attention_bias=True, mlp_bias=True)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = EdgeLlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(tokens(2, 9)).logits, model(tokens(2, 9)).logits)
    assert loaded.config.to_dict()["per_layer_config"] == layers


def test_rope_pairs_are_integers_in_bf16(tmp_path):
    model = build(per_layer_config=OWN_DIMS)
    model.model.layers[2].self_attn.rope_pairs.copy_(torch.tensor([[3], [2]]))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = EdgeLlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    pairs = loaded.model.layers[2].self_attn.rope_pairs
    assert pairs.dtype == torch.int32 and pairs.tolist() == [[3], [2]]


def test_a_checkpoint_without_rope_pairs_gets_the_first_ones(tmp_path):
    model = build(per_layer_config=OWN_DIMS)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    others = {name: tensor for name, tensor in tensors.items() if not name.endswith("rope_pairs")}
    assert len(others) == len(tensors) - 2
    save_file(others, tmp_path / "model.safetensors", {"format": "pt"})
    layers = EdgeLlamaForCausalLM.from_pretrained(tmp_path).model.layers
    assert [layers[index].self_attn.rope_pairs.tolist() for index in (0, 2)] == [[[0, 1, 2]], [[0], [0]]]


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope", "yarn"])
def test_rope_types_where_head_counts_differ(rope_type):
    """RoPE is the same with and without cut heads: as `LlamaRotaryEmbedding` computes it for `head_dim`."""
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 2.0}
    if rope_type == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
    odd = build(per_layer_config=ODD, rope_parameters=dict(rope))
    stock = LlamaRotaryEmbedding(LlamaConfig(**TINY, rope_parameters=dict(rope)))
    positions = torch.arange(100)[None]
    for ours, theirs in zip(
        odd.model.rotary_emb(torch.ones(1), positions), stock(torch.ones(1), positions), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_continuous_batching_refuses_heads_that_differ(odd):
    with pytest.raises(ValueError, match="same number of KV heads"):
        odd.generate_batch([[3, 4]])


def test_continuous_batching_takes_own_mlps():
    model = build(per_layer_config={"1": {"intermediate_size": 7}})
    assert not model.init_continuous_batching(GenerationConfig(eos_token_id=1)).is_running()


@pytest.mark.parametrize(
    ("per_layer", "message"),
    [
        ({"1": {"num_attention_heads": 4}}, "layer 1: num_attention_heads 4 is not a multiple of"),
        ({"2": {"intermediate_size": -1}}, "layer 2: intermediate_size is -1"),
        ({"1": {"qk_head_dim": 5}}, "layer 1: qk_head_dim 5 is odd"),
        ({"1": {"qk_head_dim": 10}}, "layer 1: qk_head_dim 10 is odd, or more than head_dim 8"),
        ({"1": {"qk_head_dim": 6}}, "layer 1: qk_head_dim 6 is not head_dim 8, over which use_qk_norm"),
        ({"0": {"hidden_size": 24}}, "unknown 'hidden_size'"),
        ({"3": {"intermediate_size": 8}}, "layer indices"),
    ],
)
def test_contradicting_widths_are_refused(per_layer, message):
    with pytest.raises(Exception, match=message):
        EdgeLlamaConfig(**TINY, per_layer_config=per_layer, use_qk_norm=True)


def test_every_layer_says_whether_it_has_rope():
    with pytest.raises(Exception, match="no_rope_layers has 2 of 3 layers"):
        EdgeLlamaConfig(**TINY, no_rope_layers=[1, 0])


def test_rope_keys_for_other_readers():
    """MLC-LLM knows `rope_theta` and llama3's `rope_scaling` with `rope_type`; transformers 5 `rope_parameters`."""
    plain = EdgeLlamaConfig(**TINY, rope_parameters={"rope_type": "default", "rope_theta": 1e5})
    for written in (plain.to_dict(), plain.to_diff_dict()):
        assert written["rope_theta"] == 1e5
        assert "rope_scaling" not in written
    scaled = EdgeLlamaConfig(**TINY, rope_parameters=dict(LLAMA3))
    for written in (scaled.to_dict(), scaled.to_diff_dict()):
        assert written["rope_theta"] == LLAMA3["rope_theta"]
        assert written["rope_scaling"] == {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
        assert EdgeLlamaConfig(**written).rope_parameters == scaled.rope_parameters == LLAMA3
