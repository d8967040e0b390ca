"""``android-cpu`` on emulated CPUs: prefill on two generations of them, and whole libraries of all families."""

import re
import tarfile

import numpy as np
import pytest
import torch

from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.library import build_library
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.targets import get_target, library_name
from tests.support.cpu_kernels import matmul_case
from tests.support.emulated import call, compile_kernel, link, llvm_tool, run, run_library
from tests.support.odd_models import CONFIG, MODEL_LIB, NORMED, PARTIAL_OWN_DIMS, make_source
from tests.support.packed import W4F16

WITH_DOTPROD, WITH_I8MM = "cortex-a76", "max"
"""qemu's CPUs."""

pytestmark = pytest.mark.slow


@pytest.mark.needs("aarch64-linux-gnu-gcc", "qemu-aarch64")
@pytest.mark.parametrize("layout", ["KN", "NK"])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_a_cpu_multiplies_by_the_best_that_it_has(layout, gated, tmp_path, rng):
    kind = Matmul(layout, "float16", W4F16, "float16", norm_eps=1e-5, gated=gated, residual=True)
    isa = CPUKernels(get_target("android-cpu").tvm_target(), 1).instructions(kind, rows="any")
    program = link(compile_kernel(kind, isa, "any", tmp_path))
    for k, n, rows in ((96, 40, 7), (41, 78, 1), (320, 32, 12)):
        arguments, want = matmul_case(kind, k, n, (1, rows), rng)
        results = {}
        for cpu, instruction in ((WITH_DOTPROD, "sdot"), (WITH_I8MM, "smmla")):
            log = tmp_path / f"{cpu}.log"
            results[cpu] = call(program, arguments, "-cpu", cpu, "-d", "in_asm", "-D", str(log))
            assert set(re.findall("sdot|smmla", log.read_text())) == {instruction}
            assert np.abs(results[cpu] - want).max() <= 2e-3 * np.abs(want).max()
        # Integers are summed exactly, and what follows is the same.
        np.testing.assert_array_equal(results[WITH_DOTPROD], results[WITH_I8MM])


@pytest.mark.needs("llvm-objdump-19")
def test_only_prefill_has_instructions_that_a_phone_may_lack(archives, tmp_path):
    """Of i8mm's, LLVM chose none by itself, though the target lets it."""
    found = set()
    with tarfile.open(archives["android-cpu"].path) as objects:
        objects.extractall(tmp_path, filter="data")
    for file in tmp_path.rglob("*.o"):
        code = run(llvm_tool("llvm-objdump"), "-d", "--no-show-raw-insn", str(file)).decode()
        for name, body in re.findall(r"<(\w+)>:\n(.*?)(?:\n\n|\Z)", code, re.DOTALL):
            found |= {(name, text) for text in re.findall(r"\b(?:[su]|us)mmla\b|\b(?:us|su)dot\b", body)}
    assert found and all("w4_prefill" in name and text == "smmla" for name, text in found)


def test_a_phone_without_i8mm_is_not_refused(archives):
    features = archives["android-cpu"].metadata["cpu"]["features"]
    assert "dotprod" in features and "i8mm" not in features


@pytest.mark.soak
@pytest.mark.needs("aarch64-linux-gnu-g++", "clang-19", "cmake", "ninja", "qemu-aarch64")
@pytest.mark.parametrize(
    ("config", "name"), [(CONFIG | NORMED, "q4f16_0"), (PARTIAL_OWN_DIMS, "q4f32_1")], ids=["normed", "partial RoPE"]
)
def test_libraries_of_other_families_give_torchs_tokens(config, name, tmp_path):
    """Norms of heads, with RoPE in the cache; RoPE in some layers, of some dims, scaled beyond its length."""
    # Weights so large that attention is sharp: tokens change with RoPE.
    source = make_source(tmp_path, config | {"initializer_range": 0.5})
    weights, quantization = source.weights(name)
    library = library_name(MODEL_LIB, "android-cpu")
    build_library(source.definition, quantization, get_target("android-cpu"), library, tmp_path / "library.tar")
    ids = [(7 * i + 3) % 300 for i in range(41)]  # two chunks and a part of one
    tokens = run_library(tmp_path / "library.tar", library, weights, ids, 12)
    with torch.inference_mode():
        logits = source.reference(name)(torch.tensor([ids + tokens[:-1]])).logits[0, len(ids) - 1 :]
    assert tokens == logits.argmax(-1).tolist()
    assert len(set(tokens)) > 6
