"""A phone's library as a whole, its kernels executed on this computer's CPU, against torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm
from tvm import IRModule, tirx

from edge_transact.compiler import pipeline
from edge_transact.compiler.library import build_library
from edge_transact.compiler.lowering import UNCHECKED
from edge_transact.compiler.targets import get_target
from edge_transact.runtime.host import HostModel
from tests.support.opencl import HERE, executed_here

CASES = {"source": ("q4f16_0", 1e-2), "own_dims": ("q4f32_1", 1e-5)}
"""Quantization and tolerance by plan: whole heads, and heads that lost dims; layers all differ."""


@tvm.transform.module_pass(opt_level=0, name="OmitAllChecks")
class OmitAllChecks:
    """Kernels don't check that tensors are a GPU's."""

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        for var, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc):
                mod[var] = function.with_attr(UNCHECKED, True)
        return mod


@pytest.fixture(scope="module", params=CASES)
def models(request):
    """The model in a library for phones, in torch with the same weights, and how far their logits may differ."""
    odd, (name, tolerance) = request.getfixturevalue(request.param), CASES[request.param]
    weights, quantization = odd.weights(name)
    target = replace(get_target("android"), name="here", suffix=".so", spec={"kind": "opencl", "host": HERE.host})
    with executed_here(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "OmitChecks", OmitAllChecks)
        path = odd.directory / "here.so"
        build_library(odd.definition, quantization, target, "edge_llama_odd", path)
        yield HostModel(path, weights), odd.reference(name), tolerance


def assert_close(ours: np.ndarray, reference, ids: list[int], tolerance: float) -> None:
    with torch.inference_mode():
        theirs = reference(torch.tensor([ids])).logits[0, -1].float().numpy()
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.slow
def test_prefill_in_chunks_and_decode_to_the_last_page(models):
    model, reference, tolerance = models
    ids = [(7 * i + 3) % 300 for i in range(64)]
    model.reset()
    # A whole chunk, part of one, and of one token.
    for count in (16, 23, 33, 49):
        model.reset()
        assert_close(model.prefill(ids[:count]), reference, ids[:count], tolerance)
    for count in range(50, 65):
        logits = model.decode(ids[count - 1])
        if count % 4 == 0:
            assert_close(logits, reference, ids[:count], tolerance)


@pytest.mark.slow
def test_softmax_and_the_logit_functions(models):
    model, _, _ = models
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 300)).astype("float32")

    def tensor(values, dtype="float32"):
        return tvm.runtime.tensor(np.asarray(values, dtype))

    temperatures = np.array([0.7, 0.0], "float32")
    ours = model._vm["softmax_with_temperature"](tensor(logits[:, None]), tensor(temperatures)).numpy()[:, 0]
    terms = np.exp((logits[0] - logits[0].max()).astype("float64") / 0.7)
    np.testing.assert_allclose(ours[0], terms / terms.sum(), rtol=1e-5)
    assert ours[1].argmax() == logits[1].argmax() and ours[1].max() == 1

    biased = tensor(logits)
    apply = model._vm.module.get_function("apply_logit_bias_inplace", query_imports=True)
    apply(biased, tensor([1], "int32"), tensor([7], "int32"), tensor([2.5]))
    wanted = logits.copy()
    wanted[1, 7] += 2.5
    np.testing.assert_allclose(biased.numpy(), wanted, rtol=1e-6)
