"""Machine code as Mesa prints it, loops of kernels, and what follows for a decoded token."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tvm.script import tirx as T

from benchmarks import machine_code, mesa, page, pictures
from benchmarks.mesa import MachineCode
from benchmarks.phone_gpu import BEFORE, MACHINE_CODE, read_rows
from benchmarks.roofline import Phone, Work, executed
from benchmarks.trips import Loop, loops
from edge_transact.errors import EdgeTransactError

DATA = Path(__file__).parents[1] / "data"
ADRENO, MALI = ((DATA / f"mesa_{gpu}.txt").read_text() for gpu in ("adreno", "mali"))
"""What the drivers printed of the same kernel, ``softmax_partial_maxima``, from the listing on."""


def test_adrenos_instructions_are_those_that_do_something():
    code = mesa.parse_adreno(ADRENO)
    assert "52 non-nops" in ADRENO and code.instructions == 52
    assert "1 loops" in ADRENO and code.longest_loop == 36
    assert (code.registers, code.threads, code.spills) == (5, "2048", 0)
    assert code.memory == {"ldg": 2, "stg": 2}


def test_malis_last_listing_is_the_machine_code():
    code = mesa.parse_mali(MALI)
    assert "54 inst," in MALI and code.instructions == 54 - 1, "one is a NOP"
    assert "1 loops" in MALI and code.longest_loop == 33
    assert (code.threads, code.spills, code.memory) == ("all", 0, {"LOAD": 2, "STORE": 2})
    # r0 to r9, and the two in which the indices of threads and groups come.
    assert code.registers == 12
    assert mesa.parse_mali(MALI.replace("2 threads", "1 threads").replace("0:0 spills", "3:4 spills")).spills == 7


def test_repetitions_loops_and_spills_of_adreno():
    lines = [
        "; CL prog 1/1: 0 half, 40 full, 8 constlen",
        "Native code for unnamed CL shader",
        "shps #l1",
        "shpe",
        "l1:",
        "(rpt2)mov.f32f32 r0.x, r1.x",  # three
        "l2:",
        "(sy)(ss)(nop3) add.f r0.x, r0.x, r1.x",
        "l3:",
        "(jp)ldp.u32 r0.x, p[r0.y], 1",
        "stp.u32 p[r0.y], r0.x, 1",
        "br p0.x, #l3",
        "(rpt5)nop",
        "br p0.x, #l4",
        "jump #l2",
        "l4:",
        "end",
        "; CL prog 1/1: 0 half, 40 full, 8 constlen",
    ]
    code = mesa.parse_adreno("\n".join(f"MESA: info: {line}" for line in lines))
    assert (code.instructions, code.loops, code.longest_loop) == (10, ((3, 9), (4, 7)), 3)
    assert (code.spills, code.threads) == (2, "256")


def code_with(*spans: tuple[int, int]) -> MachineCode:
    return MachineCode(100, spans, 8, "1024", 0, {})


def test_instructions_of_loops_are_executed_in_every_turn():
    assert executed(code_with(), []) == 100
    assert executed(code_with((10, 30)), [Loop(5, False)]) == 80 + 5 * 20
    assert executed(code_with((10, 30)), [Loop(0, False)]) == 80
    nested = [Loop(5, False, (Loop(3, False),)), Loop(2, True)]
    assert executed(code_with((10, 30), (15, 20), (50, 60)), nested) == 70 + 5 * (15 + 3 * 5) + 2 * 10


def test_the_compiler_unrolls_short_loops_of_constant_length():
    source = [Loop(21, False, (Loop(3, True), Loop(64, True))), Loop(5, True)]
    assert executed(code_with((0, 50), (10, 20)), source) == 50 + 21 * (40 + 64 * 10)
    with pytest.raises(ValueError, match="has 2 loops, the source 1"):
        executed(code_with((0, 50), (10, 20)), [Loop(21, False)])


@T.prim_func(s_tir=True)
def of_pages(indptr_ptr: T.handle("int32", "global"), k: T.int32, x_ptr: T.handle("float32", "global")):
    T.func_attr({"global_symbol": "of_pages"})
    indptr = T.decl_buffer((4,), "int32", data=indptr_ptr)
    x = T.decl_buffer((k,), "float32", data=x_ptr)
    with T.launch_thread("blockIdx.x", 2) as block:
        own = T.alloc_local((1,), "int32")
        thread = T.launch_thread("threadIdx.x", 64)
        own[0] = indptr[block + 1] - indptr[block]
        for i in range(T.shift_right(k + 15 - thread, 4)):
            for j in range(own[0]):
                if x[i] < T.float32(0):
                    for n in range(3):
                        x[i + j + n] = T.float32(1)
        if k < 10:
            for i in range(7):
                x[i] = T.float32(0)


@pytest.mark.parametrize(("thread", "turns"), [(0, 3), (1, 2)])
def test_turns_follow_from_arguments_memory_and_the_thread(thread, turns):
    """A branch whose condition isn't known is taken."""
    indptr = np.array([2, 9, 9, 9], np.int32)
    found = loops(of_pages, (indptr.ctypes.data, 33, 0), {"threadIdx.x": thread})
    assert found == (Loop(turns, False, (Loop(7, False, (Loop(3, True),)),)),)


def test_a_launch_takes_as_long_as_its_busiest_core():
    phone = Phone("", "mali-g610", cores=4, lanes=32, clock_hz=1e9)
    # Waves of 16 threads: three turns of 20 for the first, one for the other.
    work = Work("kernel", groups=9, threads=32, loops=((Loop(3, False),), (Loop(1, False),)))
    code = code_with((10, 30))
    assert work.instructions(code, 16) == 16 * (140 + 100)
    assert work.seconds(code, phone) == pytest.approx(3 * 16 * 240 / 32 / 1e9)
    # One of 128 threads goes as its first thread does.
    assert work.instructions(code, 128) == 128 * 140


def test_the_page_says_what_the_rows_say(tmp_path):
    rows, before = read_rows(MACHINE_CODE), read_rows(BEFORE)
    written = page.DOCS / "lab" / "phone-gpu.md"
    again = Path(shutil.copy(written, tmp_path))
    for section, text in machine_code.sections(rows, before).items():
        page.write(section, "", again)
        page.write(section, text, again)
    assert again.read_text() == written.read_text()


def test_the_picture_has_a_panel_for_each_model(tmp_path):
    bars = {model: {"phone": (1.0, [0.5, 0.25]), "other": (2.0, [3.0, 1.0])} for model in ("small", "large")}
    pictures.roofline(bars, ("matmuls", "attention"), tmp_path / "roofline.svg")
    drawn = (tmp_path / "roofline.svg").read_text()
    words = ("small", "large", "phone", "other", "bytes", "instructions: matmuls", "instructions: attention")
    assert all(f">{word}<" in drawn for word in words)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeTransactError, match="qemu-user") as raised:
        mesa.compile_kernels("adreno-750", {"kernel": ""})
    assert "apt-get install" in raised.value.fix
