"""Q4_0 against gguf's own reader of it, and places against the permutation of llama.cpp's converter."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.errors import EdgeTransactError
from edge_transact.gguf import q4_0
from edge_transact.gguf.layout import places, put_columns
from edge_transact.widths import LayerWidths, WidthPlan


def test_q4_0_is_mlc_s_grid_for_every_code_and_scale():
    """All codes in all positions, with every fp16 scale but NaN and infinity."""
    scales = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    scales = scales[np.isfinite(scales)].reshape(-1, 2)
    codes = np.random.default_rng(0).integers(0, 16, (*scales.shape, 32), np.uint8)
    blocks = q4_0.pack(codes, scales)
    expected = (codes.astype(np.float32) - 7) * scales.astype(np.float32)[..., None]
    stored = gguf.dequantize(blocks.reshape(len(blocks), -1), gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(stored, expected.reshape(len(blocks), -1))
    again = q4_0.unpack(blocks)
    assert np.array_equal(again[0], codes) and again[1].tobytes() == scales.tobytes()


def test_a_scale_that_fp16_does_not_hold_is_refused():
    for scale in (1 / 3, 1e6, 1e-9):
        with pytest.raises(EdgeTransactError, match="fp16"):
            q4_0.pack(np.zeros((1, 1, 32), np.uint8), np.full((1, 1), scale, np.float32))


@st.composite
def plans(draw) -> WidthPlan:
    pairs, ratio = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    layer = st.builds(
        lambda groups, kept, v, dims: LayerWidths(groups * ratio, groups, 2 * kept, v, dims),
        st.integers(1, 4),
        st.integers(1, pairs),
        st.integers(1, 2 * pairs),
        st.integers(1, 70),
    )
    layers = draw(st.lists(layer, min_size=1, max_size=3))
    return WidthPlan(64, 10, False, True, True, tuple(layers), head_dim=2 * pairs)


@given(plans(), st.integers(0, 2**32 - 1))
def test_what_is_put_comes_back_and_the_rest_is_zero(plan, seed):
    rng = np.random.default_rng(seed)
    pairs = [
        np.stack([np.sort(rng.permutation(plan.head_dim // 2)[: layer.qk_head_dim // 2]) for _ in range(groups)])
        for layer in plan.layers
        for groups in [layer.num_key_value_heads]
    ]
    shapes = tensor_shapes(plan)
    for name, place in places(plan, pairs).items():
        tensor = rng.standard_normal(shapes[name])
        wide = tensor if tensor.ndim == 1 else put_columns(tensor, place.columns, place.shape[1])
        stored = place.put_rows(wide)
        assert stored.shape == place.shape
        assert np.count_nonzero(stored) == tensor.size
        taken = place.take_rows(stored)
        assert np.array_equal(taken if place.columns is None else taken[:, place.columns], tensor)
        if place.keeps_groups and place.columns is not None:
            groups = place.group_columns
            assert np.array_equal(place.columns.reshape(-1, 32), 32 * groups[:, None] + np.arange(32))


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 2), (3, 8), (8, 64)])
def test_whole_heads_are_permuted_as_llama_cpp_s_converter_does(heads, head_dim):
    plan = WidthPlan(16, 10, True, True, False, (LayerWidths(heads, heads, head_dim, head_dim, 5),))
    every = np.tile(np.arange(head_dim // 2), (heads, 1))
    place = places(plan, [every])["model.layers.0.self_attn.k_proj.weight"]
    tensor = np.random.default_rng(0).standard_normal((heads * head_dim, 16))
    expected = tensor.reshape(heads, 2, head_dim // 2, 16).swapaxes(1, 2).reshape(tensor.shape)
    assert place.name == "blk.0.attn_k.weight"
    assert np.array_equal(place.put_rows(tensor), expected)
