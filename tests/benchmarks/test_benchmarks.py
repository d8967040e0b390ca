"""The parts of ``make bench`` from which its figures are made. No test can assert the figures themselves."""

import platform
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import aarch64, llama_cpp, page, scale, shapes, subjects
from benchmarks.__main__ import CPU_SECTIONS, SECTIONS
from benchmarks.limits import Limits
from edge_transact import costs
from edge_transact.bench.records.plan import Lengths
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.system.cores import allowed_cpus
from edge_transact.widths import LayerWidths, WidthPlan


def test_a_section_of_the_page_is_replaced_and_no_other(tmp_path):
    copy = tmp_path / "page.md"
    shutil.copyfile(page.PAGE, copy)
    sections = [*SECTIONS, *(f"{section} {cpu}" for section in CPU_SECTIONS for cpu in ("haswell", "alderlake"))]
    for section in sections:
        page.write(section, f"first {section}.", copy)
    page.write("shapes", "| second |", copy)
    text = copy.read_text()
    assert "| second |" in text and "first shapes." not in text
    assert all(f"first {section}." in text for section in sections if section != "shapes")
    with pytest.raises(ValueError, match="0 sections nothing"):
        page.write("nothing", "", copy)


def test_a_spread_is_the_median_and_both_ends():
    assert page.spread([3.0, 1.0, 2000.0], 1) == "3.0 (1.0 to 2,000.0)"


def plan_of(layers: int) -> WidthPlan:
    return WidthPlan(64, 128, False, False, False, (LayerWidths(4, 2, 16, 16, 96),) * layers)


def test_two_depths_tell_all_layers():
    """Like the cost formulas, which are also linear in layers."""
    lengths = Lengths(8, 4)
    for cost in (shapes._flops, shapes._bytes):
        shape = shapes.Shape(plan_of(9), {}, Path())
        found = {depth: float(cost(plan_of(depth), lengths)) for depth in (1, 3)}
        assert shape.extended(found) == pytest.approx(cost(plan_of(9), lengths))
    assert shapes.Shape(plan_of(9), {}, Path()).extended({9: 2.5}) == 2.5


def test_fewer_layers_are_pruned_to_their_part_of_the_size():
    """408 M: two of 32 layers' share of 2.6 B, plus the embedding and lm_head of 131 M each."""
    whole, part = (scale.budgets({**scale.LLAMA_2_7B, "num_hidden_layers": layers}) for layers in (32, 2))
    assert list(whole) == ["--heads 6 --intermediate 1536", "--target-params 2.6B"]
    assert part["--target-params 408M"] == {"target_params": "408M"}


def test_decoded_tokens_are_those_after_the_first():
    reads = costs.decode_read_bytes(plan_of(2), shapes.QUANTIZATION, 8 + 2)
    assert shapes._bytes(plan_of(2), Lengths(8, 4)) == 3 * reads


def loops_are_kept(limits: Limits, threads: int) -> bool:
    """More passes take longer, so the compiler hasn't removed the loop.

    The shortest of ten times counts: others have waited for CPUs on which other tests run.
    """
    few, many = (
        min(limits._multiplies.multiply_seconds(passes, threads) for _ in range(10)) for passes in (1_000, 1_000_000)
    )
    return many > 10 * few > 0


def test_limits_are_measured(tmp_path):
    limits = Limits(tmp_path, threads=2)
    assert loops_are_kept(limits, 2)
    assert limits.read_bytes_per_s(100_003) > 0
    assert limits.flops_per_s(100_000) > 0


def test_measuring_binds_no_thread_but_its_own(tmp_path):
    """Programs that start later inherit the CPUs of the thread that starts them."""
    limits, before = Limits(tmp_path, threads=2), allowed_cpus()
    for _ in range(5_000):
        limits._multiplies.multiply_seconds(0, 2)
    assert allowed_cpus() == before


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a CPU of x86-64")
def test_another_cpus_instructions_multiply_in_a_library_of_their_own(tmp_path):
    """Memory is read with this machine's instructions."""
    old, new = (Limits(tmp_path, 1, cpu) for cpu in ("haswell", None))
    assert {path.name for path in tmp_path.iterdir()} == {"limits-haswell.so", "limits-native.so"}
    assert loops_are_kept(old, 1)
    assert new._multiplies._name != old._multiplies._name and old._reads._name == new._reads._name


def test_llama_cpp_is_kept_to_a_cpus_instructions(tmp_path):
    """node-llama-cpp takes the best of the libraries that it finds."""
    installed = tmp_path / "node" / "bins"
    installed.mkdir(parents=True)
    for name in ("libggml-base", "libggml-cpu-haswell", "libggml-cpu-x64", "libggml-cpu-zen4"):
        (installed / f"{name}.so").write_text(name)
    only = llama_cpp._only_for("haswell", tmp_path / "node")
    assert {file.name for file in (only / "bins").iterdir()} == {"libggml-base.so", "libggml-cpu-haswell.so"}
    assert len([*installed.iterdir()]) == 4
    with pytest.raises(EdgeTransactError, match="for znver3") as caught:
        llama_cpp._only_for("znver3", tmp_path / "node")
    assert "haswell, x64, zen4" in caught.value.fix


def test_cpus_hear_of_each_other_where_there_are_two(tmp_path):
    handover_s = Limits(tmp_path, threads=2).handover_s()
    if len(allowed_cpus()) < 2:
        assert handover_s is None
    else:
        assert 1e-9 < handover_s < 1e-3


def test_a_process_that_ends_is_said():
    with pytest.raises(EdgeTransactError, match="ended"):
        subjects.Subject([sys.executable, "-c", "pass"])


def test_a_missing_node_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeTransactError, match="node is missing"):
        llama_cpp.start(tmp_path / "model.gguf", tmp_path, threads=1)


def test_the_loop_is_the_innermost_with_the_arithmetic():
    code = [
        (0, "mov x0, xzr"),
        (4, "ldr q0, [x1], #16"),  # the outer loop begins
        (8, "fmla v0.4s, v1.4s, v2.s[0]"),  # the inner one
        (12, "subs x2, x2, #1"),
        (16, "b.ne 0x8"),
        (20, "add x3, x3, #1"),  # another, without arithmetic
        (24, "cbnz x3, 0x14"),
        (28, "b.ne 0x4"),
        (32, "ret"),
    ]
    loop = aarch64.find_loop(code)
    assert loop.assembly == ("fmla v0.4s, v1.4s, v2.s[0]", "subs x2, x2, #1", "b.ne 0x8")


@pytest.mark.slow
@pytest.mark.needs("aarch64-linux-gnu-gcc", "llvm-mca-19", "qemu-aarch64")
@pytest.mark.parametrize("name", ["q4f16_0", "q4f16_1", "q4f32_1"])
def test_what_runs_in_the_emulator_is_the_loop(tmp_path, name):
    quantization = QUANTIZATIONS[name]
    kernel = aarch64.compile_decode(quantization, tmp_path)
    loop = aarch64.find_loop(aarch64.disassemble(kernel))
    per_byte = aarch64.instructions_per_byte(kernel, quantization)
    found = [aarch64.cycles(loop, core) for core in aarch64.CORES]
    # The loop multiplies every weight, sixteen at a time, with each digit of an activation, and little runs outside it.
    digits = 2 if quantization.model_dtype == "float16" else 3
    products = 16 / digits * sum(text.startswith("sdot") for text in loop.assembly)
    nbytes = products * (1 / 2 + quantization.model_dtype_bytes / 32)
    assert per_byte == pytest.approx(len(loop.assembly) / nbytes, rel=0.2)
    # No core executes more than ten instructions in a cycle.
    assert all(len(loop.assembly) / 10 < cycles for cycles in found)


@pytest.mark.slow
def test_a_host_library_answers_again_and_again(tmp_path, tiny_model):
    from edge_transact.build.dist import build
    from edge_transact.build.options import BuildOptions

    dist = tmp_path / "tiny"
    made = build(str(tiny_model), dist, BuildOptions(target=["host"], quant="q4f32_1"))
    subject = subjects.host(dist / made.manifest.libraries["host"], dist, threads=1)
    try:
        assert subject.about["cpu"]
        for _ in range(2):
            seconds = subject.repetition([5, 6, 7], 4)
            assert seconds["prefill_s"] > 0 and seconds["decode_s"] > 0
    finally:
        subject.close()
