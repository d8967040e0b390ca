"""A library built for one CPU refuses another in words."""

from pathlib import Path

import pytest
from tvm.target import Target, codegen

from edge_transact.compiler.cpu.isa import Avx512, Avx512Vnni, Fp32, NeonDot, select
from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.host import require_cpu
from edge_transact.system import cpu as features
from edge_transact.system.cpu import FLAGS, has_fast_bf16, missing
from tests.support.cpu_kernels import HOST

ELSEWHERE = ["neon", "sve2"] if "x86_64" in str(HOST.attrs["mtriple"]) else ["avx512f", "avx2"]


def test_this_machine_has_what_its_own_target_needs():
    assert missing(codegen.llvm_get_cpu_features(HOST)) == []


def test_what_the_machine_lacks_is_named():
    with pytest.raises(EdgeTransactError, match=rf"built for another, .* has no {', '.join(ELSEWHERE)}") as error:
        require_cpu(Path("model.so"), {"name": "another", "features": [*ELSEWHERE, "unheard-of"]})
    assert "--target host" in error.value.fix


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16", False),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16 amx_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : avx2", False),
        ("Features : asimd bf16 i8mm", True),
        ("Features : asimd", False),
        ("", False),
    ],
)
def test_which_cpus_multiply_bf16_fast(cpuinfo, fast, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    monkeypatch.setattr(features, "CPUINFO", file)
    assert has_fast_bf16() is fast


@pytest.mark.parametrize(
    ("architecture", "mcpu", "mattr", "expected", "terms", "lanes"),
    [
        ("x86_64", "znver4", [], Avx512Vnni, 3, 16),
        ("x86_64", "sapphirerapids", [], Avx512Vnni, 3, 16),
        ("x86_64", "znver4", ["-avx512vnni"], Avx512, 1, 16),
        ("x86_64", "skylake-avx512", [], Avx512, 1, 16),
        ("x86_64", "znver3", [], Fp32, 1, 8),
        ("x86_64", "x86-64", [], Fp32, 1, 8),
        ("aarch64", "cortex-a76", [], NeonDot, 3, 4),
        ("aarch64", "generic", ["+neon", "+dotprod"], NeonDot, 3, 4),
        ("aarch64", "cortex-a72", [], Fp32, 1, 4),
    ],
)
def test_the_best_instructions_that_a_target_has(architecture, mcpu, mattr, expected, terms, lanes):
    target = Target({"kind": "llvm", "mtriple": f"{architecture}-linux-gnu", "mcpu": mcpu, "mattr": mattr})
    isa = select(target, 3)
    assert (type(isa), isa.terms, isa.lanes) == (expected, terms, lanes)
    assert set(isa.features) <= set(FLAGS), "a library must be able to say what it needs"
