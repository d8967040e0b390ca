"""Tensors of the same memory and shape are made once, and nothing else is shared."""

import re

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from edge_transact.compiler.passes.tensors import share_tensors


@I.ir_module(s_tir=True)
class Layers:
    """Two layers that take turns in a piece of memory, as TVM plans them."""

    @T.prim_func(private=True, s_tir=True)
    def double(x: T.Buffer((T.int64(6),), "float32"), y: T.Buffer((T.int64(6),), "float32")):
        for i in range(6):
            y[i] = x[i] * T.float32(2)

    @R.function(pure=False)
    def main(x: R.Tensor((6,), "float32")):
        cls = Layers
        memory = R.memory.alloc_storage(R.shape([24]), 0, "global", "float32")
        other = R.memory.alloc_storage(R.shape([24]), 0, "global", "float32")
        first = R.memory.alloc_tensor(memory, 0, R.shape([6]), "float32")
        cls.double(x, first)
        view = R.reshape(first, R.shape([2, 3]))
        flat = R.reshape(view, R.shape([6]))
        second = R.memory.alloc_tensor(other, 0, R.shape([6]), "float32")
        cls.double(flat, second)
        _unused = (first, second)
        third = R.memory.alloc_tensor(memory, 0, R.shape([6]), "float32")
        cls.double(second, third)
        again = R.reshape(third, R.shape([2, 3]))
        narrow = R.reshape(third, R.shape([3, 2]))
        result = R.builtin.alloc_tensor(R.shape([6]), R.dtype("float32"), R.prim_value(0))
        cls.double(third, result)
        return (result, again, narrow)


def text(mod: tvm.IRModule) -> str:
    return relax.transform.KillAfterLastUse()(mod)["main"].script()


def test_the_same_memory_and_shape_is_one_tensor_and_one_view():
    before, after = text(Layers), text(share_tensors(Layers))
    assert len(re.findall(r"R\.memory\.alloc_tensor", before)) == 3
    assert len(re.findall(r"R\.memory\.alloc_tensor", after)) == 2
    assert before.count("R.shape([2, 3])") == 2 and after.count("R.shape([2, 3])") == 1
    assert after.count("R.shape([3, 2])") == 1, "another shape is another view"
    assert "_unused" in before and "_unused" not in after


def test_the_numbers_stay():
    x = np.arange(6, dtype=np.float32)
    results = []
    for mod in (Layers, share_tensors(Layers)):
        views = relax.transform.LowerRuntimeBuiltin()(relax.transform.LowerAllocTensor()(mod))
        machine = relax.VirtualMachine(tvm.compile(views, target="llvm"), tvm.cpu())
        results.append([each.numpy() for each in machine["main"](tvm.runtime.tensor(x))])
    for before, after in zip(*results, strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(results[1][0], x * 16)
