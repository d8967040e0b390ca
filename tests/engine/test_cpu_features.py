"""A library built for one CPU refuses another in words."""

from pathlib import Path

import pytest
from cpu_kernels import HOST
from tvm.target import Target, codegen

from edge_transact.engine.cpu.features import FLAGS, missing
from edge_transact.engine.cpu.isa import Avx512, Avx512Bf16, Avx512Vnni, Fp32, select
from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.host import require_cpu

ELSEWHERE = ["neon", "sve2"] if "x86_64" in str(HOST.attrs["mtriple"]) else ["avx512f", "avx2"]


def test_this_machine_has_what_its_own_target_needs():
    assert missing(codegen.llvm_get_cpu_features(HOST)) == []


def test_what_the_machine_lacks_is_named():
    with pytest.raises(EdgeTransactError, match=rf"built for another, .* has no {', '.join(ELSEWHERE)}") as error:
        require_cpu(Path("model.so"), {"name": "another", "features": [*ELSEWHERE, "unheard-of"]})
    assert "--target host" in error.value.fix


@pytest.mark.parametrize(
    ("mcpu", "mattr", "prefill", "terms", "decode", "lanes"),
    [
        ("znver4", [], Avx512Bf16, 2, Avx512Vnni, 16),
        ("sapphirerapids", [], Avx512Bf16, 2, Avx512Vnni, 16),
        ("znver4", ["-avx512bf16"], Avx512, 1, Avx512Vnni, 16),
        ("znver4", ["-avx512vnni"], Avx512Bf16, 2, Avx512Bf16, 16),
        ("skylake-avx512", [], Avx512, 1, Avx512, 16),
        ("znver3", [], Fp32, 1, Fp32, 8),
        ("x86-64", [], Fp32, 1, Fp32, 8),
    ],
)
def test_the_best_instructions_that_a_target_has(mcpu, mattr, prefill, terms, decode, lanes):
    target = Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu, "mattr": mattr})
    isa, for_one_row = select(target, 2), select(target, 2, one_row=True)
    assert (type(isa), isa.terms, isa.lanes) == (prefill, terms, lanes)
    assert (type(for_one_row), for_one_row.lanes) == (decode, lanes)
    assert set(isa.features + for_one_row.features) <= set(FLAGS), "a library must be able to say what it needs"
