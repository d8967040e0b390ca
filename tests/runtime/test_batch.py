"""Several sequences of a library at once, against one after the other."""

import numpy as np
import pytest

from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.generation import generate
from edge_transact.runtime.host import Batch, HostModel
from edge_transact.runtime.text import TextCodec

TEXTS = ("It was the", "the old man", "Once upon a time, there was a girl who", "She", "They went to the sea and", "A")
MAX_TOKENS = 12

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library(batch_dist):
    return HostModel.load(batch_dist)


@pytest.fixture(scope="module")
def prompts(batch_dist):
    codec = TextCodec(batch_dist)
    return [codec.encode(text) for text in TEXTS]


def alone(library, prompt, max_tokens=MAX_TOKENS):
    """What the library's own sequence continues a prompt with."""
    library.reset()
    return list(library.generate(prompt, max_tokens))


def assert_equal_but_for_rounding(got, want):
    """NK weights, as the head's, multiply several rows in another order than one."""
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_each_sequence_has_the_logits_that_it_has_alone(library, prompts):
    batch = Batch(library, 3, 64)
    first = [batch.prefill(sequence, prompts[sequence]).copy() for sequence in range(3)]
    tokens = {sequence: int(logits.argmax()) for sequence, logits in enumerate(first)}
    logits = batch.decode(tokens).copy()
    # In any order, and without one of them.
    some = batch.decode({2: 7, 0: 5}).copy()
    assert batch.lengths == [len(prompt) + more for prompt, more in zip(prompts, (2, 1, 2), strict=False)]
    assert logits.dtype == np.float32 and logits.shape[0] == 3
    for sequence, token in tokens.items():
        library.reset()
        np.testing.assert_array_equal(library.prefill(prompts[sequence]), first[sequence])
        assert_equal_but_for_rounding(library.decode(token), logits[sequence])
        for row, (other, later) in enumerate(((2, 7), (0, 5))):
            if sequence == other:
                assert_equal_but_for_rounding(library.decode(later), some[row])


def test_more_prompts_than_sequences_get_the_tokens_that_each_gets_alone(library, prompts):
    """They end at different times, and the next prompts take their places."""
    expected = [alone(library, prompt) for prompt in prompts]
    lengths = [3, 12, 5, 1, 12, 7]
    library.reset()
    library.prefill(prompts[0])
    found = list(generate(library, prompts, MAX_TOKENS, lambda index, tokens: len(tokens) == lengths[index]))
    assert dict(found) == {index: expected[index][:length] for index, length in enumerate(lengths)}
    order = [index for index, _ in found]
    assert len(order) == len(prompts) and order.index(3) < order.index(1), "the fourth waits for no longer one"
    assert library.length == len(prompts[0]), "the library's own sequence stays"


def test_what_all_prompts_begin_with_is_computed_once_in_each_sequence(library, prompts, monkeypatch):
    system = prompts[2]
    asked = [[*system, *prompt] for prompt in prompts]
    appended = []
    prefill = Batch.prefill

    def watched(batch, sequence, ids):
        appended.append(list(ids))
        return prefill(batch, sequence, ids)

    monkeypatch.setattr(Batch, "prefill", watched)
    found = dict(generate(library, asked, MAX_TOKENS, lambda *_: False, len(system)))
    assert sorted(appended) == sorted([system] * 3 + prompts)
    for index, prompt in enumerate(prompts):
        library.reset()
        library.prefill(system)
        assert found[index] == list(library.generate(prompt, MAX_TOKENS))


def test_a_full_context_window_ends_a_prompt(library, prompts):
    window = library.context_window_size
    long = (prompts[2] * window)[: window - 3]
    assert [len(tokens) for _, tokens in sorted(generate(library, [long, prompts[0]], 9, lambda *_: False))] == [4, 9]
    batch = Batch(library, 2, window + 1)
    with pytest.raises(EdgeTransactError, match=f"{window + 1} tokens don't fit into a context window of {window}"):
        batch.prefill(1, [5] * (window + 1))
    batch.prefill(1, [5] * window)
    assert batch.is_full(1) and not batch.is_full(0)
    with pytest.raises(EdgeTransactError, match="don't fit"):
        batch.decode({1: 5})
    batch.rewind(1, 0)
    again = batch.prefill(1, prompts[0]).copy()
    np.testing.assert_array_equal(again, batch.prefill(0, prompts[0]))


def test_a_library_for_fewer_sequences_says_how_to_build_one(library):
    with pytest.raises(
        EdgeTransactError, match="4 sequences don't fit into a library that was built with --max-batch 3"
    ) as refused:
        Batch(library, 4, 16)
    assert "--max-batch 4" in refused.value.fix
