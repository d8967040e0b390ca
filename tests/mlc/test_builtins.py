"""What libraries ask of the runtime: there in TVM's own, and looked for in a checkout's. See engine/test_targets.py."""

import pytest

from edge_transact.doctor import android
from edge_transact.mlc.builtins import BYTECODE, CALLS, TAGS, Runtime


def test_the_tvm_that_builds_registers_all_functions():
    import tvm

    assert [name for name in CALLS if tvm.get_global_func(name, allow_missing=True) is None] == []


SOURCE = """
Tensor AllocTensor(Storage storage, uint64_t offset, Shape shape, DLDataType dtype) {
  return storage->AllocTensor(offset, shape, dtype);
}
  refl::GlobalDef()
      .def("vm.builtin.alloc_tensor", AllocTensor)
      .def("vm.builtin.reshape", [](Tensor data, ffi::Shape shape) { return data; })
      .def("vm.builtin.copy", [](ffi::Map<String, Any> a, int b, int c) { return a; })
      .def_packed("vm.builtin.make_shape", MakeShape)
      .def("vm.builtin.null_value", []() { return nullptr; });
"""


def write(tvm, source, version=BYTECODE):
    """The sources of a TVM."""
    (tvm / "src/runtime/vm").mkdir(parents=True)
    (tvm / "src/runtime/vm/builtin.cc").write_text(source)
    (tvm / "include/tvm/runtime/vm").mkdir(parents=True)
    (tvm / "include/tvm/runtime/vm/executable.h").write_text(f'#define VM_VERSION "{version}"\n')


def registering(*without):
    """Sources that have all that we use, but for some."""
    names = "".join(f'.def_packed("{name}", F)\n' for name in CALLS if name not in without)
    return names + "".join(f'if (scope == "{tag}") {{}}\n' for tag in sorted(TAGS) if tag not in without)


def test_sources_are_read(tmp_path):
    write(tmp_path, SOURCE)
    arguments = {"alloc_tensor": 4, "reshape": 2, "copy": 3, "make_shape": None, "null_value": 0}
    assert Runtime.read(tmp_path).registered == {f"vm.builtin.{name}": count for name, count in arguments.items()}


WRONG_COPY = registering("vm.builtin.copy") + '.def("vm.builtin.copy", [](int a, int b, int c) { return a; })'


@pytest.mark.parametrize(
    ("source", "version", "lacks"),
    [
        (registering(), BYTECODE, []),
        (registering("vm.builtin.reshape"), BYTECODE, ["vm.builtin.reshape is not registered"]),
        (WRONG_COPY, BYTECODE, ["vm.builtin.copy takes 3 arguments, and is called with 1"]),
        (registering("tirx") + 'if (kind == "tir") {}', BYTECODE, ["it doesn't know the tag 'tirx'"]),
        (registering(), "0.13", [f"it loads bytecode 0.13, and ours is {BYTECODE}"]),
    ],
)
def test_a_runtime_is_compared_with_our_calls(tmp_path, source, version, lacks):
    write(tmp_path, source, version)
    assert Runtime.read(tmp_path).lacks() == lacks


def test_doctor_names_what_a_checkouts_runtime_lacks(tmp_path, monkeypatch):
    (tmp_path / "python/mlc_llm").mkdir(parents=True)
    (tmp_path / "python/mlc_llm/__init__.py").touch()
    write(tmp_path / "3rdparty/tvm", registering("tirx"))
    monkeypatch.setenv("MLC_LLM_SOURCE_DIR", str(tmp_path))
    mlc, tvm = android.mlc()
    assert "not a known pair" in mlc.found
    assert not tvm.ok and "it doesn't know the tag 'tirx'" in tvm.found and "checkout" in tvm.fix
    (tmp_path / "3rdparty/tvm/src/runtime/vm/builtin.cc").write_text(registering())
    assert android.mlc()[1].ok
