"""``build_library(dump=...)`` writes each phase's module, the bytecode and the generated code."""

from __future__ import annotations

import pytest

from edge_transact.compiler.library import build_library
from edge_transact.compiler.targets import get_target
from edge_transact.quantization import get_quantization
from tests.support.odd_models import MODEL_LIB

PHASES = ["definition", "attached", "fused", "legalized", "scheduled", "planned", "lowered"]
MODULES = [f"{number:02d}-{phase}.py" for number, phase in enumerate(PHASES)]


@pytest.mark.parametrize(("name", "code"), [("host", ["host.ll"]), ("android", ["device.cl", "host.ll"])])
def test_all_forms_of_a_library_are_written(source, tmp_path, name, code):
    target = get_target(name)
    one_layer = source.definition.truncated(1)
    dump = tmp_path / "dump"
    path = tmp_path / f"library{target.suffix}"
    build_library(one_layer, get_quantization("q4f16_0"), target, MODEL_LIB, path, dump)
    assert sorted(file.name for file in dump.iterdir()) == [*MODULES, "bytecode.txt", *code]

    text = {file.name: file.read_text() for file in dump.iterdir()}
    assert all("@I.ir_module" in text[module] for module in MODULES)
    assert "softmax_with_temperature" in text["01-attached.py"] and "w4_decode" not in text["01-attached.py"]
    assert "R.nn.rms_norm" in text["00-definition.py"] and "w4_decode" in text["02-fused.py"]
    assert "R.reshape" in text["02-fused.py"] and "R.add(" not in text["03-legalized.py"]
    assert "R.call_tir" not in text["05-planned.py"] and '"_metadata"' not in text["04-scheduled.py"]
    assert "@decode:" in text["bytecode.txt"] and "define" in text["host.ll"]
    assert name == "host" or "__kernel void" in text["device.cl"]
