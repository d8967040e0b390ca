"""softmax_with_temperature on the host against numpy in double precision, at vocabularies of real sizes."""

from __future__ import annotations

import numpy as np
import pytest

from edge_transact.compiler.targets import get_target
from edge_transact.mlc.builtins import CALLS
from tests.support.bytecode import called


@pytest.fixture(scope="module")
def executable():
    import tvm
    from tvm import relax, tirx

    from edge_transact.compiler.passes.logits import attach_softmax

    target = get_target("host").tvm_target()
    passes = [
        tirx.transform.BindTarget(target),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    with target:
        mod = tvm.transform.Sequential(passes)(attach_softmax(tvm.IRModule()))
    return relax.build(mod, target=target)


@pytest.fixture(scope="module")
def softmax(executable):
    import tvm
    from tvm import relax

    vm = relax.VirtualMachine(executable, tvm.cpu())

    def call(logits: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
        result = vm["softmax_with_temperature"](tvm.runtime.tensor(logits[:, None]), tvm.runtime.tensor(temperatures))
        return result.numpy()[:, 0]

    return call


def test_it_calls_no_more_of_the_runtime_than_is_listed(executable):
    assert set(called(executable.mod)) <= set(CALLS)


@pytest.mark.parametrize("vocab", [1, 255, 256, 257, 49_152, 128_256])
def test_probabilities_are_those_of_double_precision(softmax, vocab, rng):
    temperatures = np.array([0.3, 0.7, 1.0, 1.5], "float32")
    for scale in (1, 3):
        logits = rng.normal(size=(4, vocab)).astype("float32") * scale
        logits[:, rng.integers(0, vocab, 20)] += 8  # a few likely tokens, as a model's logits have
        ours = softmax(logits, temperatures).astype("float64")
        assert np.abs(ours.sum(axis=1) - 1).max() <= 2e-5
        scaled = logits.astype("float64") / temperatures[:, None].astype("float64")
        wanted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        np.testing.assert_allclose(ours, wanted / wanted.sum(axis=1, keepdims=True), rtol=2e-5, atol=1e-30)


def test_temperature_0_shares_among_the_likeliest(softmax, rng):
    logits = rng.normal(size=(2, 49_152)).astype("float32")
    logits[0, [7, 4000, 49_151]] = 9
    ours = softmax(logits, np.array([0.0, 1e-6], "float32"))
    assert ours[0, [7, 4000, 49_151]].tolist() == [np.float32(1) / 3] * 3 and (ours[0] > 0).sum() == 3
    assert ours[1, logits[1].argmax()] == 1 and (ours[1] > 0).sum() == 1
