"""Lowering of TIR to LLVM: TVM's passes, fewer of them for CPU kernels, which have no schedules and are long."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import tvm
from tvm import IRModule, s_tir, tirx
from tvm.tirx.stmt_functor import ir_transform

from edge_transact.compiler.half import replace_fp16
from edge_transact.system.cores import cores

_IS_PLAIN = "edge_transact.plain_loops"

SCHEDULED: dict[str, object] = {"tirx.noalias": True, "tirx.is_scheduled": True}
"""The attributes of a kernel that TVM's schedules leave as it is."""

PLAIN_LOOPS: dict[str, object] = SCHEDULED | {_IS_PLAIN: True}
"""The attributes of a CPU kernel of plain loops, whose buffers are already as small as possible."""

UNCHECKED = "edge_transact.unchecked"
"""The attribute of a kernel that doesn't check its arguments."""

PIPELINE = "edge_transact"
"""The ``tir_pipeline`` for `tvm.compile` and `relax.build`."""

_HIDDEN = "edge_transact.hidden"
"""A function that doesn't exist, called on values to hide them."""

_CALL = tvm.ir.Op.get("tirx.call_extern")

_Passes = Callable[[IRModule], IRModule]


def _pipeline() -> tuple[tvm.transform.Pass, Callable[[], _Passes], Callable[[], _Passes]]:
    default, finalize_host, finalize_device = tirx.get_tir_pipeline("default")
    short = tvm.transform.Sequential(
        [
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.FlattenBuffer(),
            tirx.transform.prim_func_pass(_hide_values, opt_level=0, name="HideValues"),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(),
            tirx.transform.StorageRewrite(),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.CommonSubexprElim(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
        ]
    )

    @tvm.transform.module_pass(opt_level=0, name="EdgeTransactLowering")
    def run(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        plain = {var: function for var, function in mod.functions_items() if _IS_PLAIN in function.attrs}
        others = {var: function for var, function in mod.functions_items() if var not in plain}
        lowered = on_all_cores(default)(IRModule(others, attrs=mod.attrs))
        lowered.update(on_all_cores(short)(IRModule(plain, attrs=mod.attrs)))
        unchecked = {var: function for var, function in lowered.functions_items() if UNCHECKED in function.attrs}
        lowered.update(tirx.transform.SkipAssert()(IRModule(unchecked, attrs=mod.attrs)))
        return lowered

    def finalize() -> tvm.transform.Pass:
        half = tirx.transform.prim_func_pass(replace_fp16, opt_level=0, name="ReplaceFp16")
        show = tirx.transform.prim_func_pass(_show_values, opt_level=0, name="ShowValues")
        return tvm.transform.Sequential([finalize_host(), show, half])

    return run, lambda: on_all_cores(finalize()), lambda: on_all_cores(finalize_device())


def _hide_values(function: tirx.PrimFunc, _mod: IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    """Hide variables' values from TVM's analyzer, which would replace them by expressions eight times as long."""

    def hide(bind: tirx.Bind) -> tirx.Bind:
        value = bind.value
        # Constants and names are as short as the variable, and the analyzer ignores loads.
        if isinstance(value, (tirx.IntImm, tirx.Var, tirx.BufferLoad)):
            return bind
        return tirx.Bind(bind.var, tirx.call_extern(value.ty.dtype, _HIDDEN, value))

    return function.with_body(ir_transform(function.body, None, hide, ["tirx.Bind"]))


def _show_values(function: tirx.PrimFunc, _mod: IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    """Undo `_hide_values`."""

    def show(bind: tirx.Bind) -> tirx.Bind:
        value = bind.value
        if isinstance(value, tvm.ir.Call) and value.op == _CALL and value.args[0].value == _HIDDEN:
            return tirx.Bind(bind.var, value.args[1])
        return bind

    return function.with_body(ir_transform(function.body, None, show, ["tirx.Bind"]))


def on_all_cores(passes: _Passes) -> _Passes:
    """Run passes that look at one function at a time on several parts of a module in parallel.

    TVM's passes don't hold Python's lock. A part has two functions or more: a single one would become an entry point.
    Functions keep their order: archives of similar neighbours are smaller.
    """

    def run(mod: IRModule) -> IRModule:
        count = cores().threads
        functions = list(mod.functions_items())
        parts = len(functions) // 2
        if count == 1 or parts < 2:
            return passes(mod)
        context = tvm.transform.PassContext.current()
        options = dict(context.config.items())

        def lower(part: int) -> IRModule:
            # TVM keeps the context by thread.
            with tvm.transform.PassContext(opt_level=context.opt_level, config=options):
                first, end = (len(functions) * number // parts for number in (part, part + 1))
                return passes(IRModule(dict(functions[first:end]), attrs=mod.attrs))

        with ThreadPoolExecutor(count) as threads:
            first, *others = threads.map(lower, range(parts))
        for other in others:
            first.update(other)
        return first

    return run


tirx.register_tir_pipeline(PIPELINE, _pipeline)


@tvm.instrument.pass_instrument
class Lowered:
    """An instrument that keeps the module that `PIPELINE` lowered, with the final allocations of each GPU kernel."""

    mod: IRModule

    def run_after_pass(self, mod: IRModule, info: tvm.transform.PassInfo) -> None:
        """Called by TVM after each pass."""
        if info.name == "EdgeTransactLowering":
            self.mod = mod
