"""How tokens are chosen: as transformers' processors of logits do it, and as the library's own penalties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from transformers import RepetitionPenaltyLogitsProcessor, TopPLogitsWarper

from edge_transact.runtime.sampling import Sampler, Sampling, within_top_p

LOGITS = arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32), unique=True)


def chances(sampling: Sampling, logits: np.ndarray, draws: int = 4000) -> np.ndarray:
    """How often each token is chosen."""
    sampler = Sampler(sampling, seed=0)
    counts = np.zeros(len(logits))
    for _ in range(draws):
        sampler.begin()
        counts[sampler.choose(logits)] += 1
    return counts / draws


@settings(max_examples=100)
@given(LOGITS, st.floats(0.01, 0.99))
def test_top_p_keeps_what_transformers_keeps(logits, top_p):
    expected = TopPLogitsWarper(top_p)(None, torch.from_numpy(logits)[None])[0].numpy()
    kept = within_top_p(logits, top_p)
    differ = np.flatnonzero(np.isfinite(kept) != np.isfinite(expected))
    # They sum from opposite ends, so a token on the border itself may fall on either side.
    probabilities = np.exp(logits.astype(np.float64) - logits.max())
    probabilities /= probabilities.sum()
    assert all(abs(probabilities[logits > logits[token]].sum() - top_p) < 1e-5 for token in differ)
    assert (kept[np.isfinite(kept)] == logits[np.isfinite(kept)]).all() and np.isfinite(kept).any()


def test_top_p_of_equal_logits_keeps_as_few_as_reach_it():
    assert np.isfinite(within_top_p(np.zeros(10, np.float32), 0.25)).sum() == 3
    assert np.isfinite(within_top_p(np.arange(10, dtype=np.float32), 0.0)).nonzero()[0].tolist() == [9]
    logits = np.arange(10, dtype=np.float32)
    assert within_top_p(logits, 1.0) is logits


def test_tokens_are_as_frequent_as_their_probability():
    logits = np.array([1.0, 0.0, 2.0, -1.0], np.float32)
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (2.0, 0.8)):
        warped = torch.from_numpy(logits)[None] / temperature
        if top_p < 1:
            warped = TopPLogitsWarper(top_p)(None, warped)
        found = chances(Sampling(temperature=temperature, top_p=top_p), logits)
        np.testing.assert_allclose(found, warped.softmax(-1)[0].numpy(), atol=0.03)


@settings(max_examples=50)
@given(LOGITS, st.floats(0.5, 2.0), st.data())
def test_the_repetition_penalty_is_transformers(logits, penalty, data):
    said = data.draw(st.lists(st.integers(0, len(logits) - 1), min_size=1, max_size=5))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([said]), torch.from_numpy(logits.copy())[None])
    sampler = Sampler(Sampling(repetition_penalty=penalty))
    sampler._counts.update(said)
    np.testing.assert_allclose(sampler._penalized(logits), expected[0].numpy(), rtol=1e-6)


def test_presence_and_frequency_penalties_count_the_answers_tokens():
    logits = np.array([1.0, 0.95, 0.0], np.float32)
    sampler = Sampler(Sampling(presence_penalty=0.1))
    assert [sampler.choose(logits) for _ in range(4)] == [0, 1, 0, 0]
    sampler = Sampler(Sampling(frequency_penalty=0.1))
    assert [sampler.choose(logits) for _ in range(6)] == [0, 1, 0, 1, 0, 1]
    sampler.begin()
    assert sampler.choose(logits) == 0
    assert logits.tolist() == np.array([1.0, 0.95, 0.0], np.float32).tolist()


def test_a_seed_repeats_the_choices():
    logits, sampling = np.zeros(1000, np.float32), Sampling(temperature=1.0)
    first, again, other = (Sampler(sampling, seed) for seed in (3, 3, None))
    chosen = [first.choose(logits) for _ in range(8)]
    assert [again.choose(logits) for _ in range(8)] == chosen != [other.choose(logits) for _ in range(8)]


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 1.5}, {"repetition_penalty": 0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
