"""Ours passes what LLaMA passes of transformers' own tests of a model."""

import pytest

from tests.support.transformers_suite import MARKERS, exceptions, run

VARIANT = "own widths, cut head dims and RoPE of a part"
OTHERS = ("own widths and normed heads", "qwen2", "qwen3", "smollm3", "phi3", "phi3, partial RoPE")
CLASSES = ("Model", "ForCausalLM")
"""The other classes have transformers' own heads on the same model."""


@pytest.mark.soak
@pytest.mark.parametrize("variant", [VARIANT, *OTHERS])
def test_ours_passes_transformers_tests(pytestconfig, variant):
    for name in MARKERS:
        pytestconfig.addinivalue_line("markers", f"{name}: in transformers' tests")
    ours = run(variant, CLASSES)
    unexpected = {name: trace for name, trace in ours.failed.items() if name not in exceptions(variant)}
    assert not unexpected, "\n".join(unexpected.values())
    assert ours.failed.keys() == exceptions(variant).keys()
    # LLaMA skips what ours skips.
    assert run(None, CLASSES, only=set(ours.skipped)).skipped.keys() == ours.skipped.keys()
    assert len(ours.passed) > 80
