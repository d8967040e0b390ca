"""What the engine samples with on a GPU, run on the host against numpy: the same functions, other schedules."""

import numpy as np
import pytest

from edge_transact.compiler.targets import get_target

VOCAB = 300


@pytest.fixture(scope="module")
def vm():
    import tvm
    from tvm import IRModule, relax, tirx

    from edge_transact.compiler.passes.sampling import attach_sampling

    target = get_target("host").tvm_target()
    passes = [tirx.transform.BindTarget(target), relax.backend.DispatchSortScan()]
    with target:
        module = tvm.transform.Sequential(passes)(attach_sampling(IRModule(), target))
    return relax.VirtualMachine(relax.build(module, target=target), tvm.cpu())


@pytest.fixture
def call(vm):
    """``call(function, *arrays)``: the result as numpy arrays."""
    import tvm

    def function(name, *arrays):
        result = vm[name](*(tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays))
        return result.numpy() if isinstance(result, tvm.runtime.Tensor) else [tensor.numpy() for tensor in result]

    return function


@pytest.fixture
def probs(rng):
    return rng.dirichlet(np.full(VOCAB, 0.05), size=3).astype("float32")


ROWS = np.array([0, 2, 1, 1, 0], "int32")
UNIFORM = np.array([0.0, 0.3, 0.999999, 0.5, 0.01], "float32")


def drawn(weights, uniform):
    sums = np.cumsum(weights, axis=-1, dtype="float32")
    return int((sums <= uniform * sums[-1]).sum())


def test_a_number_draws_the_token_in_whose_share_it_falls(call, probs):
    ours = call("multinomial_from_uniform", probs, UNIFORM, ROWS)
    assert ours.tolist() == [drawn(probs[row], number) for row, number in zip(ROWS, UNIFORM, strict=True)]
    assert (probs[ROWS, ours] > 0).all()


def test_probabilities_are_sorted_from_the_likeliest(call, probs):
    ordered, tokens = call("argsort_probs", probs)
    assert (ordered == -np.sort(-probs, axis=1)).all()
    assert (np.take_along_axis(probs, tokens, axis=1) == ordered).all()


@pytest.mark.parametrize("top_p", [0.0, 0.4, 0.9, 1.0])
def test_top_p_leaves_the_least_that_reach_it(call, probs, top_p):
    ordered, tokens = call("argsort_probs", probs)
    sums = np.cumsum(ordered, axis=1, dtype="float32")
    kept = np.where(sums - ordered < max(top_p, 1e-6), ordered, 0)
    limits = np.full(3, top_p, "float32")
    ours = call("sample_with_top_p", ordered, tokens, UNIFORM, ROWS, limits)
    columns = [drawn(kept[row], number) for row, number in zip(ROWS, UNIFORM, strict=True)]
    assert ours.tolist() == tokens[ROWS, columns].tolist()
    renormalized = call("renormalize_by_top_p", probs, limits, np.zeros((3, 3), "float32"))
    np.testing.assert_allclose(renormalized.sum(axis=1), 1, rtol=1e-5)
    expected = kept / kept.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.take_along_axis(renormalized, tokens, axis=1), expected, rtol=1e-5, atol=1e-12)


def test_probabilities_of_what_was_drawn_and_of_the_likeliest(call, probs):
    ordered, tokens = call("argsort_probs", probs)
    result = np.array([5, 6, 7, 8, 9], "int32")
    offsets = np.array([0, 1, VOCAB, 2 * VOCAB + 4], "int32")
    sampled, likely, names = call("sampler_take_probs", probs, tokens, ROWS, result, offsets)
    assert (sampled == probs[ROWS, result]).all()
    assert (likely == ordered.reshape(-1)[offsets]).all() and (names == tokens.reshape(-1)[offsets]).all()
