"""What ``build_library(dump=...)`` writes: each phase's module, the bytecode and the generated code."""

from pathlib import Path

PHASES = ["definition", "attached", "fused", "legalized", "scheduled", "planned", "lowered"]
MODULES = [f"{number:02d}-{phase}.py" for number, phase in enumerate(PHASES)]


def assert_all_forms(dump: Path, code: list[str], *, packed: bool = True) -> None:
    """All files are there, and each module is the one after its phase."""
    assert sorted(file.name for file in dump.iterdir()) == [*MODULES, "bytecode.txt", *code]

    text = {file.name: file.read_text() for file in dump.iterdir()}
    assert all("@I.ir_module" in text[module] for module in MODULES)
    assert "softmax_with_temperature" in text["01-attached.py"] and "w4_decode" not in text["01-attached.py"]
    assert "R.nn.rms_norm" in text["00-definition.py"] and ("w4_decode" in text["02-fused.py"]) == packed
    assert "R.reshape" in text["02-fused.py"] and "R.add(" not in text["03-legalized.py"]
    assert "R.call_tir" not in text["05-planned.py"] and '"_metadata"' not in text["04-scheduled.py"]
    assert "@decode:" in text["bytecode.txt"] and "define" in text["host.ll"]
