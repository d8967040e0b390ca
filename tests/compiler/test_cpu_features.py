"""A library built for one CPU refuses to run on another, with an error that says why."""

from pathlib import Path

import pytest
import tvm
from tvm.target import Target, codegen

from edge_transact.compiler import library
from edge_transact.compiler.cpu.isa import select
from edge_transact.compiler.targets import get_target
from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.host import require_cpu
from edge_transact.system import cpu as features
from edge_transact.system.cpu import has_fast_bf16, missing
from tests.support.cpu_kernels import HOST

ELSEWHERE = ["neon", "sve2"] if "x86_64" in str(HOST.attrs["mtriple"]) else ["avx512f", "avx2"]


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Gives this machine another ``/proc/cpuinfo``."""

    def write(text: str) -> None:
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(features, "CPUINFO", tmp_path / "cpuinfo")

    return write


def test_this_machine_has_what_its_own_target_needs():
    assert missing(codegen.llvm_get_cpu_features(HOST)) == []


def test_what_the_machine_lacks_is_named():
    with pytest.raises(EdgeTransactError, match=rf"built for another, .* has no {', '.join(ELSEWHERE)}") as error:
        require_cpu(Path("model.so"), {"name": "another", "features": [*ELSEWHERE, "unheard-of"]})
    assert "--target host" in error.value.fix


def test_a_host_library_with_i8mm_needs_it(cpuinfo):
    """Only a phone's library asks at run time."""
    target = Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a710", "num-cores": 2})
    cpuinfo("Features : asimd asimdhp asimddp\n")
    with pytest.raises(EdgeTransactError, match=r"built for cortex-a710, .* has no .*i8mm"):
        require_cpu(Path("model.so"), library._cpu(target)["cpu"])


@pytest.mark.parametrize(
    ("triple", "name", "said", "isa"),
    [
        ("x86_64-linux-gnu", "x86-64", "flags : sse4_2 avx avx2 fma f16c", "avx2"),
        ("x86_64-linux-gnu", "nocona", "flags : sse4_2 avx avx2 fma f16c avx512f avx512bw avx512vl avx512dq", "avx512"),
        ("x86_64-linux-gnu", "haswell", "flags : sse4_2 avx avx2 fma f16c avx_vnni", "avxvnni"),
        ("x86_64-linux-gnu", "znver4", "flags : sse4_2 avx avx2 fma f16c", "avx2"),
        ("aarch64-linux-gnu", "generic", "Features : asimd asimdhp asimddp", "neondot"),
    ],
)
def test_the_cpus_features_count_whatever_its_name_says(triple, name, said, isa, cpuinfo, monkeypatch):
    """Virtual machines have CPUs whose names LLVM doesn't know, or that promise less or more than there is."""
    cpuinfo(f"{said}\n")
    monkeypatch.setattr(codegen, "llvm_get_system_cpu", lambda: name)
    get_global_func = tvm.get_global_func
    monkeypatch.setattr(
        tvm, "get_global_func", lambda key: (lambda: triple) if key.endswith("TargetTriple") else get_global_func(key)
    )
    target = get_target("host").tvm_target()
    assert select(target, 2, "one").name == isa
    assert missing(library._cpu(target)["cpu"]["features"]) == []


def test_cores_that_lack_what_others_have(cpuinfo):
    """As hybrid laptops do: kernels may run on any core."""
    cpuinfo("processor : 0\nflags : avx2 avx512f\n\nprocessor : 1\nflags : avx2\n")
    assert missing(["avx2", "avx512f"]) == ["avx512f"]


@pytest.mark.parametrize(
    ("said", "fast"),
    [
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16", False),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16 amx_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : avx2", False),
        ("Features : asimd bf16 i8mm", True),
        ("Features : asimd", False),
        # Cores of two kinds: a library that uses what some lack would crash on those.
        ("flags : avx2 amx_bf16\nflags : avx2", False),
        ("", False),
    ],
)
def test_which_cpus_multiply_bf16_fast(said, fast, cpuinfo):
    cpuinfo(said)
    assert has_fast_bf16() is fast
