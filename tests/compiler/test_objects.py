"""Kernels of host libraries as objects: linked into a library that computes, and compiled once for all libraries."""

from contextlib import contextmanager

import numpy as np
import pytest
import tvm
from tvm import relax, tirx, topi

from edge_transact import cache
from edge_transact.compiler.objects import KERNEL_LINES, compile_kernels
from edge_transact.compiler.targets import get_target

pytestmark = pytest.mark.usefixtures("own_cache")


def library(tmp_path, **addends: float):
    """A library whose `main` adds these one after the other, each with a kernel of its own."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([3], "float32"))
    with builder.function("main", [x]):
        value = x
        with builder.dataflow():
            for name, addend in addends.items():
                value = builder.emit_te(topi.add, value, tirx.const(addend, "float32"), primfunc_name_hint=name)
            value = builder.emit_output(value)
        builder.emit_func_output(value)
    target = get_target("host").tvm_target()
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.so"
    with target:
        mod = relax.get_pipeline("default_build")(builder.get())
        executable = relax.build(compile_kernels(mod, target), target, relax_pipeline=None)
    executable.export_library(str(path))
    return relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"]


def kernels() -> list[str]:
    return sorted(entry.what for entry in cache.entries())


def added(main) -> np.ndarray:
    return main(tvm.runtime.tensor(np.zeros(3, "float32"))).numpy()


def test_a_kernel_is_compiled_once_for_all_libraries(tmp_path):
    np.testing.assert_array_equal(added(library(tmp_path, b=2, a=1)), [3, 3, 3])
    assert kernels() == ["compile a", "compile b"]
    (first,) = (entry.path / "content" / "b.o" for entry in cache.entries() if entry.what == "compile b")
    made = first.stat().st_mtime_ns
    np.testing.assert_array_equal(added(library(tmp_path, b=2, c=5)), [7, 7, 7])
    assert kernels() == ["compile a", "compile b", "compile c"] and first.stat().st_mtime_ns == made


def test_kernels_that_differ_in_a_numbers_last_bit_are_different(tmp_path):
    for addend in (np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))):
        np.testing.assert_array_equal(added(library(tmp_path, a=float(addend))), np.full(3, addend))
    assert kernels() == ["compile a", "compile a"]


def test_the_bar_counts_lines_of_kernels_that_the_cache_lacks(tmp_path, monkeypatch):
    bars = []

    @contextmanager
    def noted(_step, total):
        steps = []
        yield steps.append
        bars.append((total, steps))

    monkeypatch.setattr("edge_transact.compiler.objects.bar", noted)
    library(tmp_path, b=2, a=1)
    library(tmp_path, b=2, c=5)
    (whole, each), (lacking, left) = bars
    assert sum(each) == whole and min(each) > KERNEL_LINES, "every kernel is a function of some lines"
    # Both are sorted by name, and adding differs in the number alone.
    assert lacking == each[0] and left == [0, each[0]]
