"""A profile prices plans between its points, and refuses what it wasn't measured for."""

import json
import math
from dataclasses import replace

import pytest

from edge_transact import costs
from edge_transact.costs.profile import LAUNCHES, Kernel, Profile, Rates, read_profile, roofline, shape_of
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan

WIDEST = LayerWidths(8, 4, 16, 16, 128)
PLAN = WidthPlan(64, 500, True, False, False, (WIDEST,) * 4)
Q4 = get_quantization("q4f32_1")
NO_ATTENTION, NO_MLP = LayerWidths(0, 0, 0, 0, 128), replace(WIDEST, intermediate_size=0)


def kernel(module: str, width: int, seconds: float, phase: str = "decode", **fields: float) -> Kernel:
    return Kernel(module=module, phase=phase, width=width, seconds=seconds, **fields)


def profile(*kernels: Kernel, **fields: object) -> Profile:
    return Profile(
        **{
            "device": {"name": "host"},
            "target": "host",
            "quantization": "q4f32_1",
            "library": {},
            "is_measured": True,
            "prefill_chunk": 32,
            "contexts": [64, 256],
            "model": shape_of(PLAN),
            "widest": vars(WIDEST),
            "kernels": list(kernels),
            **fields,
        }
    )


ATTENTION = [
    kernel("attention", heads, 10.0 + heads * dim * context, head_dim=dim, context=context)
    for heads in (1, 4)
    for dim in (8, 16)
    for context in (64, 256)
]


def test_a_token_is_the_sum_of_its_parts_between_points():
    of_mlp = [kernel("mlp", 32, 1.0), kernel("mlp", 64, 1.5), kernel("mlp", 128, 3.5)]
    measured = profile(kernel("model", 0, 100.0), *of_mlp, *ATTENTION)
    # 96 lies between the points 64 and 128; 16 and 192 on the lines beyond.
    for size, seconds in ((64, 1.5), (96, 2.5), (16, 0.75), (192, 5.5)):
        plan = PLAN.with_layers([replace(WIDEST, intermediate_size=size)])
        assert measured.decode_s(plan, 160) == pytest.approx(100 + seconds + 10 + 4 * 16 * 160)


def test_layers_of_other_heads_call_attention_more_often():
    measured = profile(*ATTENTION)
    narrow = replace(WIDEST, num_attention_heads=2, num_key_value_heads=1)
    assert measured.decode_s(PLAN, 64) == pytest.approx(4 * (10 + 4 * 16 * 64))
    # Two calls of one KV head for each of the heads: 4 + 1 calls.
    assert measured.decode_s(PLAN.with_layers([WIDEST, narrow]), 64) == pytest.approx(5 * (10 + 16 * 64))


def test_a_layer_without_attention_or_mlp_takes_no_time():
    measured = profile(kernel("model", 0, 100.0), kernel("mlp", 32, 1.0), kernel("mlp", 128, 1.0), *ATTENTION)
    call = 10 + 4 * 16 * 64
    assert measured.decode_s(PLAN.with_layers([NO_ATTENTION, NO_MLP]), 64) == pytest.approx(100 + 1 + call)
    gone = replace(NO_ATTENTION, intermediate_size=0)
    plan = PLAN.with_layers([NO_ATTENTION, NO_MLP, gone])
    assert measured.decode_s(plan, 64) == measured.decode_s(PLAN.with_layers([NO_ATTENTION, NO_MLP]), 64)


def test_a_prompt_is_computed_in_chunks():
    rows = [kernel("mlp", 128, float(tokens), "prefill", tokens=tokens) for tokens in (8, 32)]
    after = [
        kernel("attention", 4, tokens * context / 1000, "prefill", head_dim=16, tokens=tokens, context=context)
        for tokens in (8, 32)
        for context in (0, 256)
    ]
    one = PLAN.with_layers([WIDEST])
    assert profile(*rows, *after).prefill_s(one, 80) == pytest.approx(80 + (32 * 32 + 16 * 64) / 1000)
    assert profile(*rows, *after).prefill_s(one, 32, past=10) == pytest.approx(32 + 32 * 10 / 1000)


def test_a_roofline_is_what_costs_count():
    """Without launches, decode reads the bytes that `costs` counts, and prefill computes its FLOPs."""
    plan = PLAN.with_layers([WIDEST, replace(WIDEST, intermediate_size=96), NO_ATTENTION, NO_MLP])
    made = {"target": "host", "contexts": [64, 256], "prefill_chunk": 32}
    slow_memory = roofline(plan, Q4, Rates(1e3, 1e15, 0.0), **made)
    read = costs.decode_read_bytes(plan, Q4, 101) - 4 * 64 * 9
    assert slow_memory.decode_s(plan, 100) == pytest.approx(read / 1e3, rel=0.02)  # apart from some norms
    slow_arithmetic = roofline(plan, Q4, Rates(1e15, 1e3, 0.0), **made)
    assert slow_arithmetic.prefill_s(plan, 32, 64) == pytest.approx(costs.prefill_flops(plan, 32, 64) / 1e3)
    launches = roofline(plan, Q4, Rates(1e15, 1e15, 1.0), **made).decode_s(plan, 64)
    of_layers = 3 * LAUNCHES["mlp"] + 3 * sum(LAUNCHES[name] for name in ("qkv_proj", "o_proj", "attention"))
    assert launches == pytest.approx(LAUNCHES["model"] + of_layers)
    assert not slow_memory.is_measured


def test_what_a_profile_refuses():
    measured = profile(kernel("model", 0, 1.0, spread_s=0.04), *(each for each in ATTENTION))
    measured.check(PLAN, "q4f32_1", [256])
    wider = PLAN.with_layers([replace(WIDEST, intermediate_size=160)])
    for plan, quantization, contexts, said in (
        (PLAN, "q4f16_1", [64], r"q4f32_1.*q4f16_1"),
        (replace(PLAN, hidden_size=96), "q4f32_1", [64], r"hidden_size is 64.*96"),
        (replace(PLAN, attention_bias=True), "q4f32_1", [64], r"attention_bias is False.*True"),
        (wider, "q4f32_1", [64], r"intermediate_size 128.*160"),
        (PLAN, "q4f32_1", [64, 512], r"context of 512 .*256"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            measured.check(plan, quantization, contexts)
        assert caught.value.fix


def test_a_noisy_profile_names_its_kernels():
    noisy = profile(
        kernel("model", 0, 1.0), kernel("mlp", 128, 1.0, spread_s=0.5), kernel("o_proj", 128, 1e-3, spread_s=1e-3)
    )
    with pytest.raises(UsageError, match=r"mlp \(±40% of a token\)$") as caught:
        noisy.check(PLAN, "q4f32_1", [64])
    assert "--repetitions" in caught.value.fix


def test_a_profile_is_read_again_as_it_was_written(tmp_path):
    path, measured = tmp_path / "profile.json", profile(kernel("model", 0, 1.0), *ATTENTION)
    path.write_text(measured.model_dump_json())
    assert read_profile(path) == measured
    with pytest.raises(UsageError, match="does not exist"):
        read_profile(tmp_path / "none.json")
    content = json.loads(path.read_text())
    damaged = [
        path.read_text()[:-20],
        "[]",
        json.dumps({**content, "version": 2}),
        json.dumps({**content, "kernels": [{**content["kernels"][0], "seconds": -1}]}),
        json.dumps({**content, "kernels": [{**content["kernels"][0], "seconds": math.nan}]}),
        json.dumps({**content, "kernels": []}),
    ]
    for text in damaged:
        path.write_text(text)
        with pytest.raises(EdgeTransactError, match=r"profile\.json"):
            read_profile(path)
