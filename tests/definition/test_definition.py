"""The emitted definition: readable, in MLC's idiom, and the same widths as the plan's."""

import ast
import gc
import linecache
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.definition import load, render
from edge_transact.errors import EdgeTransactError
from edge_transact.widths import ACTIVATIONS, LayerWidths, WidthPlan
from tests.support.definitions import config_of
from tests.support.definitions import emit as emit_with


def a_plan(
    groups, intermediates, *, q_per_kv=2, head_dim=8, own_dims=None, tied=False, bias=False, **others
) -> WidthPlan:
    """`own_dims`: `qk_head_dim` and `v_head_dim` of the first layer; `others`: what other families than LLaMA have."""
    dims = [own_dims or (head_dim, head_dim)] + [(head_dim, head_dim)] * len(groups)
    layers = tuple(
        LayerWidths(n * q_per_kv, n, *qk_v, m) for n, qk_v, m in zip(groups, dims, intermediates, strict=False)
    )
    return WidthPlan(32, 50, tied, bias, bias, layers, head_dim, **others)


def emit(directory, plan: WidthPlan, **other):
    return emit_with(directory, plan, config_of(plan) | other)


def imports(text: str) -> set[str]:
    """The top-level packages that a file imports; a relative import is ``.``."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add("." if node.level else node.module.split(".")[0])
    return found


def test_only_the_loader_and_the_registration_need_mlc():
    files = render(a_plan([2, 1], [24, 40]))
    standard = {"dataclasses", "json", "math", "pathlib", "typing"}
    assert imports(files["edge_llama_model.py"]) - standard == {"tvm", "numpy"}
    for name in ("edge_llama_loader.py", "edge_llama_register.py"):
        assert "mlc_llm" in imports(files[name])


def test_the_file_shows_the_widths():
    text = render(a_plan([2, 2, 1], [24, 24, 40]))["edge_llama_model.py"]
    rows = [line.split() for line in ast.get_docstring(ast.parse(text)).splitlines()]
    assert ["0-1", "4", "2", "8", "24"] in rows and ["2", "2", "1", "8", "40"] in rows
    text = render(a_plan([2, 2], [24, 24], own_dims=(6, 5)))["edge_llama_model.py"]
    rows = [line.split() for line in ast.get_docstring(ast.parse(text)).splitlines()]
    assert ["0", "4", "2", "6", "5", "24"] in rows and ["1", "4", "2", "8", "8", "24"] in rows


def test_without_cut_head_dims_the_cache_applies_rope():
    text = render(a_plan([2, 1], [24, 40]))["edge_llama_model.py"]
    assert "RopeMode.NORMAL" in text and "rope_pairs" not in text and "qk_head_dim:" not in text
    text = render(a_plan([2, 1], [24, 40], own_dims=(6, 8)))["edge_llama_model.py"]
    assert "RopeMode.NONE" in text and "rope_pairs" in text
    for others in ({"nope_layers": (1,)}, {"rope_type": "yarn"}, {"rotary_dim": 6}):
        assert "RopeMode.NONE" in render(a_plan([2, 1], [24, 40], **others))["edge_llama_model.py"]


groups = st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any)
plans = st.builds(
    a_plan,
    st.shared(groups, key="n"),
    st.shared(groups, key="n").flatmap(
        lambda n: st.lists(st.integers(0, 70), min_size=len(n), max_size=len(n)).filter(any)
    ),
    q_per_kv=st.integers(1, 3),
    own_dims=st.none() | st.tuples(st.sampled_from([2, 4, 6, 8]), st.integers(1, 8)),
    tied=st.booleans(),
    bias=st.booleans(),
    attention_out_bias=st.none() | st.booleans(),
    nope_layers=st.sampled_from([(), (0,)]),
    hidden_act=st.sampled_from(ACTIVATIONS),
    use_output_norms=st.booleans(),
)
plans |= plans.filter(lambda plan: not any(map(plan.has_rope_pairs, plan.layers))).map(
    lambda plan: replace(plan, use_qk_norm=True)
)


@settings(max_examples=25)
@given(plan=plans)
def test_parameters_have_the_plans_shapes_and_all_tensors(tmp_path_factory, plan):
    definition = emit(tmp_path_factory.mktemp("definition"), plan)
    model = definition.model()
    parameters = dict(model.state_dict())
    sources = definition.parameter_sources()
    assert list(sources) == list(parameters)
    shapes = tensor_shapes(plan)
    assert sorted(name for names, _ in sources.values() for name in names) == sorted(shapes)
    for name, (names, join) in sources.items():
        joined = join(*(np.zeros(shapes[part], "int16") for part in names))
        assert list(joined.shape) == [int(size) for size in parameters[name].shape]
        assert joined.dtype == np.int16
    config = definition.config
    if plan.has_own_head_dims:
        assert plan.cache_head_dim == definition.module.CACHE_HEAD_DIM
        model.to("float16")
        assert {str(p.dtype) for name, p in parameters.items() if "rope_pairs" in name} <= {"int32"}
    assert config.num_virtual_layers == plan.num_virtual_layers
    assert plan.virtual_num_key_value_heads == definition.module.VIRTUAL_NUM_KEY_VALUE_HEADS


def test_qkv_rows_are_grouped_by_virtual_layer(tmp_path):
    plan = a_plan([4, 2], [8, 8], head_dim=2)  # two KV heads a virtual layer, four query heads
    join = emit(tmp_path / "d", plan).parameter_sources()["model.layers.0.self_attn.qkv_proj.weight"][1]
    q, k, v = np.arange(16), np.arange(100, 108), np.arange(200, 208)
    expected = [*q[:8], *k[:4], *v[:4], *q[8:], *k[4:], *v[4:]]
    assert join(q[:, None], k[:, None], v[:, None])[:, 0].tolist() == expected


SCALED = {
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0},
    "yarn, all fields": {
        "factor": 40, "beta_fast": 20, "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 1.0, "truncate": False,
    },
    "yarn, one pair": {"factor": 2.0, "beta_fast": 5, "beta_slow": 5, "attention_factor": 0.9},
    "longrope": {"factor": 16.0, "short_factor": [1.0 + i / 9 for i in range(32)], "long_factor": [*range(1, 33)]},
}  # fmt: skip


@pytest.mark.parametrize("partial", [1.0, 0.75])
@pytest.mark.parametrize("scaled", [None, *SCALED])
def test_rope_frequencies_equal_those_of_transformers(tmp_path, scaled, partial):
    from transformers import Phi3Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

    rope_type, rotary_dim = (scaled or "default").split(",")[0], int(64 * partial)
    scaling = {"rope_type": rope_type, "original_max_position_embeddings": 512, **SCALED[scaled]} if scaled else None
    for name in ("short_factor", "long_factor") if rope_type == "longrope" else ():
        scaling[name] = scaling[name][: rotary_dim // 2]
    config = Phi3Config(hidden_size=512, num_attention_heads=8, original_max_position_embeddings=512)
    config.rope_parameters |= {**(scaling or {}), "rope_theta": 1e5, "partial_rotary_factor": partial}
    formula = ROPE_INIT_FUNCTIONS.get(rope_type, Phi3RotaryEmbedding.compute_default_rope_parameters)
    plan = a_plan([2, 1], [24, 40], head_dim=64, own_dims=(6, 5), rope_type=rope_type, rotary_dim=rotary_dim)
    for context in (512, 513):
        definition = emit(tmp_path / "d", plan, rope_theta=1e5, rope_scaling=scaling, context_window_size=context)
        want, factor = formula(config, "cpu", seq_len=context)
        want = np.pad(want.numpy(), (0, 32 - len(want)))
        np.testing.assert_allclose(definition.config.rope_frequencies, want, rtol=1e-6)
        rope = definition.model().model.rope
        factors = np.where(want > 0, factor, 1)
        np.testing.assert_allclose(getattr(rope, "factors", np.ones(32)), factors, rtol=1e-6)


@pytest.mark.parametrize(
    ("own_dims", "head_dim", "dims", "rope"),
    [(None, 8, 8, 1), ((6, 8), 8, 8, 0), ((6, 20), 64, 64, 0)],
    ids=["whole heads", "own dims", "wide heads"],
)
def test_mlcs_generic_call_creates_the_cache(tmp_path, own_dims, head_dim, dims, rope):
    import tvm

    plan = a_plan([2, 0, 1], [24, 40, 0], own_dims=own_dims, head_dim=head_dim)
    definition = emit(tmp_path / "d", plan, rope_theta=5e4)
    model = definition.model()
    mod, _, _ = model.export_tvm(spec=model.get_default_spec(), allow_extern=True)
    calls = []

    def visit(expr):
        if isinstance(expr, tvm.relax.Call) and getattr(expr.args[0] if expr.args else None, "global_symbol", None):
            calls.append(expr)

    tvm.relax.analysis.post_order_visit(mod["create_paged_kv_cache"].body, visit)
    (call,) = calls
    assert call.args[0].global_symbol == "mlc.create_paged_kv_cache_generic"
    assert len(call.args) == 1 + 18
    layers, heads, kv_heads, qk, v = (call.args[i].value for i in range(4, 9))
    assert (layers, heads, kv_heads, qk, v) == (3, 2, 1, dims, dims)
    assert call.args[11].value == rope
    assert call.args[13].value == 5e4


def test_the_first_layers_alone(tmp_path):
    definition = emit(tmp_path / "d", a_plan([2, 1, 2], [24, 40, 8])).truncated(2)
    assert [layer.intermediate_size for layer in definition.config.layers] == [24, 40]


def test_layer_indices_padded_with_zeros(tmp_path):
    """Filled up with zeros to the length of the longest."""
    from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig

    plan = a_plan([1, 2] * 6, list(range(8, 8 + 12)))
    config = config_of(plan)
    kept = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
    layers = EdgeLlamaConfig(**{key: config[key] for key in (*kept, "hidden_size", "per_layer_config")})
    written = layers.to_dict()["per_layer_config"]
    definition = emit(tmp_path / "d", plan, per_layer_config=written)
    for layer, (heads, width) in zip(definition.config.layers, zip([1, 2] * 6, range(8, 20), strict=True), strict=True):
        assert (layer.num_key_value_heads, layer.intermediate_size) == (heads, width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_layer_config": {"7": {"intermediate_size": 8}}}, "layer 7"),
        ({"per_layer_config": {"0": {"num_attention_heads": 3}}}, "query heads per KV head"),
        ({"per_layer_config": {"0": {"num_attention_heads": 0}}}, "both query heads and KV heads, or neither"),
        ({"per_layer_config": {"0": {"num_key_value_heads": 0}}}, "both query heads and KV heads, or neither"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
        ({"context_window_size": 0, "max_position_embeddings": 0}, "context_window_size"),
        ({"tensor_parallel_shards": 2}, "tensor_parallel_shards"),
    ],
)
def test_a_contradictory_configuration_is_refused(tmp_path, change, message):
    with pytest.raises(EdgeTransactError, match=message):
        emit(tmp_path / "d", a_plan([2, 1], [24, 40]), **change)


def test_a_process_that_loads_many_definitions_keeps_the_latest():
    def sources() -> set[str]:
        gc.collect()
        return {file for file in linecache.cache if "edge_transact_emitted" in file}

    others = sources()
    for plan in (a_plan([2], [width]) for width in range(8, 108)):
        assert load(plan, config_of(plan)).model() is not None
    assert len(sources() - others) <= 8
