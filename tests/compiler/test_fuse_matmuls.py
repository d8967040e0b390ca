"""fuse_matmuls fuses what a kernel can take over, and nothing that other operators read."""

from __future__ import annotations

from functools import partial

import pytest
import tvm
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op

from edge_transact.compiler.gpu.kernels import OpenCLKernels
from edge_transact.compiler.matmul import MATMUL, Matmul, weight_block
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.passes.fuse_matmuls import fuse_matmuls
from edge_transact.quantization import QUANTIZATIONS, Quantization, get_quantization
from tests.support.relax_calls import calls


class Layer(nn.Module):
    """A linear with a bias, and `after` on its result and its input."""

    def __init__(self, after) -> None:
        self.linear, self.after = nn.Linear(64, 64, bias=True), after

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """``[1, 1, 64]`` to ``[1, 1, ...]``."""
        return self.after(self.linear(x), x)


class Kernels(OpenCLKernels):
    """Remembers the matmuls that were asked for."""

    def __init__(self) -> None:
        self.matmuls: list[Matmul] = []

    def select(self, kind, x, width):
        self.matmuls.append(kind)
        return super().select(kind, x, width)


def exported(after, quantization: str = "q4f16_0") -> tvm.IRModule:
    model = quantize_modules(Layer(after), get_quantization(quantization), "float16")
    mod, _ = model.export_tvm(spec={"forward": {"x": nn.spec.Tensor([1, 1, 64], "float16")}})
    return mod


def halves(y):
    return op.split(y, 2, axis=-1)


def gated(y, activation=op.silu):
    gate, up = halves(y)
    return activation(gate) * up


def read_twice(y):
    gate, up = halves(y)
    return op.silu(gate) * up + gate


CASES = {
    "bias": (lambda y, x: op.relu(y), {"bias"}, ["relax.nn.relu"]),
    "residual": (lambda y, x: x + y, {"bias", "residual"}, []),
    "gate": (lambda y, x: gated(y), {"bias", "gated"}, []),
    "GELU": (lambda y, x: gated(y, partial(op.gelu, approximate="tanh")), {"bias", "gated"}, []),
    "exact GELU": (lambda y, x: gated(y, op.gelu), {"bias"}, ["relax.nn.gelu", "relax.multiply"]),
    "gate and residual": (lambda y, x: gated(y) + halves(x)[0], {"bias", "gated", "residual"}, ["relax.split"]),
    "result read twice": (lambda y, x: (x + y) * y, {"bias"}, ["relax.add", "relax.multiply"]),
    "gate read twice": (lambda y, x: read_twice(y), {"bias"}, ["relax.split", "relax.nn.silu"]),
    "up as the gate": (
        lambda y, x: op.silu(halves(y)[1]) * halves(y)[0],
        {"bias"},
        ["relax.split", "relax.nn.silu", "relax.multiply"],
    ),
    "added to itself": (lambda y, x: y + y, {"bias"}, ["relax.add"]),
    "residual that is broadcast": (lambda y, x: y + op.sum(x, axis=2, keepdims=True), {"bias"}, ["relax.add"]),
}
"""What follows the bias, what is fused, and some of the operators that are left."""


@pytest.mark.parametrize("case", CASES)
def test_what_follows_a_matmul(case):
    after, fused, left = CASES[case]
    kernels = Kernels()
    mod = fuse_matmuls(exported(after), kernels, {})
    (matmul,) = kernels.matmuls
    assert {name for name in ("bias", "gated", "residual") if getattr(matmul, name)} == fused
    assert matmul.activation == ("gelu_pytorch_tanh" if case == "GELU" else "silu")
    names = calls(mod["forward"])
    assert sum(name.startswith("w4_decode") for name in names) == 1 and set(left) <= set(names)


@pytest.mark.parametrize(("quantization", "layout"), [("q4f16_0", "KN"), ("q4f16_1", "NK"), ("q0f16", "NK")])
def test_a_matmul_tells_the_layout_of_its_weight(quantization, layout):
    mod = exported(lambda y, x: y, quantization)
    (function,) = (f for _, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc))
    _, weight = weight_block(tvm.s_tir.Schedule(function))
    assert (weight.op, weight.layout, weight.quantization.name) == (MATMUL, layout, quantization)


def test_kernels_unpack_one_grid_alone(monkeypatch):
    monkeypatch.setitem(
        QUANTIZATIONS, "q3f16_1", Quantization("q3f16_1", "float16", bits=3, group_size=40, zero_point=3)
    )
    kernels = Kernels()
    fuse_matmuls(exported(lambda y, x: y, "q3f16_1"), kernels, {})
    assert not kernels.matmuls
