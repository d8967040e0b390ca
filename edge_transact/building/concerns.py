"""Warnings about builds that will disappoint on a phone. They don't stop the build."""

from __future__ import annotations

from collections.abc import Sequence

from edge_transact import costs
from edge_transact.compiler.gpu.devices import GENERIC
from edge_transact.formatting import megabytes
from edge_transact.quantization import QUANTIZATIONS, Quantization
from edge_transact.widths import WidthPlan

PHONE_TARGETS = ("android", "android-cpu", "android-x86_64", "iphone")

APP_MEMORY_GIB = 4
"""Memory that an app can rely on: half of a phone's 8 GiB."""


def concerns(
    plan: WidthPlan,
    quantization: Quantization,
    targets: Sequence[str],
    *,
    context_window_size: int,
    prefill_chunk_size: int,
    max_batch_size: int,
    device_profile: str = GENERIC.name,
    cpu: str | None = None,
) -> list[str]:
    """The warnings, one sentence each that says what to do about it."""
    found = []
    phones = [target for target in targets if target in PHONE_TARGETS]
    weights = costs.loaded_weight_bytes(plan, quantization)
    kv = costs.engine_kv_bytes(plan, quantization, context_window_size, max_batch_size)
    fixed = weights + costs.workspace_bytes(plan, quantization, prefill_chunk_size, max_batch_size)
    total = fixed + kv
    if phones and total > APP_MEMORY_GIB << 30:
        per_token = costs.kv_bytes_per_token(plan, quantization)
        largest = costs.largest_context((APP_MEMORY_GIB << 30) - fixed, per_token, max_batch_size)
        found.append(
            f"{megabytes(total)} at {context_window_size} tokens (weights {megabytes(weights)}, KV cache "
            f"{megabytes(kv)}) is more than the {megabytes(APP_MEMORY_GIB << 30)} that an app gets on a phone with "
            f"{2 * APP_MEMORY_GIB} GB: {_remedy(largest)}"
        )
    if "android" not in targets and device_profile != GENERIC.name:
        found.append(f"--device-profile {device_profile} says what GPUs android libraries are for, and none is built")
    if "host" not in targets and cpu is not None:
        found.append(f"--cpu {cpu} says what CPU a host library is for, and none is built")
    if "android" in targets and quantization.name == "q4f16_1":
        found.append(
            "q4f16_1 is slow on Adreno GPUs (prefill of 1 token/s instead of 110 with q4f16_0, "
            "mlc-ai/mlc-llm#3379): use --quant q4f16_0"
        )
    if "android" in targets and quantization.model_dtype == "float32":
        found.append(
            f"{quantization.name} computes in float32, and its KV cache takes twice the bytes: on a phone's GPU use "
            "--quant q4f16_0"
        )
    if phones and quantization.bits is None:
        smaller = costs.loaded_weight_bytes(plan, QUANTIZATIONS["q4f16_0"])
        found.append(
            f"{quantization.name} keeps the weights unquantized, and every token reads all of them: "
            f"{megabytes(weights)} instead of {megabytes(smaller)} with --quant q4f16_0"
        )
    return found


def _remedy(largest: int) -> str:
    if largest < 1:
        return "no context fits; prune more (--ratio), or lower --max-batch"
    return f"use --context {largest}, the largest that fits; or prune more (--ratio), or lower --max-batch"
