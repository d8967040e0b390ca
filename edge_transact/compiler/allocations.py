"""Checks that each weight and each layer of the KV cache fits into one buffer of a phone's GPU."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from edge_transact import costs
from edge_transact.compiler.gpu.devices import DEVICES, Device
from edge_transact.errors import EdgeTransactError, UsageError

if TYPE_CHECKING:
    from edge_transact.definition import Definition
    from edge_transact.quantization import Quantization
    from edge_transact.widths import WidthPlan


def require_allocations(
    device: Device, plan: WidthPlan, definition: Definition, quantization: Quantization
) -> None:
    """Check what MLC's runtime will allocate, before anything is built.

    It allocates a buffer for each parameter and one for each layer of the cache (``Tensor::Empty`` in the constructor
    of `PagedAttentionKVCacheObj` in TVM's ``runtime/vm/paged_kv_cache.cc``).

    Args:
        device: The GPU.
        plan: The model's widths.
        definition: Its configuration has the library's context window and batch.
        quantization: The format of weights and cache.

    Raises:
        EdgeTransactError: A weight is larger than the largest buffer.
        UsageError: A layer of the cache is; the message has the largest context that fits.
    """
    from tvm import DataType

    from edge_transact.compiler.modules import quantize_modules

    model = quantize_modules(definition.model(), quantization, quantization.model_dtype)
    for name, parameter in model.named_parameters():
        dtype = DataType(parameter.dtype)
        nbytes = prod(map(int, parameter.shape)) * dtype.bits // 8
        if nbytes > device.max_allocation_bytes:
            raise EdgeTransactError(
                f"{name} has {_mib(nbytes)}, and one buffer of {device.description} has at most "
                f"{_mib(device.max_allocation_bytes)} (--device-profile {device.name})",
                fix=_remedy(nbytes, "Use a smaller vocabulary or fewer bits"),
            )
    context, sequences = definition.config.context_window_size, definition.config.max_batch_size
    layer = costs.kv_cache_bytes(plan, quantization, context, sequences) // plan.num_virtual_layers
    if layer > device.max_allocation_bytes:
        largest = _largest_context(device, plan, quantization, sequences)
        fits = f"Use --context {largest}, the largest that fits" if largest else "No context fits: use fewer KV heads"
        raise UsageError(
            f"the KV cache of a layer has {_mib(layer)} for {sequences} x {context} tokens, and one buffer of "
            f"{device.description} has at most {_mib(device.max_allocation_bytes)} (--device-profile {device.name})",
            fix=_remedy(layer, fits),
        )


def _largest_context(device: Device, plan: WidthPlan, quantization: Quantization, sequences: int) -> int:
    page = costs.PAGE_SIZE * costs.kv_bytes_per_token(plan, quantization) // plan.num_virtual_layers
    # One page is for the cache itself.
    pages = device.max_allocation_bytes // page - 1
    return max(0, pages * costs.PAGE_SIZE // sequences)


def _remedy(nbytes: int, otherwise: str) -> str:
    """What to do: the profiles of GPUs that have larger buffers, or something else."""
    larger = [name for name, device in DEVICES.items() if device.max_allocation_bytes >= nbytes]
    profiles = f", or build for GPUs that have more: --device-profile {' or '.join(larger)}" if larger else ""
    return f"{otherwise}{profiles}."


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.1f} MiB"
