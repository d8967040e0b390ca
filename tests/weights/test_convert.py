"""The streamed conversion: order, bytes, what it restores, what it refuses."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import ROPE_PAIRS, tensor_shapes
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.weights import w4
from edge_transact.weights.convert import convert, restore
from edge_transact.weights.shards import ShardReader
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.definitions import config_of
from tests.support.packed import quantize


def odd_plan(tied: bool = True, biases: bool = False) -> WidthPlan:
    """Every layer different, a ragged MLP, one layer with one KV group, one whose heads lost dims."""
    layers = LayerWidths(8, 4, 16, 16, 97), LayerWidths(2, 1, 16, 16, 32), LayerWidths(6, 3, 10, 7, 64)
    return WidthPlan(72, 50, tied, biases, biases, layers)


def write_checkpoint(directory, plan: WidthPlan, dtype=torch.bfloat16, **changed) -> Checkpoint:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config_of(plan, model_type="edge_llama")))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(*shape, generator=generator).to(dtype)
        if not name.endswith(ROPE_PAIRS)
        else (torch.arange(shape[1], dtype=torch.int32) + plan.head_dim // 2 - shape[1]).repeat(shape[0], 1)
        for name, shape in tensor_shapes(plan).items()
    } | changed
    save_file(tensors, directory / "model.safetensors")
    return Checkpoint.open(directory)


def sources_of(plan: WidthPlan) -> dict:
    """The definition's parameters, written out: qkv by virtual KV layer, gate before up, the rest as it is."""

    def interleave(groups):
        def join(q, k, v):
            parts = (np.split(rows, groups) for rows in (q, k, v))
            return np.concatenate([part for triple in zip(*parts, strict=True) for part in triple])

        return join

    def alone(rows):
        return rows

    def concatenate(*rows):
        return np.concatenate(rows)

    sources = {"model.embed_tokens.weight": (("model.embed_tokens.weight",), alone)}
    for index in range(plan.num_hidden_layers):
        prefix = f"model.layers.{index}."
        for kind in ("weight", "bias") if plan.attention_bias else ("weight",):
            names = tuple(f"{prefix}self_attn.{part}_proj.{kind}" for part in "qkv")
            sources[f"{prefix}self_attn.qkv_proj.{kind}"] = (names, interleave(plan.virtual_layers[index]))
            sources[f"{prefix}self_attn.o_proj.{kind}"] = ((f"{prefix}self_attn.o_proj.{kind}",), alone)
            names = tuple(f"{prefix}mlp.{part}_proj.{kind}" for part in ("gate", "up"))
            sources[f"{prefix}mlp.gate_up_proj.{kind}"] = (names, concatenate)
            sources[f"{prefix}mlp.down_proj.{kind}"] = ((f"{prefix}mlp.down_proj.{kind}",), alone)
        if f"{prefix}{ROPE_PAIRS}" in tensor_shapes(plan):
            sources[f"{prefix}{ROPE_PAIRS}.indices"] = ((f"{prefix}{ROPE_PAIRS}",), alone)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            sources[f"{prefix}{norm}.weight"] = ((f"{prefix}{norm}.weight",), alone)
    sources["model.norm.weight"] = (("model.norm.weight",), alone)
    if not plan.tie_word_embeddings:
        sources["lm_head.weight"] = (("lm_head.weight",), alone)
    return sources


def converted(directory, checkpoint: Checkpoint, name: str) -> ShardReader:
    directory.mkdir()
    stored = convert(checkpoint, sources_of(checkpoint.plan), QUANTIZATIONS[name], directory)
    assert stored == costs.weight_bytes(checkpoint.plan, QUANTIZATIONS[name])
    return ShardReader(directory)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_shard_bytes_equal_the_cost_formula(tmp_path, name, tied, biases):
    checkpoint = write_checkpoint(tmp_path / "model", odd_plan(tied, biases))
    reader = converted(tmp_path / "out", checkpoint, name)
    expected = []
    for parameter, (parts, _) in sources_of(checkpoint.plan).items():
        packed = QUANTIZATIONS[name].bits and len(tensor_shapes(checkpoint.plan)[parts[0]]) == 2
        packed = packed and not parts[0].endswith(ROPE_PAIRS)
        prefix = parameter.removesuffix("weight")
        expected += [f"{prefix}q_weight", f"{prefix}q_scale"] if packed else [parameter]
    assert reader.names() == expected


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_restores_every_tensor_within_its_quantization(tmp_path, name):
    quantization = QUANTIZATIONS[name]
    checkpoint = write_checkpoint(tmp_path / "model", odd_plan(tied=False, biases=True))
    reader = converted(tmp_path / "out", checkpoint, name)
    shapes = tensor_shapes(checkpoint.plan)
    restored = dict(restore(reader, sources_of(checkpoint.plan), shapes, quantization))
    assert set(restored) == set(checkpoint.tensor_names())
    for tensor_name, tensor in restored.items():
        original = checkpoint.tensor(tensor_name)
        if tensor_name.endswith(ROPE_PAIRS):
            assert tensor.dtype == torch.int32 and torch.equal(tensor, original)
            continue
        assert tensor.dtype == torch.float32 and tensor.shape == original.shape
        expected = original.float()
        if quantization.bits and original.ndim == 2:
            # Rows are quantized by themselves, so joining first and splitting after changes nothing.
            packed = quantize(original, quantization)
            expected = torch.from_numpy(w4.dequantize(*packed, quantization, original.shape[1])).float()
        # The scales of q4f32_1 are rounded once more, to bf16.
        torch.testing.assert_close(tensor, expected, rtol=2**-8 if name == "q4f32_1" else 1e-6, atol=1e-6)


@given(
    groups=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    ratio=st.integers(1, 3),
    pairs=st.integers(1, 4),
    v_dims=st.integers(1, 8),
    intermediate=st.integers(1, 70),
    name=st.sampled_from(sorted(QUANTIZATIONS)),
)
@settings(max_examples=25)
def test_weight_bytes_are_exact_for_any_widths(tmp_path_factory, groups, ratio, pairs, v_dims, intermediate, name):
    layers = tuple(
        LayerWidths(count * ratio, count, 2 * pairs, v_dims, intermediate + index) for index, count in enumerate(groups)
    )
    plan = WidthPlan(40, 24, True, False, False, layers, head_dim=8)
    directory = tmp_path_factory.mktemp("widths")
    converted(directory / "out", write_checkpoint(directory / "model", plan), name)


def test_checkpoints_of_mixed_dtypes_join(tmp_path):
    plan = odd_plan()
    name = "model.layers.0.self_attn.k_proj.weight"
    changed = {name: torch.randn(tensor_shapes(plan)[name], generator=torch.Generator().manual_seed(3))}
    checkpoint = write_checkpoint(tmp_path / "model", plan, **changed)
    reader = converted(tmp_path / "out", checkpoint, "q0f16")
    restored = dict(restore(reader, sources_of(plan), tensor_shapes(plan), QUANTIZATIONS["q0f16"]))
    torch.testing.assert_close(restored[name], changed[name], rtol=2**-10, atol=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
@pytest.mark.parametrize("name", ["q4f16_0", "q0f16"])
def test_a_weight_that_fp16_cannot_hold_is_named(tmp_path, name, value):
    plan = odd_plan()
    bad = torch.ones(tensor_shapes(plan)["model.layers.1.mlp.up_proj.weight"])
    bad[1, 3] = value
    checkpoint = write_checkpoint(tmp_path / "model", plan, **{"model.layers.1.mlp.up_proj.weight": bad})
    (tmp_path / "out").mkdir()
    with pytest.raises(EdgeTransactError, match=r"model\.layers\.1\.mlp\.gate_up_proj\.weight: .*float16"):
        convert(checkpoint, sources_of(plan), QUANTIZATIONS[name], tmp_path / "out")


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_block_size_does_not_change_bytes(tmp_path, monkeypatch, name):
    checkpoint = write_checkpoint(tmp_path / "model", odd_plan(tied=False, biases=True))
    converted(tmp_path / "whole", checkpoint, name)
    # A few rows of every matrix, and chunks of a row, in threads.
    monkeypatch.setattr("edge_transact.weights.convert.BLOCK_BYTES", 600)
    monkeypatch.setattr("edge_transact.weights.w4._CHUNK_WEIGHTS", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        converted(tmp_path / "parts", checkpoint, name)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "parts").iterdir())
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
