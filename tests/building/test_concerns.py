"""What a build is warned of before the work, with what to do about it."""

from __future__ import annotations

import re

import pytest

from edge_transact import costs
from edge_transact.building.concerns import APP_MEMORY_GIB, concerns
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.widths import LayerWidths, WidthPlan

SIZES = {"context_window_size": 2048, "prefill_chunk_size": 128, "max_batch_size": 1}


def llama(layers: int = 32, hidden: int = 4096, intermediate: int = 11008) -> WidthPlan:
    """LLaMA-2-7B's shape, or one like it."""
    widths = LayerWidths(hidden // 128, hidden // 128, 128, 128, intermediate)
    return WidthPlan(hidden, 32000, False, False, False, (widths,) * layers)


def found(plan: WidthPlan, quantization: str, *targets: str, **sizes: int) -> str:
    return "\n".join(concerns(plan, QUANTIZATIONS[quantization], targets, **SIZES | sizes))


def test_a_profile_that_no_library_asks_for():
    small = llama(layers=2)
    said = concerns(small, QUANTIZATIONS["q4f16_0"], ["iphone"], **SIZES, device_profile="adreno-750")
    assert len(said) == 1 and said[0].startswith("--device-profile adreno-750")
    assert concerns(small, QUANTIZATIONS["q4f16_0"], ["android"], **SIZES, device_profile="adreno-750") == []


@pytest.mark.parametrize("target", ["android", "android-cpu", "iphone"])
def test_a_model_larger_than_a_phones_memory(target):
    assert "more than the 4.29 GB" in found(llama(), "q4f16_0", target)
    assert found(llama(), "q4f32_1", "host") == ""
    assert found(llama(hidden=2048, intermediate=5504), "q4f16_0", target) == ""


def test_memory_counts_the_kv_cache_of_the_context_and_of_every_sequence():
    plan = llama(hidden=2048, intermediate=5504)
    kv = costs.kv_bytes_per_token(plan, QUANTIZATIONS["q4f16_0"])
    context = (APP_MEMORY_GIB << 30) // kv
    assert "--context" in found(plan, "q4f16_0", "android", context_window_size=context)
    assert "--max-batch" in found(plan, "q4f16_0", "android", context_window_size=context // 8, max_batch_size=8)
    assert found(plan, "q4f16_0", "android", context_window_size=context // 8) == ""


def test_the_suggested_context_fits():
    plan = llama(hidden=2048, intermediate=5504)
    said = found(plan, "q4f16_0", "android", context_window_size=1 << 20)
    largest = int(re.search(r"--context (\d+)", said)[1])
    assert found(plan, "q4f16_0", "android", context_window_size=largest) == ""
    assert "more than" in found(plan, "q4f16_0", "android", context_window_size=largest + 1)
    assert "no context fits" in found(llama(layers=64), "q4f16_0", "android")


@pytest.mark.parametrize(
    ("quantization", "target", "says"),
    [
        ("q4f16_1", "android", "slow on Adreno"),
        ("q4f32_1", "android", "twice the bytes"),
        ("q0f16", "android", "unquantized"),
        ("q0f32", "android-cpu", "unquantized"),
        ("q4f16_1", "iphone", ""),
        ("q4f16_0", "android", ""),
        ("q0f32", "host", ""),
    ],
)
def test_quantizations_that_are_slow_on_a_target(quantization, target, says):
    warned = found(llama(layers=2, hidden=512, intermediate=1024), quantization, target)
    assert (says in warned and "--quant q4f16_0" in warned) if says else warned == ""
