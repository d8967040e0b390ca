"""Layers that lost their attention, their MLP, or both: the same as a LLaMA whose sublayers add zeros."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StaticCache,
)

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM
from edge_transact.checkpoint.writer import model_config
from edge_transact.pruning.cut import LayerSelection, pruned_tensors
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.widths import WidthPlan
from tests.support.checkpoints import TINY, YARN

LAYERS = 5
NO_ATTENTION, NO_MLP = (0, 2, 3), (1, 3)
"""Layer 0 has no attention, and layer 3 nothing at all."""

SIZES = {**TINY, "num_hidden_layers": LAYERS, "head_dim": 16}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "biases": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"head_dim": 8}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {}),
    "yarn": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": YARN}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory):
    """A model of transformers, in which what the sublayers add is zero, and ours, which lacks these sublayers."""
    directory = tmp_path_factory.mktemp("sublayers")
    model_class, config_class, changes = FAMILIES[request.param]
    torch.manual_seed(0)
    stock = model_class(config_class(**{**SIZES, **changes})).eval()
    for name, parameter in stock.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            torch.nn.init.uniform_(parameter, 0.3, 3)
    stock.save_pretrained(directory / "source")
    source = Checkpoint.open(directory / "source")
    layers = list(source.plan.layers)
    for lost, consumer, widths in (
        (NO_ATTENTION, "self_attn.o_proj", {"num_attention_heads": 0, "num_key_value_heads": 0}),
        (NO_MLP, "mlp.down_proj", {"intermediate_size": 0}),
    ):
        for index in lost:
            layers[index] = replace(layers[index], **widths)
            for parameter in stock.get_submodule(f"model.layers.{index}.{consumer}").parameters():
                torch.nn.init.zeros_(parameter)
    pruned = write_pruned(source, source.plan.with_layers(layers), directory / "pruned")
    return stock, pruned


def write_pruned(source: Checkpoint, plan: WidthPlan, directory) -> Checkpoint:
    """The source without its lost sublayers, and otherwise as it is."""
    selections = []
    for layer, widths in zip(source.plan.layers, plan.layers, strict=True):
        whole = LayerSelection.everything(layer)
        none = torch.empty(0, dtype=torch.int64)
        attention = {"groups": none, **dict.fromkeys(("queries", "qk_pairs", "v_dims"), none.view(0, 0))}
        whole = whole if widths.has_attention else replace(whole, **attention)
        selections.append(whole if widths.has_mlp else replace(whole, intermediate=none))
    return write_checkpoint(source, plan, pruned_tensors(source, selections), {}, directory)


def load(checkpoint: Checkpoint) -> EdgeLlamaForCausalLM:
    return EdgeLlamaForCausalLM.from_pretrained(checkpoint.path).eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, TINY["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def test_the_checkpoint_has_nothing_of_what_is_gone(both):
    _, pruned = both
    names = pruned.tensor_names()
    assert not [name for index in NO_ATTENTION for name in names if f".{index}.self_attn" in name]
    assert not [name for index in NO_ATTENTION for name in names if f".{index}.input_layernorm" in name]
    assert not [name for index in NO_MLP for name in names if f".{index}.mlp" in name or f".{index}.post" in name]
    assert set(load(pruned).state_dict()) == {*names, "lm_head.weight"}
    assert costs.parameters(pruned.plan) == sum(pruned.tensor(name).numel() for name in names)
    exact = QUANTIZATIONS["q0f16"]
    assert costs.weight_bytes(pruned.plan, exact) == 2 * costs.parameters(pruned.plan)
    assert costs.kv_bytes_per_token(pruned.plan, exact) == 2 * 2 * 3 * 2 * pruned.plan.head_dim


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_those_of_zeroed_sublayers(both, attention):
    stock, pruned = both
    ours = load(pruned)
    for model in (stock, ours):
        model.set_attn_implementation(attention)
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens(2, 40)).logits, stock(tokens(2, 40)).logits)


@pytest.mark.parametrize("cache", ["dynamic", "static", "beams"])
def test_generation_of_a_padded_batch(both, cache):
    """transformers counts cached tokens in the first layer of the cache."""
    stock, pruned = both
    prompts = [tokens(1, length, seed=length) for length in (3, 8)]
    ids = torch.cat([torch.nn.functional.pad(prompt, (8 - prompt.shape[1], 0)) for prompt in prompts])
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"num_beams": 2} if cache == "beams" else {"cache_implementation": cache, "disable_compile": True}
    expected, got = (
        model.generate(ids, attention_mask=(ids != 0).long(), **options).tolist() for model in (stock, load(pruned))
    )
    assert got == expected


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_pieces_of_a_prompt_through_a_cache(both, kind):
    _, pruned = both
    model, ids = load(pruned), tokens(1, 12)
    cache = kind(config=model.config, **({"max_cache_len": 16} if kind is StaticCache else {}))
    with torch.inference_mode():
        pieces = [model(piece, past_key_values=cache, use_cache=True).logits for piece in ids.split([5, 1, 4, 2], 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids).logits)
        assert int(cache.get_seq_length()) == 12
        cache.crop(-3)
        torch.testing.assert_close(model(ids[:, 9:], past_key_values=cache).logits, model(ids).logits[:, 9:])


def test_hidden_states_and_attentions(both):
    stock, pruned = both
    ours = load(pruned)
    for model in (stock, ours):
        model.set_attn_implementation("eager")
    got, expected = (model(tokens(2, 9), output_attentions=True, output_hidden_states=True) for model in (ours, stock))
    torch.testing.assert_close(got.hidden_states, expected.hidden_states)
    kept = [index for index in range(LAYERS) if index not in NO_ATTENTION]
    torch.testing.assert_close(got.attentions, tuple(expected.attentions[index] for index in kept))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_are_those_of_zeroed_sublayers(both, reentrant):
    stock, pruned = both
    ours = load(pruned)
    ours.activation_checkpointing_enable({"use_reentrant": reentrant})
    for model in (stock, ours):
        model.train().zero_grad()
        model(tokens(2, 9), labels=tokens(2, 9), use_cache=False).loss.backward()
    stock.eval()
    expected = {name: parameter.grad for name, parameter in stock.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_saved_again(both, tmp_path):
    _, pruned = both
    model = load(pruned)
    model.save_pretrained(tmp_path)
    assert Checkpoint.open(tmp_path).plan == pruned.plan
    with torch.inference_mode():
        assert torch.equal(load(Checkpoint.open(tmp_path))(tokens(1, 9)).logits, model(tokens(1, 9)).logits)


def test_lora_of_peft(both):
    peft = pytest.importorskip("peft")
    _, pruned = both
    model = peft.get_peft_model(load(pruned), peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    adapted = {
        name.partition("layers.")[2].partition(".lora")[0] for name, _ in model.named_parameters() if "lora" in name
    }
    assert adapted == {"1.self_attn.q_proj", "4.self_attn.q_proj", *(f"{i}.mlp.down_proj" for i in (0, 2, 4))}
    model(tokens(1, 5), labels=tokens(1, 5)).loss.backward()


SWITCHES = ("attention_bias", "attention_out_bias", "mlp_bias", "use_qk_norm", "tie_word_embeddings")


@settings(max_examples=25)
@given(
    layers=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 4), st.integers(1, 8)), min_size=1, max_size=4
    ),
    ratio=st.integers(1, 3),
    family=st.sampled_from(
        [{}, {"attention_bias": True}, {"mlp_bias": True}, {"use_qk_norm": True}, {"attention_out_bias": True}]
    ),
)
def test_models_have_the_plans_shapes(layers, ratio, family):
    """The shapes, the configuration and the costs of any plan, whatever its layers lack."""
    plan = WidthPlan.from_config({**TINY, "num_hidden_layers": len(layers), **family})
    whole = 4 if plan.use_qk_norm else None
    widths = [
        replace(
            layer, num_attention_heads=groups * ratio, num_key_value_heads=groups, intermediate_size=dims,
            qk_head_dim=2 * (whole or pairs), v_head_dim=v_dims,
        )
        for layer, (groups, dims, pairs, v_dims) in zip(plan.layers, layers, strict=True)
    ]  # fmt: skip
    assume(any(groups for groups, *_ in layers) and any(dims for _, dims, *_ in layers))
    plan = plan.with_layers(widths)
    config = model_config({**TINY, **family}, plan)
    state = EdgeLlamaForCausalLM(config).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == tensor_shapes(plan)
    assert WidthPlan.from_config(config.to_dict()) == plan
    weights = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    assert costs.parameters(plan) == sum(tensor.numel() for tensor in weights.values())


@pytest.mark.parametrize(
    ("per_layer", "message"),
    [
        ({key: {"num_attention_heads": 0, "num_key_value_heads": 0} for key in "012"}, "num_attention_heads is 0 in"),
        ({key: {"intermediate_size": 0} for key in "012"}, "intermediate_size is 0 in all layers"),
        ({"1": {"num_attention_heads": 0}}, "layer 1: num_attention_heads is 0, not at least 1"),
        ({"1": {"num_key_value_heads": 0}}, "layer 1: num_key_value_heads is 0, not at least 1"),
        ({"2": {"intermediate_size": -1}}, "layer 2: intermediate_size is -1, not at least 0"),
    ],
)
def test_contradictions_are_refused(per_layer, message):
    with pytest.raises(Exception, match=message):
        EdgeLlamaConfig(**TINY, per_layer_config=per_layer)


def test_continuous_batching_refuses_layers_without_attention():
    model = EdgeLlamaForCausalLM(
        EdgeLlamaConfig(**TINY, per_layer_config={"0": {"num_attention_heads": 0, "num_key_value_heads": 0}})
    )
    with pytest.raises(ValueError, match="same number of KV heads"):
        model.generate_batch([[3, 4]])
