"""A phone's library as a whole, its kernels executed on this computer's CPU, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm

from benchmarks.opencl import build_library, counted, executed_here
from edge_transact.runtime.host import HostModel
from tests.support.odd_models import CONFIG

LAYERS = CONFIG["num_hidden_layers"]

CASES = {"source": ("q4f16_0", 1e-2), "own_dims": ("q4f32_1", 1e-5)}
"""Quantization and tolerance by plan: whole heads, and heads that lost dims; layers all differ."""


@pytest.fixture(scope="module", params=CASES)
def models(request):
    """The model in a library for phones, in torch with the same weights, and how far their logits may differ."""
    odd, (name, tolerance) = request.getfixturevalue(request.param), CASES[request.param]
    weights, quantization = odd.weights(name)
    path = odd.directory / "here.so"
    with executed_here():
        build_library(odd.definition, quantization, path)
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
def test_a_token_takes_four_launches_a_layer_and_three_a_layer_of_the_cache(models):
    """Two beside them, for the embedding and the logits; norms are part of the matmuls, and so is what cut heads need.

    Where heads lost dims, `qkv_proj` has a launch for each layer of the cache, and the angles of RoPE have one.
    """
    model, _, _ = models
    model.reset()
    model.prefill([1, 2, 3])
    with counted() as launches:
        model.decode(4)
    virtual_layers = model.metadata["kv_cache"]["num_hidden_layers"]
    cut = "rotation_kernel" in launches
    ours = sum(count for name, count in launches.items() if name.startswith("w4_"))
    assert ours == 3 * LAYERS + (virtual_layers if cut else LAYERS) + 2
    of_the_cache = ("fused_rope", "tir_kv_cache_transpose_append", "batch_decode_paged_kv")
    assert sum(count for name, count in launches.items() if name.startswith(of_the_cache)) == 3 * virtual_layers
    assert launches["rotation_kernel"] == cut
    # Layers of several layers of the cache split q, k and v, and put the outputs of attention next to each other.
    others = {name for name in launches if not name.startswith(("w4_", *of_the_cache, "rotation"))}
    assert all("concatenate" in name or "split" in name for name in others), others


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
