"""Replaces matmuls with packed weights by our kernels, together with the operators around them."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from tvm import IRModule, relax, s_tir
from tvm.relax.dpl import DFPattern, GlobalVarPattern, TuplePattern, is_op, is_tuple_get_item, wildcard
from tvm_ffi import structural_equal

from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.gpu.kernels import MetalKernels, OpenCLKernels
from edge_transact.compiler.matmul import EMBEDDING, KERNEL_GRID, MATMUL, Matmul, Rows, StoredWeight, weight_block
from edge_transact.compiler.passes.calls import bindings_of, count_readers, is_call_of, relax_functions
from edge_transact.compiler.passes.chain_matmuls import chain_matmuls

CHAINED_ROWS: tuple[Rows, ...] = ("one", "batch")
"""The rows of matmuls that are chained on CPUs. Prefill's take so long that another launch hardly counts."""

PREFIXES: dict[Rows, str] = {"one": "w4_decode", "batch": "w4_batch", "any": "w4_prefill"}
"""Prefixes of kernel names, by the rows of activations that they take."""

Kernels = CPUKernels | OpenCLKernels | MetalKernels


def fuse_matmuls(mod: IRModule, kernels: Kernels, made: dict[str, Matmul]) -> IRModule:
    """Make one kernel of each matmul with a packed weight and the operators around it, before they are legalized.

    These are RMSNorm before it, where `Kernels.takes_norm`, and bias, gate and residual after it. Matmuls that the
    kernels don't support stay as they are. `made` gets the matmul that each kernel computes, by the kernel's name.
    """
    fuser = _Fuser(mod, kernels, made)
    for var, function in relax_functions(mod):
        fuser.fuse(var, function)
    mod = relax.transform.DeadCodeElimination()(fuser.builder_.get())
    if isinstance(kernels, CPUKernels):
        for rows in CHAINED_ROWS:
            kinds = {name: matmul for name, matmul in made.items() if name.startswith(PREFIXES[rows])}
            mod = chain_matmuls(mod, kinds, kernels.chain, rows, f"{PREFIXES[rows]}_chain")
        mod = relax.transform.DeadCodeElimination()(mod)
    return mod


_ACTIVATIONS = {"silu": "relax.nn.silu", "gelu_pytorch_tanh": "relax.nn.gelu_tanh"}
"""The operator of each activation of `widths.ACTIVATIONS`."""


class _FusedMatmul(NamedTuple):
    """The spec of a matmul with the operators around it, and its kernel's arguments."""

    matmul: Matmul
    arguments: tuple[relax.Expr, ...]


Match = Mapping[DFPattern, relax.Expr]
"""The parts of a pattern and the expressions that they matched."""


class _Pattern:
    """A matmul with the operators that its kernel can take over."""

    def __init__(self, *, take_norm: bool) -> None:
        self.x, self.weight, self.scale, self.norm_weight = (wildcard() for _ in range(4))
        self.bias, self.residual = (wildcard().has_ty(relax.TensorType(ndim=ndim, dtype=None)) for ndim in (1, 3))
        self.norm = is_op("relax.nn.rms_norm")(self.x, self.norm_weight)
        x = self.norm | self.x if take_norm else self.x
        self.matmul = is_op("relax.call_tir")(GlobalVarPattern(), TuplePattern([x, self.weight, self.scale]))
        self.biased = _either_way("relax.add", self.matmul, self.bias)
        linear = self.biased | self.matmul
        self.halves = is_op("relax.split")(linear)
        self.gate, self.up = is_tuple_get_item(self.halves, 0), is_tuple_get_item(self.halves, 1)
        self.activations = {name: is_op(op)(self.gate) for name, op in _ACTIVATIONS.items()}
        activated = functools.reduce(DFPattern.__or__, self.activations.values())
        self.gated = _either_way("relax.multiply", activated, self.up)
        self.sum = self.gated | linear
        self.result = _either_way("relax.add", self.sum, self.residual) | self.sum

    def match(self, call: relax.Call, function: _Bindings) -> Match | None:
        """The matched parts if `call` ends a matmul; `None` also where a kernel would hide a result that is read."""
        matched = self.result.extract_matched_expr(call, function.values)
        if matched is None:
            return None
        # dpl's own constraint, `only_used_by`, can't be combined with alternatives.
        inner = (self.matmul, self.biased, self.halves, self.gate, self.up, *self.activations.values(), self.gated)
        for part in inner:
            readers = 2 if part is self.halves else 1
            if part in matched and not matched[part].same_as(call) and function.readers[matched[part]] > readers:
                return None
        if self.norm in matched and [int(axis) for axis in matched[self.norm].attrs.axes] not in ([-1], [2]):
            return None
        if self.residual in matched:
            residual, total = matched[self.residual], matched[self.sum]
            if residual.same_as(total) or not structural_equal(residual.ty, total.ty):
                return None
        return matched

    def fused(self, matched: Match, function: _Bindings, weight: StoredWeight) -> _FusedMatmul:
        matmul = Matmul(
            weight.layout,
            dtype=str(matched[self.x].ty.dtype),
            quantization=weight.quantization,
            out_dtype=str(matched[self.matmul].ty.dtype),
            norm_eps=float(matched[self.norm].attrs.epsilon) if self.norm in matched else None,
            bias=self.bias in matched,
            gated=self.gated in matched,
            activation=next((name for name, each in self.activations.items() if each in matched), "silu"),
            residual=self.residual in matched,
        )
        operands = (self.x, self.weight, self.scale, self.norm_weight, self.bias, self.residual)
        values = [matched[operand] for operand in operands if operand in matched]
        return _FusedMatmul(matmul, tuple(function.variables.get(value, value) for value in values))


def _either_way(op: str, a: DFPattern, b: DFPattern) -> DFPattern:
    return is_op(op)(a, b) | is_op(op)(b, a)


class _Bindings:
    """A function's bindings: variable to value, value to variable, and value to the number of bindings that read it."""

    def __init__(self, function: relax.Function) -> None:
        self.values = relax.analysis.get_var2val(function)
        self.variables = {value: var for var, value in self.values.items()}
        readers = count_readers(self.variables)
        self.readers = {value: readers[var] for value, var in self.variables.items()}


@relax.expr_functor.mutator
class _Fuser(relax.PyExprMutator):
    def __init__(self, mod: IRModule, kernels: Kernels, specs: dict[str, Matmul]) -> None:
        super().__init__(mod)
        self.mod, self.kernels, self.specs = mod, kernels, specs
        self.patterns = (_Pattern(take_norm=True), _Pattern(take_norm=False))
        self.weights: dict[relax.GlobalVar, StoredWeight | None] = {}
        self.made: dict[Hashable, relax.GlobalVar] = {}
        self.found: dict[relax.Expr, _FusedMatmul] = {}

    def fuse(self, var: relax.GlobalVar, function: relax.Function) -> None:
        self.found = self._find(function)
        self.builder_.update_func(var, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if embedding := self._packed(call, EMBEDDING):
            return self._embed(call, embedding)
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
            name = f"{PREFIXES[self.kernels.rows(x)]}_{fused.matmul.label}"
            self.made[key] = self.builder_.add_func(make(), name)
            self.specs[self.made[key].name_hint] = fused.matmul
        return relax.call_tir(self.made[key], [self.visit_expr(argument) for argument in fused.arguments], call.ty)

    def _embed(self, call: relax.Call, stored: StoredWeight) -> relax.Expr:
        ids, weight, scale = call.args[1].fields
        if EMBEDDING not in self.made:
            self.made[EMBEDDING] = self.builder_.add_func(self.kernels.embed(stored.quantization), "w4_embed")
        return relax.call_tir(self.made[EMBEDDING], [ids, weight, scale], call.ty)

    def _find(self, function: relax.Function) -> dict[relax.Expr, _FusedMatmul]:
        """The matmuls of a function, keyed by the last call that each replaces."""
        bindings = _Bindings(function)
        found: dict[relax.Expr, _FusedMatmul] = {}
        replaced: set[relax.Expr] = set()
        # The last operator first, so that a kernel takes over all that it can.
        for value in [binding.value for binding in bindings_of(function)][::-1]:
            pattern, matched = self._match(value, bindings) if isinstance(value, relax.Call) else (None, None)
            if pattern is None or matched is None or matched[pattern.matmul] in replaced:
                continue
            weight = self._packed(matched[pattern.matmul], MATMUL)
            if weight is not None:
                found[value] = pattern.fused(matched, bindings, weight)
                replaced.add(matched[pattern.matmul])
        return found

    def _match(self, call: relax.Call, bindings: _Bindings) -> tuple[_Pattern, Match | None]:
        """Match a matmul whose last operator is `call`: with the norm before it, or else without."""
        with_norm, without = self.patterns
        matched = with_norm.match(call, bindings)
        if matched is not None and with_norm.norm in matched:
            x = matched[with_norm.x].ty
            if not self.kernels.takes_norm(list(x.shape), str(x.dtype)):
                return without, without.match(call, bindings)
        return with_norm, matched

    def _packed(self, call: relax.Call, op: str) -> StoredWeight | None:
        """The packed weight of a call of the function that `modules` makes for `op`; `None` for other calls."""
        if not is_call_of(call, "relax.call_tir"):
            return None
        function = call.args[0]
        if function not in self.weights:
            found = weight_block(s_tir.Schedule(self.mod[function]))
            self.weights[function] = found[1] if found else None
        weight = self.weights[function]
        packed = weight is not None and weight.op == op and weight.quantization.grid == KERNEL_GRID
        return weight if packed else None
