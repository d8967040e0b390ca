"""``android-x86_64``: what its ABI promises suffices, and libraries linked as for Android give torch's logits here."""

import ctypes
import platform
import re

import numpy as np
import pytest
import torch
import tvm
from tvm.script import tirx as T

from edge_transact.compiler.archive import C_LIBRARIES, android_linker, archived, link_android, link_empty
from edge_transact.compiler.library import build_library
from edge_transact.compiler.lowering import PIPELINE, PLAIN_LOOPS
from edge_transact.compiler.targets import get_target, library_name, system_lib_prefix
from edge_transact.compiler.vector import cast, kernel_body, load, store, tensor
from edge_transact.runtime.host import HostModel, import_tvm_ffi
from tests.support.bionic import lacks, tvm_runtime
from tests.support.emulated import llvm_tool, run
from tests.support.odd_models import MODEL_LIB

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86-64 CPU")

TARGET = "android-x86_64"


def converted(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values as numbers of `dtype`, 8 at a time, on a CPU without F16C."""
    with kernel_body(PLAIN_LOOPS, name="main") as ib:
        x, y = (tensor(name, (values.size,), each) for name, each in (("x", str(values.dtype)), ("y", dtype)))
        with T.serial(0, values.size // 8) as i:
            store(y, cast(dtype, load(x, [8 * i], 8)), [8 * i])
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v2", "mtriple": "x86_64-linux-gnu"})
    module = tvm.compile(ib.get(), target, tir_pipeline=PIPELINE)
    assert not re.search(r"call\w*\s+\S*hf", module.mod.inspect_source("asm")), "a call for each element"
    result = tvm.runtime.empty(values.shape, dtype)
    module(tvm.runtime.tensor(values), result)
    return result.numpy()


def test_fp16_becomes_fp32_and_back_as_ieee_754_says():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    singles = converted(halves, "float32")
    assert (np.isnan(singles) == np.isnan(halves)).all()
    numbers = ~np.isnan(halves)
    expected = halves.astype(np.float32)
    np.testing.assert_array_equal(singles[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    # Between all neighbours, halves of the distance and next to them, and bits at random.
    some = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    bits = np.concatenate([expected.view(np.uint32) + offset for offset in (0, 0xFFF, 0x1000, 0x1001)] + [some])
    floats = bits.astype(np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        want = floats.astype(np.float16)
    got, numbers = converted(floats, "float16"), ~np.isnan(floats)
    assert np.isnan(got[~numbers]).all()
    np.testing.assert_array_equal(got[numbers].view(np.uint16), want[numbers].view(np.uint16))


@pytest.mark.slow
@pytest.mark.needs("clang-19", "ld.lld-19", "llvm-objdump-19")
@pytest.mark.soak
@pytest.mark.parametrize("name", ["q4f16_0", "q4f32_1"])
def test_a_library_needs_no_more_than_sse4_2_and_gives_torchs_tokens(source, name, tmp_path, monkeypatch):
    weights, quantization = source.weights(name)
    library = library_name(f"{MODEL_LIB}_{name}", TARGET)  # a process may load both
    metadata = build_library(source.definition, quantization, get_target(TARGET), library, tmp_path / "library.tar")
    assert metadata["cpu"]["features"] == ["sse4.2"]
    for member, content in archived(tmp_path / "library.tar"):
        (tmp_path / member).write_bytes(content)
        code = run(llvm_tool("llvm-objdump"), "-dr", "--no-show-raw-insn", str(tmp_path / member)).decode()
        assert re.findall(r"%[yz]mm\d+|^\s+\w+:\s+v\w+", code, re.MULTILINE) == []
        assert member != "lib0.o" or "pmaddubsw" in code
        assert re.findall(r"R_X86_64\w+\s+__\w*hf", code) == [], "a call for each element"
    link_android(tmp_path / "library.tar", tmp_path / "libmodel.so", android_linker("x86_64"))
    assert lacks(tmp_path / "libmodel.so", executable=tvm_runtime()) == []
    for each in C_LIBRARIES:  # Android's; their symbols are found in this process
        link_empty(android_linker("x86_64"), tmp_path / each)
        ctypes.CDLL(str(tmp_path / each))
    ffi = import_tvm_ffi()
    ffi.libinfo.load_lib_ctypes("apache-tvm", "tvm_runtime", "RTLD_GLOBAL")
    ctypes.CDLL(str(tmp_path / "libmodel.so"))
    monkeypatch.setattr(ffi, "load_module", lambda *_, **__: ffi.system_lib(system_lib_prefix(library)))
    model = HostModel(tmp_path / "libmodel.so", weights)
    ids = [(7 * i + 3) % 300 for i in range(41)]
    logits, tokens = [model.prefill(ids)], []
    for _ in range(12):
        tokens.append(int(logits[-1].argmax()))
        logits.append(model.decode(tokens[-1]))
    with torch.inference_mode():
        expected = source.reference(name)(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 :].float().numpy()
    tolerance = 2e-5 if "f32" in name else 5e-3
    np.testing.assert_allclose(np.stack([each.reshape(-1) for each in logits]), expected, atol=tolerance, rtol=0)
    assert tokens == expected[:-1].argmax(-1).tolist()
