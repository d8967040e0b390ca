"""A device that isn't there: its tensors are the CPU's in disguise, and like a GPU's they don't mix with the CPU's own.

PyTorch takes it for a device of its own kind (``npu``). What the code forgets to move fails here as on a GPU; what is
computed is what the CPU computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "npu"

ATEN = torch.ops.aten
MAKERS = ("empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step")
"""What makes tensors from nothing; all else is made of these."""

INDEXING = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default)
"""Of these, a GPU's tensors take indices of the CPU, but not the other way round."""

PRODUCTS = (ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default)


class Disguised(torch.Tensor):
    """A tensor on the device; `held` is the same on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Disguised:
        place = {"strides": held.stride(), "storage_offset": held.storage_offset(), "device": torch.device(NAME, 0)}
        tensor = torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, **place)
        tensor.held = held
        return tensor

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> Disguised:
        return Disguised(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        tensors = [each for each in tree_flatten((arguments, keywords))[0] if isinstance(each, torch.Tensor)]
        if function in INDEXING and isinstance(arguments[0], Disguised):
            tensors = [each for each in tensors if all(each is not index for index in arguments[1])]
        # Of no dimension: a number, and those may be anywhere.
        strangers = any(not isinstance(tensor, Disguised) and tensor.dim() for tensor in tensors)
        if strangers and function not in (ATEN._to_copy.default, ATEN.copy_.default):
            raise RuntimeError(f"expected all tensors to be on the same device: {function}")
        to = keywords.get("device") or (arguments[0].device if function is ATEN.copy_.default else NAME)
        plain = tree_map(lambda each: each.held if isinstance(each, Disguised) else each, (arguments, keywords))
        result = function(*plain[0], **_on_cpu(plain[1]))
        if torch.device(to).type == NAME:
            result = tree_map(lambda each: Disguised(each) if isinstance(each, torch.Tensor) else each, result)
        counted.products += function in PRODUCTS
        return return_and_correct_aliasing(function, arguments, keywords, result)


counted = SimpleNamespace(products=0)
"""Matrix products that the device has computed."""


def _on_cpu(keywords: dict[str, Any]) -> dict[str, Any]:
    return {**keywords, "device": torch.device("cpu")} if keywords.get("device") is not None else keywords


@cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME)
    module = getattr(torch, NAME)
    # From now on, torch asks the device about autocast whenever it recomputes activations, on the CPU too,
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    # and transformers reads the module's name for models on the CPU as well.
    module.__name__ = f"torch.{NAME}"
    # torch's distributed checkpoints ask it for its stream, whatever they write.
    stream = SimpleNamespace(synchronize=lambda: None)
    module.current_stream = lambda: stream
    module.stream = lambda stream: nullcontext()
    for name in MAKERS:
        base, _, overload = name.partition(".")
        made = getattr(getattr(ATEN, base), overload or "default")
        torch.library.impl(f"aten::{name}", NAME)(
            lambda *arguments, made=made, **keywords: Disguised(made(*arguments, **_on_cpu(keywords)))
        )


@contextmanager
def accelerator() -> Iterator[SimpleNamespace]:
    """The device `NAME` exists inside."""
    _register()
    counted.products = 0
    # Its gradients are computed by the thread that asks for them: there is no queue of the device's own.
    with torch.autograd.set_multithreading_enabled(False):
        yield counted
