"""Checks of a library against what a phone's GPU has: buffers, threads of a work group, local memory."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import tvm
from tvm import IRModule, relax, tirx
from tvm.tirx.buffer import BufferType

from edge_transact import costs
from edge_transact.compiler.gpu.devices import DEVICES, Device
from edge_transact.compiler.launches import launches
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.passes.calls import calls_of
from edge_transact.errors import EdgeTransactError, UsageError

if TYPE_CHECKING:
    from edge_transact.definition import Definition
    from edge_transact.quantization import Quantization
    from edge_transact.widths import WidthPlan


def require_model(device: Device, plan: WidthPlan, definition: Definition, quantization: Quantization) -> None:
    """Check the buffers of a model that MLC's runtime allocates, before anything is built.

    They are one for each parameter and one for each layer of the KV cache (``pages_`` of `PagedAttentionKVCacheObj` in
    TVM's ``runtime/vm/paged_kv_cache.cc``).

    Args:
        device: The GPU.
        plan: The model's widths.
        definition: Its configuration has the library's context window and batch.
        quantization: The format of weights and cache.

    Raises:
        EdgeTransactError: A parameter is larger than the GPU's largest buffer.
        UsageError: A layer of the cache is. The message has the largest context that fits.
    """
    model = quantize_modules(definition.model(), quantization, quantization.model_dtype)
    for name, parameter in model.named_parameters():
        nbytes = _bytes(parameter.shape, parameter.dtype)
        _require_buffer(
            device, name, nbytes, "Use fewer bits (--quant), or a smaller vocabulary if it is the embedding"
        )
    context, sequences = definition.config.context_window_size, definition.config.max_batch_size
    nbytes = costs.kv_cache_bytes(plan, quantization, context, sequences) // plan.num_virtual_layers
    if nbytes > device.max_allocation_bytes:
        page = costs.PAGE_SIZE * costs.kv_bytes_per_token(plan, quantization) // plan.num_virtual_layers
        # The cache has one page more than its tokens need.
        largest = (device.max_allocation_bytes // page - 1) * costs.PAGE_SIZE // sequences
        fix = f"Use --context {largest}, the largest that fits" if largest > 0 else "Lower --max-batch: no context fits"
        what = f"a layer of the KV cache, for {sequences} x {context} tokens"
        raise UsageError(_too_large(device, what, nbytes), fix=fix + _others("max_allocation_bytes", nbytes))


def require_buffers(device: Device, mod: IRModule) -> None:
    """Check the buffers that functions allocate, and those of kernels whose sizes are fixed.

    Args:
        device: The GPU.
        mod: The module once memory is planned.

    Raises:
        EdgeTransactError: One is larger than the GPU's largest buffer.
    """
    for var, function in mod.functions_items():
        if isinstance(function, relax.Function):
            for call in calls_of(function, "relax.memory.alloc_storage"):
                what = f"what {var.name_hint} allocates at once"
                _require_buffer(
                    device, what, _bytes(call.args[0].values, "uint8"), "Lower --prefill-chunk or --max-batch"
                )
        elif isinstance(function, tirx.PrimFunc):
            for buffer in (parameter for parameter in function.params if isinstance(parameter.ty, BufferType)):
                nbytes, fix = _bytes(buffer.shape, buffer.dtype), "Quantize the weights (--quant q4f16_0)"
                _require_buffer(device, f"buffer {buffer.name} of kernel {var.name_hint}", nbytes, fix)


def require_launches(device: Device, mod: IRModule) -> None:
    """Check what the work groups of each kernel take.

    Args:
        device: The GPU.
        mod: `lowering.Lowered.mod`.

    Raises:
        EdgeTransactError: A kernel has more threads in a work group than the GPU allows, or more local memory.
    """
    for var, function in mod.functions_items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        for kernel in launches(function).kernels:
            _require_of_group(device, var.name_hint, "threads", prod(kernel.threads({})), "max_threads")
            _require_of_group(device, var.name_hint, "bytes of local memory", kernel.local_bytes, "local_bytes")


def _require_of_group(device: Device, kernel: str, unit: str, needed: int, figure: str) -> None:
    allowed = getattr(device, figure)
    if needed > allowed:
        fix = "Build in fp16 (--quant q4f16_0), whose kernels take less" + _others(figure, needed)
        raise EdgeTransactError(
            f"a work group of kernel {kernel} takes {needed:,} {unit}, and --device-profile {device.name} allows "
            f"{allowed:,}",
            fix=fix,
        )


def _bytes(shape: list[tirx.Expr], dtype: str) -> int:
    """Bytes of a buffer; none if its size isn't fixed, which then is that of a parameter or of what is allocated."""
    if not all(isinstance(size, int | tirx.IntImm) for size in shape):
        return 0
    kind = tvm.DataType(dtype)
    return prod(map(int, shape)) * ((kind.bits * kind.lanes + 7) // 8)


def _require_buffer(device: Device, what: str, nbytes: int, fix: str) -> None:
    if nbytes > device.max_allocation_bytes:
        raise EdgeTransactError(_too_large(device, what, nbytes), fix=fix + _others("max_allocation_bytes", nbytes))


def _too_large(device: Device, what: str, nbytes: int) -> str:
    return (
        f"{what} takes {nbytes / 2**20:,.1f} MiB, and --device-profile {device.name} allows "
        f"{device.max_allocation_bytes / 2**20:,.1f} MiB in one buffer"
    )


def _others(figure: str, needed: int) -> str:
    """The end of a fix: the profiles that allow what is needed."""
    names = [name for name, device in DEVICES.items() if getattr(device, figure) >= needed]
    return f", or build for a GPU that has more: --device-profile {' or '.join(names)}." if names else "."
