"""``build_library(dump=...)`` writes each phase's module, the bytecode and the generated code."""

from __future__ import annotations

from edge_transact.compiler.library import build_library
from edge_transact.compiler.targets import get_target
from edge_transact.quantization import get_quantization
from tests.support.dumps import assert_all_forms
from tests.support.odd_models import MODEL_LIB


def test_all_forms_of_a_host_library_are_written(source, tmp_path):
    target = get_target("host")
    one_layer, quantization = source.definition.truncated(1), get_quantization("q4f16_0")
    build_library(one_layer, quantization, target, MODEL_LIB, tmp_path / f"library{target.suffix}", tmp_path / "dump")
    assert_all_forms(tmp_path / "dump", ["host.ll"])
