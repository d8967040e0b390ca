"""The runtime's functions that a library calls: known, there, and with as many arguments."""

import re

import pytest

from edge_transact.doctor import android
from edge_transact.mlc.builtins import CALLS, called, incompatible, registered


@pytest.fixture(scope="module")
def calls(tiny_model, tmp_path_factory):
    import tvm

    from edge_transact.build.dist import build

    output = tmp_path_factory.mktemp("calls") / "dist"
    made = build(str(tiny_model), output, targets=["host"])
    return called(tvm.runtime.load_module(str(output / made.manifest.libraries["host"])))


def test_the_list_has_all_that_a_library_calls(calls):
    assert "vm.builtin.attention_kv_cache_attention_with_fused_qkv" in calls
    assert {name: counts - CALLS.get(name, set()) for name, counts in calls.items() if counts - CALLS[name]} == {}


def test_the_tvm_that_builds_registers_all_of_it():
    import tvm

    assert [name for name in CALLS if tvm.get_global_func(name, allow_missing=True) is None] == []


SOURCE = """
  refl::GlobalDef()
      .def("vm.builtin.reshape", [](Tensor data, ffi::Shape shape) { return data; })
      .def("vm.builtin.copy", [](ffi::Map<String, Any> a, int b, int c) { return a; })
      .def_packed("vm.builtin.make_shape", MakeShape)
      .def("vm.builtin.null_value", []() { return nullptr; });
"""


def test_sources_are_read_and_compared(tmp_path):
    (tmp_path / "src" / "runtime").mkdir(parents=True)
    (tmp_path / "src" / "runtime" / "builtin.cc").write_text(SOURCE)
    runtime = registered(tmp_path)
    assert runtime == {
        "vm.builtin.reshape": 2,
        "vm.builtin.copy": 3,
        "vm.builtin.make_shape": None,
        "vm.builtin.null_value": 0,
    }
    calls = {name: CALLS[name] for name in (*runtime, "vm.builtin.alloc_tensor")}
    assert incompatible(calls, runtime) == [
        "vm.builtin.alloc_tensor is not registered",
        "vm.builtin.copy takes 3 arguments, and is called with 1",
    ]


def test_doctor_names_what_a_runtime_lacks(tmp_path, monkeypatch):
    (tmp_path / "python/mlc_llm").mkdir(parents=True)
    (tmp_path / "3rdparty/tvm/include/tvm").mkdir(parents=True)
    (tmp_path / "3rdparty/tvm/src").mkdir()
    monkeypatch.setenv("MLC_LLM_SOURCE_DIR", str(tmp_path))
    mlc, tvm = android.mlc()
    assert "not a known pair" in mlc.found
    assert not tvm.ok and re.search(r"vm\.builtin\.\w+ is not registered", tvm.found) and "checkout" in tvm.fix
    source = "".join(f'.def_packed("{name}", F)\n' for name in CALLS)
    (tmp_path / "3rdparty/tvm/src/all.cc").write_text(source)
    assert android.mlc()[1].ok
