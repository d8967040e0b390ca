"""Checks of a library against a phone's GPU: size of buffers, threads of a work group, local memory."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import IRModule, tirx
from tvm.tirx.buffer import BufferType

from edge_transact import costs
from edge_transact.compiler.gpu.attention import LANES
from edge_transact.compiler.gpu.devices import DEVICES, Device
from edge_transact.compiler.launches import launches
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.passes.calls import calls_of, relax_functions
from edge_transact.errors import EdgeTransactError, UsageError

if TYPE_CHECKING:
    from edge_transact.definition import Definition
    from edge_transact.quantization import Quantization
    from edge_transact.widths import WidthPlan

_QUANTIZE = "Quantize the weights (--quant q4f16_0)"


def require_model(device: Device, plan: WidthPlan, definition: Definition, quantization: Quantization) -> None:
    """Raise an `EdgeTransactError` if a parameter or a layer of the KV cache exceeds the GPU's largest buffer."""
    model = quantize_modules(definition.model(), quantization, quantization.model_dtype)
    fix = _QUANTIZE if quantization.bits is None else "Use a model with a smaller vocabulary or hidden size"
    for name, parameter in model.named_parameters():
        _require_buffer(device, name, _bytes(parameter.shape, parameter.dtype), fix)
    context, sequences = definition.config.context_window_size, definition.config.max_batch_size
    nbytes = costs.engine_kv_bytes(plan, quantization, context, sequences) // plan.num_virtual_layers
    if nbytes > device.max_allocation_bytes:
        per_token = costs.kv_bytes_per_token(plan, quantization) // plan.num_virtual_layers
        largest = costs.largest_context(device.max_allocation_bytes, per_token, sequences)
        fix = f"Use --context {largest}, the largest that fits" if largest > 0 else "No context fits: lower --max-batch"
        what = f"a layer of the KV cache for {sequences} x {context} tokens"
        raise UsageError(_too_large(device, what, nbytes), fix=_remedy(fix, "max_allocation_bytes", nbytes))


def require_attention(plan: WidthPlan, target: tvm.target.Target, dtype: str) -> None:
    """Raise a `UsageError` unless TVM's attention kernels for a GPU (``tvm/relax/frontend/nn/llm``) compute all heads.

    Heads have to fill the tiles of a prefill, and a block of decode's threads must not skip query heads.
    """
    dim, group = plan.cache_head_dim, plan.q_per_kv
    fix = "Build for a CPU: --target host, or android-cpu."
    if 64 // np.dtype(dtype).itemsize * dim % 128:
        raise UsageError(f"TVM's attention on GPUs in {dtype} does not take heads of {dim} dims", fix=fix)
    if target.kind.name == "opencl" and dim % LANES == 0:
        return  # one token's kernel is ours
    threads, together = min(int(target.attrs["max_num_threads"]), 512), group
    while together > 1 and together * (dim // 4) > threads:
        together //= 2
    if group % together:
        raise UsageError(
            f"TVM's attention on {target.kind.name} does not take {group} query heads of {dim} dims for a KV head",
            fix=fix,
        )


def require_buffers(device: Device, mod: IRModule) -> None:
    """Raise an `EdgeTransactError` if a planned or a kernel's fixed buffer is larger than the GPU's largest one."""
    for var, function in relax_functions(mod):
        for call in calls_of(function, "relax.memory.alloc_storage"):
            nbytes, fix = _bytes(call.args[0].values, "uint8"), "Lower --prefill-chunk or --max-batch"
            _require_buffer(device, f"a buffer of function {var.name_hint}", nbytes, fix)
    for var, kernel in _kernels(mod):
        for buffer in (parameter for parameter in kernel.params if isinstance(parameter.ty, BufferType)):
            nbytes = _bytes(buffer.shape, buffer.dtype)
            _require_buffer(device, f"buffer {buffer.name} of kernel {var.name_hint}", nbytes, _QUANTIZE)


def require_launches(device: Device, mod: IRModule) -> None:
    """Raise an `EdgeTransactError` if a lowered kernel needs more threads or local memory than the GPU has."""
    for var, function in _kernels(mod):
        for kernel in launches(function).kernels:
            threads, local_bytes = kernel.threads({}), kernel.local_bytes
            group = f"a work group of kernel {var.name_hint}"
            if threads > device.max_threads:
                raise EdgeTransactError(
                    f"{group} has {threads} threads, and --device-profile {device.name} allows {device.max_threads}",
                    fix=_remedy("", "max_threads", threads),
                )
            if local_bytes > device.local_bytes:
                raise EdgeTransactError(
                    f"{group} takes {local_bytes:,} bytes of local memory, and --device-profile {device.name} allows "
                    f"{device.local_bytes:,}",
                    fix=_remedy("Compute in fp16 (--quant q4f16_0), which needs less", "local_bytes", local_bytes),
                )


def _kernels(mod: IRModule) -> list[tuple[tvm.ir.GlobalVar, tirx.PrimFunc]]:
    return [(var, function) for var, function in mod.functions_items() if isinstance(function, tirx.PrimFunc)]


def _bytes(shape: list[tirx.Expr], dtype: str) -> int:
    """Bytes of a buffer; 0 if its size isn't fixed: then it is a parameter or allocated, and checked there."""
    if not all(isinstance(size, int | tirx.IntImm) for size in shape):
        return 0
    kind = tvm.DataType(dtype)
    return prod(map(int, shape)) * ((kind.bits * kind.lanes + 7) // 8)


def _require_buffer(device: Device, what: str, nbytes: int, fix: str) -> None:
    if nbytes > device.max_allocation_bytes:
        raise EdgeTransactError(_too_large(device, what, nbytes), fix=_remedy(fix, "max_allocation_bytes", nbytes))


def _too_large(device: Device, what: str, nbytes: int) -> str:
    return (
        f"{what} takes {nbytes / 2**20:,.1f} MiB, and --device-profile {device.name} allows "
        f"{device.max_allocation_bytes / 2**20:,.1f} MiB in one buffer"
    )


def _remedy(fix: str, figure: str, needed: int) -> str:
    """The fix, and other GPUs that one may build for instead."""
    names = [name for name, device in DEVICES.items() if getattr(device, figure) >= needed]
    other = f"build for GPUs that have more: --device-profile {' or '.join(names)}" if names else ""
    text = ", or ".join(filter(None, (fix, other))) or "no GPU with a profile has that many"
    return f"{text[0].upper()}{text[1:]}."
