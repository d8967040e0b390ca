"""The GPU kernels of one decoded token: those of ``embed`` and ``decode``, and those that the KV cache launches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, relax, tirx

from edge_transact.artifacts.kernels import DecodeKernels, Kernel
from edge_transact.compiler.launches import launches
from edge_transact.compiler.traffic.kernel import Traffic, traffic
from edge_transact.costs import PAGE_SIZE

ATTENTION = "vm.builtin.attention_kv_cache_attention_with_fused_qkv"
CACHE_CREATION = "vm.builtin.paged_attention_kv_cache_create"
HEADS, ROPE_MODE, APPEND, DECODE, SPLIT_ROTARY = 2, 8, 13, 17, 24
"""Where the arguments of the creation are that count heads and dims, and its kernels (`passes.kv_cache`)."""

PARAMETER, DERIVED, ACTIVATION = "parameter", "derived", "activation"
"""What a tensor holds: a parameter, what kernels made of parameters alone, or anything else."""


def decode_kernels(
    mod: IRModule, parameters: Sequence[str], context: int, lowered: IRModule, prefix: str = ""
) -> DecodeKernels:
    """What the kernels of one decoded token read, write and compute.

    Args:
        mod: Scheduled, with memory planned: functions call kernels with the tensors that they write.
        parameters: The names of the model's parameters, in the order of the functions' last argument.
        context: Tokens of the sequence, with the one that is decoded.
        lowered: The kernels that `mod` was lowered to, which tell their local memory.
        prefix: What names in `lowered` begin with.
    """
    token = DecodedToken(mod, parameters, context)
    for name in ("embed", "decode"):
        token.run(mod[name], rows_only=name == "embed")
    local = {
        var.name_hint.removeprefix(prefix): launch.local_bytes
        for var, function in lowered.functions_items()
        for launch in launches(function).kernels
    }
    return DecodeKernels(context=context, kernels=[kernel.record(local) for kernel in token.kernels.values()])


@dataclass(frozen=True)
class _Tensor:
    """An argument of a kernel.

    Attributes:
        shape: Its shape.
        least_bytes: How many of its bytes a kernel that uses it has to read or write.
        kind: What it holds.
        name: Of a parameter.
    """

    shape: tuple[int, ...]
    least_bytes: int
    kind: str = ACTIVATION
    name: str = ""


class Launched:
    """A kernel, and what its launches so far add up to."""

    def __init__(self, name: str, lowered_name: str) -> None:
        self.name, self.lowered_name = name, lowered_name
        self.parameters: dict[str, None] = {}
        self.groups: list[int] = []
        self.threads = self.read = self.written = self.least = self.flops = 0

    def add(self, of: Traffic, least_bytes: int, parameters: Sequence[str]) -> None:
        self.parameters |= dict.fromkeys(parameters)
        self.groups.append(math.prod(of.groups))
        self.threads = max(self.threads, math.prod(of.threads))
        self.read += sum(of.read.values())
        self.written += sum(of.written.values())
        self.least += least_bytes
        self.flops += of.flops

    def record(self, local: Mapping[str, int]) -> Kernel:
        return Kernel(
            name=self.name,
            parameters=list(self.parameters),
            launches=len(self.groups),
            read_bytes=self.read,
            written_bytes=self.written,
            least_bytes=self.least,
            flops=self.flops,
            groups=(min(self.groups), max(self.groups)),
            threads=self.threads,
            local_bytes=local[self.lowered_name],
        )


class DecodedToken:
    """Follows functions call by call."""

    def __init__(self, mod: IRModule, parameters: Sequence[str], context: int) -> None:
        self.mod, self.names, self.context = mod, parameters, context
        self.kernels: dict[str, Launched] = {}
        self.known: dict[tuple[object, ...], list[Traffic]] = {}

    def run(self, function: relax.Function, *, rows_only: bool) -> None:
        """Count a function's launches. With `rows_only`, it has to read one row of each parameter."""
        tensors: dict[relax.Var, _Tensor] = {}

        def argument(value: relax.Expr) -> _Tensor | int:
            if isinstance(value, relax.Constant):
                return replace(_activation(value.ty), kind=PARAMETER)
            if isinstance(value, relax.Var):
                return tensors.get(value) or _activation(value.ty)
            return int(value) if isinstance(value, tirx.IntImm) else 0

        for block in function.body.blocks:
            for binding in block.bindings:
                value = binding.value
                if isinstance(value, relax.TupleGetItem):
                    parameter = _activation(value.ty)
                    size = parameter.least_bytes // parameter.shape[0] if rows_only else parameter.least_bytes
                    name = self.names[value.index].split(".")[-2]
                    tensors[binding.var] = _Tensor(parameter.shape, size, PARAMETER, name)
                elif isinstance(value, relax.Var) and value in tensors:
                    tensors[binding.var] = tensors[value]
                elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
                    arguments = [argument(a) for a in value.args]
                    written = self.launch(value.op, arguments)
                    self._follow(value.args, arguments, written, tensors)
                elif isinstance(value, relax.Call) and getattr(value.op, "global_symbol", "") == ATTENTION:
                    self._attend(value)

    def _follow(
        self, variables: Sequence[Any], arguments: list[_Tensor | int], written: set[int], tensors: dict[Any, _Tensor]
    ) -> None:
        """Note which tensors a kernel made of parameters alone: a token needs the parameters, and not those."""
        read = [a for i, a in enumerate(arguments) if isinstance(a, _Tensor) and i not in written]
        if read and all(a.kind != ACTIVATION for a in read):
            for i in written:
                tensors[variables[i]] = _Tensor(_activation(variables[i].ty).shape, 0, DERIVED)

    def launch(
        self,
        var: tvm.ir.GlobalVar,
        arguments: Sequence[_Tensor | int],
        contents: Mapping[int, Sequence[int]] | None = None,
    ) -> set[int]:
        """Count the launches of a function. Returns the positions of the arguments that it writes."""
        function = self.mod[var]
        plain = [a if isinstance(a, int) else a.shape for a in arguments]
        key = (var.name_hint, *plain)
        if key not in self.known:
            self.known[key] = traffic(function, plain, contents or {})
        found = self.known[key]
        at = {parameter: i for i, parameter in enumerate(function.params)}
        for number, of in enumerate(found):
            suffix = f"_{number}" if number else ""
            name = f"{var.name_hint}{suffix}"
            kernel = self.kernels.setdefault(name, Launched(name, f"{var.name_hint}_kernel{suffix}"))
            least, names = 0, []
            for buffer, touched in (*of.read.items(), *of.written.items()):
                argument = arguments[at[buffer]] if buffer in at else 0
                if isinstance(argument, _Tensor):
                    least += min(touched, argument.least_bytes)
                    names += [argument.name] if argument.name else []
            kernel.add(of, least, names)
        return {at[buffer] for of in found for buffer in of.written if buffer in at}

    def _attend(self, call: relax.Call) -> None:
        """Three launches by the KV cache: it splits and rotates, appends to its pages, and attends to them.

        Source: `AttentionWithFusedQKV` in TVM's ``src/runtime/vm/paged_kv_cache.cc``.
        """
        creation = _creation(self.mod)
        h_q, h_kv, qk, d_v = (int(number) for number in creation.args[HEADS : HEADS + 4])
        dtype = str(call.args[3].ty.dtype)
        pages = math.ceil(self.context / PAGE_SIZE)

        def tensor(*shape: int, kind: str = dtype) -> _Tensor:
            return _Tensor(shape, math.prod(shape) * np.dtype(kind).itemsize)

        def cache(tokens: int) -> _Tensor:
            """The pages, of which a kernel has to touch so many tokens."""
            return replace(tensor(pages, 2, h_kv, PAGE_SIZE, qk), least_bytes=tensor(tokens, 2, h_kv, qk).least_bytes)

        qkv, position = tensor(1, h_q + 2 * h_kv, qk), tensor(1, kind="int32")
        q, k, v = tensor(1, h_q, qk), tensor(1, h_kv, qk), tensor(1, h_kv, d_v)
        rotates = int(int(creation.args[ROPE_MODE]) == 1)
        self.launch(creation.args[SPLIT_ROTARY], [qkv, position, q, k, v, rotates], {1: [self.context - 1]})
        self.launch(creation.args[APPEND], [cache(1), k, v, position], {3: [self.context - 1]})
        table = [tensor(2, kind="int32"), tensor(pages, kind="int32"), position, position, position]
        out = [tensor(1, h_q, d_v), tensor(1, h_q, kind="float32")]
        in_last_page = self.context - (pages - 1) * PAGE_SIZE
        self.launch(
            creation.args[DECODE].fields[1],
            # It doesn't rotate, and the scales are numbers that don't matter here.
            [q, cache(self.context), *table, *out, 0, 0, 0, 0],
            {2: [0, pages], 4: [in_last_page]},
        )


def _creation(mod: IRModule) -> relax.Call:
    for block in mod["create_tir_paged_kv_cache"].body.blocks:
        for binding in block.bindings:
            if getattr(getattr(binding.value, "op", None), "global_symbol", "") == CACHE_CREATION:
                return binding.value
    raise AssertionError("nothing creates the KV cache")


def _activation(ty: relax.TensorType) -> _Tensor:
    """A tensor of one token: the symbolic sizes of shapes are those of batches and sequences."""
    shape = tuple(int(size) if isinstance(size, tirx.IntImm) else 1 for size in ty.shape.values)
    return _Tensor(shape, math.prod(shape) * np.dtype(str(ty.dtype)).itemsize)
