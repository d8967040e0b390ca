"""Tensors of the same memory and shape are made once, and nothing else is shared."""

import re
from collections import Counter

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from edge_transact.compiler.library import build_library
from edge_transact.compiler.passes.share_tensors import ShareTensors
from edge_transact.compiler.targets import get_target, library_name
from edge_transact.quantization import get_quantization
from tests.support.odd_models import CONFIG, MODEL_LIB, make_source


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
    before, after = text(Layers), text(ShareTensors()(Layers))
    assert len(re.findall(r"R\.memory\.alloc_tensor", before)) == 3
    assert len(re.findall(r"R\.memory\.alloc_tensor", after)) == 2
    assert before.count("R.shape([2, 3])") == 2 and after.count("R.shape([2, 3])") == 1
    assert after.count("R.shape([3, 2])") == 1, "another shape is another view"
    assert "_unused" in before and "_unused" not in after


def test_the_numbers_stay():
    x = np.arange(6, dtype=np.float32)
    results = []
    for mod in (Layers, ShareTensors()(Layers)):
        views = relax.transform.LowerRuntimeBuiltin()(relax.transform.LowerAllocTensor()(mod))
        machine = relax.VirtualMachine(tvm.compile(views, target="llvm"), tvm.cpu())
        results.append([each.numpy() for each in machine["main"](tvm.runtime.tensor(x))])
    for before, after in zip(*results, strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(results[1][0], x * 16)


def test_more_layers_make_no_more_tensors(tmp_path):
    definition = make_source(tmp_path, {**CONFIG, "num_hidden_layers": 5, "per_layer_config": {}}).definition

    def calls(layers: int) -> Counter[str]:
        dump, quantization, target = tmp_path / f"{layers}", get_quantization("q4f16_0"), get_target("android")
        name, path = library_name(MODEL_LIB, "android"), tmp_path / f"{layers}.tar"
        build_library(definition.truncated(layers), quantization, target, name, path, dump)
        return Counter(re.findall(r"call\s+(\S+)", (dump / "bytecode.txt").read_text()))

    three, five = calls(3), calls(5)
    attention = "vm.builtin.attention_kv_cache_attention_with_fused_qkv"
    assert five[attention] * 3 == three[attention] * 5 > 0
    for made in ("alloc_storage", "alloc_tensor", "reshape", "make_tuple"):
        assert five[f"vm.builtin.{made}"] == three[f"vm.builtin.{made}"] > 0
