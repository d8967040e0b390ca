"""Lowering on several cores at a time, and how much text it makes."""

from __future__ import annotations

import pytest
import tvm
from tvm import IRModule, tirx
from tvm.script import tirx as T

from edge_transact.compiler import lowering
from edge_transact.compiler.cpu.isa.fp32 import Fp32
from edge_transact.compiler.cpu.kernels import kernel
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import kernel_body, tensor
from edge_transact.system.cores import Cores
from tests.support.cpu_kernels import compiled
from tests.support.packed import W4F16


def doubling(size: int) -> tirx.PrimFunc:
    own = {"global_symbol": f"double_{size}", "target": tvm.target.Target("llvm")}
    with kernel_body(lowering.PLAIN_LOOPS | own) as ib:
        x = tensor("x", (size,), "float32")
        with T.sblock("root"), T.serial(0, size) as i:
            T.buffer_store(x, x[i] + x[i], [i])
    return ib.get()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_on_several_cores_functions_are_the_same_and_in_the_same_order(count, monkeypatch):
    mod = IRModule({f"double_{size}": doubling(size) for size in range(8, 8 + count)})
    lowered, finalized = [], []
    for fast in (1, 2, 3):
        monkeypatch.setattr(lowering, "cores", lambda fast=fast: Cores(fast, fast, (), fast))
        passes, finalize_host, _ = tirx.get_tir_pipeline(lowering.PIPELINE)
        with tvm.transform.PassContext(config={"tirx.disable_cse_tir": True}):
            lowered.append(passes(mod))
            finalized.append(finalize_host()(lowered[-1]))
    for made in (lowered, finalized):
        alone, *others = made
        for other in others:
            tvm.ir.assert_structural_equal(other, alone)
            assert [var.name_hint for var in other.get_global_vars()] == [
                var.name_hint for var in alone.get_global_vars()
            ]


def test_variables_are_not_written_out_where_they_stand():
    """A kernel's text grows by the checks of its arguments and by variables for what occurs twice."""
    kind = Matmul("NK", "float16", W4F16, "float16", norm_eps=1e-5, gated=True)
    function = kernel(kind, Fp32(8), 2, rows="one")
    texts = []

    @tvm.instrument.pass_instrument
    class Finalized:
        def run_after_pass(self, mod: IRModule, info: tvm.transform.PassInfo) -> None:
            if info.name == "ShowValues":
                texts.append(mod.script())

    with tvm.transform.PassContext(instruments=[Finalized()]):
        compiled(function)
    assert len(texts) == 1 and len(texts[0]) < 3 * len(function.script())
    assert lowering._HIDDEN not in texts[0]
