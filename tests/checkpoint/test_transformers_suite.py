"""Ours passes what LLaMA passes of transformers' own tests of a model."""

import pytest

from tests.support.transformers_suite import MARKERS, exceptions, run

VARIANT = "own widths and cut head dims"
CLASSES = ("Model", "ForCausalLM")
"""The other classes have transformers' own heads on the same model."""


@pytest.mark.slow
def test_ours_passes_transformers_tests(pytestconfig):
    for name in MARKERS:
        pytestconfig.addinivalue_line("markers", f"{name}: in transformers' tests")
    ours = run(VARIANT, CLASSES)
    unexpected = {name: trace for name, trace in ours.failed.items() if name not in exceptions(VARIANT)}
    assert not unexpected, "\n".join(unexpected.values())
    assert ours.failed.keys() == exceptions(VARIANT).keys()
    # LLaMA skips what ours skips.
    assert run(None, CLASSES, only=set(ours.skipped)).skipped.keys() == ours.skipped.keys()
    assert len(ours.passed) > 80
