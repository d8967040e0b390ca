"""Puts our kernels into a module: products with packed weights, together with what surrounds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx

from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.passes.chain_matmuls import MakeChain, chain_matmuls
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP


class MatmulKernels(Protocol):
    """The kernels of a kind of device.

    Attributes:
        take_norm: Whether a product's kernel does the RMSNorm before it.
    """

    take_norm: bool

    def embed(self, scale_dtype: str) -> tirx.PrimFunc | None:
        """Rows of a packed matrix, as `cpu.matmul.embed`; nothing where there is no kernel of our own."""

    def select(self, matmul: Matmul, x: list[Any], width: int) -> tuple[Hashable, Callable[[], tirx.PrimFunc]] | None:
        """What makes a product's kernel, and by what it differs from others; nothing where there is no kernel.

        Args:
            matmul: The kind.
            x: The shape of the activations, ``[batch, tokens, K]``.
            width: Columns of the result.
        """

    @property
    def chain(self) -> MakeChain | None:
        """What makes one kernel of several products of one row; nothing where each is a kernel of its own."""


def is_one_row(x: list[Any]) -> bool:
    """Whether batch and tokens are 1: decode."""
    return all(isinstance(size, tirx.IntImm) and int(size) == 1 for size in x[:-1])


@tvm.transform.module_pass(opt_level=0, name="FuseMatmuls")
class FuseMatmuls:
    """Each product with packed weights becomes one kernel with what follows it, and the norm before it.

    That is bias, SiLU gate and residual after, and RMSNorm before where the kernels take it.

    Runs before operators are legalized. Products that the kernels don't support stay as they are.

    Args:
        kernels: Those of the target.
    """

    def __init__(self, kernels: MatmulKernels) -> None:
        self.kernels = kernels

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        fuser = _Fuser(mod, self.kernels)
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function):
                fuser.fuse(var, function)
        mod = fuser.builder_.get()
        if self.kernels.chain is not None:
            mod = chain_matmuls(relax.transform.DeadCodeElimination()(mod), fuser.of_one_row, self.kernels.chain)
        return relax.transform.DeadCodeElimination()(mod)


@dataclass(frozen=True)
class _FusedMatmul:
    """A product found in a function, with what is fused into it, and the kernel's arguments."""

    matmul: Matmul
    arguments: tuple[relax.Expr, ...]


@relax.expr_functor.mutator
class _Fuser(relax.PyExprMutator):
    def __init__(self, mod: IRModule, kernels: MatmulKernels) -> None:
        super().__init__(mod)
        self.mod, self.kernels = mod, kernels
        self.made: dict[Hashable, relax.GlobalVar] = {}
        self.of_one_row: dict[str, Matmul] = {}
        self.found: dict[relax.Expr, _FusedMatmul] = {}

    def fuse(self, var: relax.GlobalVar, function: relax.Function) -> None:
        self.found = _find(self.mod, function, self.kernels.take_norm)
        self.builder_.update_func(var, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if _is_op(call, "relax.call_tir") and call.args[0].name_hint.startswith("embed") and _is_packed(call):
            return self._embed(call)
        fused = self.found.get(call)
        call = super().visit_call_(call)
        if fused is None:
            return call
        x = list(fused.arguments[0].ty.shape)
        kernel = self.kernels.select(fused.matmul, x, int(call.ty.shape[-1]))
        if kernel is None:
            return call
        key, make = kernel
        if key not in self.made:
            self.made[key] = self.builder_.add_func(make(), "w4_decode" if is_one_row(x) else "w4_prefill")
            if is_one_row(x):
                self.of_one_row[self.made[key].name_hint] = fused.matmul
        return relax.call_tir(self.made[key], [self.visit_expr(argument) for argument in fused.arguments], call.ty)

    def _embed(self, call: relax.Call) -> relax.Expr:
        ids, weight, scale = call.args[1].fields
        if "embed" not in self.made:
            kernel = self.kernels.embed(str(scale.ty.dtype))
            if kernel is None:
                return call
            self.made["embed"] = self.builder_.add_func(kernel, "w4_embed")
        return relax.call_tir(self.made["embed"], [ids, weight, scale], call.ty)


def _find(mod: IRModule, function: relax.Function, take_norm: bool) -> dict[relax.Expr, _FusedMatmul]:
    """The products of a function, keyed by the last call that each replaces."""
    bindings = [binding for block in _blocks(function) for binding in block.bindings]
    values = {binding.var: binding.value for binding in bindings}
    users: dict[relax.Var, list[relax.Binding]] = {}
    for binding in bindings:
        for var in relax.analysis.free_vars(binding.value):
            users.setdefault(var, []).append(binding)

    found = {}
    for binding in bindings:
        fused = _matmul(mod, binding.value)
        if fused is None:
            continue
        if take_norm:
            fused = _with_norm(fused, values)
        last, fused = _with_epilogue(binding, fused, users)
        found[last.value] = fused
    return found


def _blocks(function: relax.Function) -> list[relax.BindingBlock]:
    return list(function.body.blocks) if isinstance(function.body, relax.SeqExpr) else []


def _matmul(mod: IRModule, value: relax.Expr) -> _FusedMatmul | None:
    """A call of a function that `modules` made for packed weights, if `value` is one."""
    if not (isinstance(value, relax.Call) and _is_op(value, "relax.call_tir")):
        return None
    if not value.args[0].name_hint.startswith("dequantize_matmul"):
        return None
    x, weight, scale = value.args[1].fields
    k, n = int(x.ty.shape[-1]), int(value.ty.shape[-1])
    words = math.ceil(k / GROUP_SIZE) * WORDS_PER_GROUP
    rows = int(weight.ty.shape[0])
    output_major = rows == n if words != n else _has_block(mod[value.args[0]], "NT_matmul")
    dtypes = (str(x.ty.dtype), str(scale.ty.dtype), str(value.ty.dtype))
    return _FusedMatmul(Matmul("NK" if output_major else "KN", *dtypes), (x, weight, scale))


def _is_packed(call: relax.Call) -> bool:
    arguments = call.args[1].fields if isinstance(call.args[1], relax.Tuple) else []
    return len(arguments) == 3 and str(arguments[1].ty.dtype) == "uint32"


def _has_block(function: tirx.PrimFunc, name: str) -> bool:
    names = []
    tirx.stmt_functor.post_order_visit(
        function.body, lambda node: names.append(node.name_hint) if isinstance(node, tirx.SBlock) else None
    )
    return name in names


def _with_norm(fused: _FusedMatmul, values: dict[relax.Var, relax.Expr]) -> _FusedMatmul:
    x, *rest = fused.arguments
    norm = values.get(x)
    if (
        norm is None
        or not _is_op(norm, "relax.nn.rms_norm")
        or [int(axis) for axis in norm.attrs.axes] not in ([-1], [2])
    ):
        return fused
    return _FusedMatmul(replace(fused.matmul, norm_eps=float(norm.attrs.epsilon)), (norm.args[0], *rest, norm.args[1]))


def _with_epilogue(
    binding: relax.Binding, fused: _FusedMatmul, users: dict[relax.Var, list[relax.Binding]]
) -> tuple[relax.Binding, _FusedMatmul]:
    """Follow the result through its only uses as long as the kernel can take them over."""

    def only_user(binding: relax.Binding) -> relax.Binding | None:
        uses = users.get(binding.var, [])
        return uses[0] if len(uses) == 1 else None

    def added(binding: relax.Binding | None, to: relax.Var) -> relax.Expr | None:
        if binding is None or not _is_op(binding.value, "relax.add"):
            return None
        first, second = binding.value.args
        return second if first.same_as(to) else first

    after = only_user(binding)
    other = added(after, binding.var)
    if other is not None and len(other.ty.shape) == 1:
        fused = _FusedMatmul(replace(fused.matmul, bias=True), (*fused.arguments, other))
        binding, after = after, only_user(after)
        other = added(after, binding.var)
    gated = _gated(binding, users)
    if gated is not None:
        fused = _FusedMatmul(replace(fused.matmul, gated=True), fused.arguments)
        binding, after = gated, only_user(gated)
        other = added(after, binding.var)
    if (
        other is not None
        and not other.same_as(binding.var)
        and other.ty.dtype == binding.var.ty.dtype
        and tvm_ffi.structural_equal(other.ty.shape, binding.var.ty.shape)
    ):
        return after, _FusedMatmul(replace(fused.matmul, residual=True), (*fused.arguments, other))
    return binding, fused


def _gated(binding: relax.Binding, users: dict[relax.Var, list[relax.Binding]]) -> relax.Binding | None:
    """The ``silu(gate) * up`` that takes the two halves of a result, and nothing else does."""
    (split,) = users.get(binding.var, []) if len(users.get(binding.var, [])) == 1 else (None,)
    if split is None or not _is_op(split.value, "relax.split"):
        return None
    halves = users.get(split.var, [])
    if len(halves) != 2 or not all(isinstance(half.value, relax.TupleGetItem) for half in halves):
        return None
    gate, up = sorted(halves, key=lambda half: half.value.index)
    if len(users.get(gate.var, [])) != 1 or len(users.get(up.var, [])) != 1:
        return None
    silu, multiply = users[gate.var][0], users[up.var][0]
    if not (_is_op(silu.value, "relax.nn.silu") and _is_op(multiply.value, "relax.multiply")):
        return None
    if len(users.get(silu.var, [])) != 1 or not users[silu.var][0].var.same_as(multiply.var):
        return None
    return multiply


def _is_op(value: Any, name: str) -> bool:
    return isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name == name
