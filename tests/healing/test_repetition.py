"""The penalty on what the student repeats: what it goes on with, what of that is a repetition, and what it costs."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from edge_transact.checkpoint import Checkpoint
from edge_transact.healing import losses
from edge_transact.healing.losses import (
    CONTEXT,
    CONTINUATION,
    EVERY_TOKENS,
    NGRAM,
    contexts,
    go_on,
    penalty,
    repeated,
)
from edge_transact.healing.options import HealOptions
from edge_transact.healing.run import heal
from edge_transact.healing.student import Student, generating, load
from edge_transact.healing.text import Sequence, TrainingText

END = 9


@given(st.lists(st.lists(st.integers(0, 3) | st.just(END), min_size=12, max_size=12), min_size=1, max_size=3))
def test_a_repetition_ends_tokens_that_have_been_there_in_the_same_order(rows: list[list[int]]) -> None:
    for row, found in zip(rows, repeated(torch.tensor(rows), [END]).tolist(), strict=True):
        for at in range(len(row)):
            gram = row[at + 1 - NGRAM : at + 1]
            before = [row[i : i + NGRAM] for i in range(at + 1 - NGRAM)]
            assert found[at] == (at + 1 >= NGRAM and gram in before and END not in row[: at + 1])


@given(length=st.integers(CONTEXT + 1, 400), begins=st.sets(st.integers(1, 399)), number=st.integers(0, 1 << 40))
def test_contexts_are_in_front_of_answers_where_there_are_enough(length: int, begins: set[int], number: int) -> None:
    counted = torch.zeros(length, dtype=torch.bool)
    counted[[at for at in begins if at < length]] = True
    found = contexts(Sequence(torch.arange(length), counted), number)
    rows = max(1, length // EVERY_TOKENS)
    assert found.shape == (rows, CONTEXT) and (found.diff() == 1).all() and found.max() < length - 1
    answers = {at for at in range(CONTEXT, length) if counted[at] and not counted[at - 1]}
    places = (found[:, -1] + 1).tolist()
    assert len(set(places) & answers) >= min(rows, len(answers))
    assert torch.equal(found, contexts(Sequence(torch.arange(length), counted), number))


def test_the_penalty_is_the_unlikelihood_of_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a token that is all but sure, whose gradient mustn't vanish."""
    monkeypatch.setitem(losses.CHUNK_TOKENS, "cpu", 3)
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, generator=draw, dtype=torch.float64) for size in ((7, 5), (11, 5)))
    ids = torch.randint(11, (7,), generator=draw)
    hidden[0] = 16 * weight[ids[0]] / weight[ids[0]].square().sum()
    ours = [tensor.float().requires_grad_() for tensor in (hidden, weight)]
    theirs = [tensor.requires_grad_() for tensor in (hidden, weight)]
    found = penalty(*ours, ids)
    probabilities = (theirs[0] @ theirs[1].T).softmax(-1)[range(7), ids]
    assert probabilities[0] > 0.999
    expected = -torch.log1p(-probabilities).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    for mine, other in zip(torch.autograd.grad(found, ours), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=1e-3, atol=1e-5)
    nothing = penalty(ours[0][:0], ours[1], ids[:0])
    assert nothing.item() == 0 and nothing.requires_grad


def test_the_student_goes_on_as_transformers_does(pruned_model: Path) -> None:
    ids = torch.randint(3, 60, (3, CONTEXT), generator=torch.Generator().manual_seed(0))
    student = load(Checkpoint.open(pruned_model), HealOptions()).eval()
    with generating(student):
        found = go_on(student, ids, student.lm_head.weight)
    reference = AutoModelForCausalLM.from_pretrained(pruned_model, dtype=torch.float32)
    reference.generation_config.eos_token_id = None
    expected = reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=CONTINUATION, do_sample=False, pad_token_id=0
    )
    assert torch.equal(found, expected[:, CONTEXT:])


@pytest.mark.parametrize("quant", ["q4f16_0", pytest.param(None, marks=pytest.mark.soak)])
@pytest.mark.usefixtures("own_cache")
def test_a_model_repeats_itself_less(pruned_model: Path, tmp_path: Path, quant: str | None) -> None:
    """Of words in no order, the likeliest is always the same one, though any other is nearly as good."""
    text = tmp_path / "words.txt"
    text.write_text(" ".join(random.Random(0).choices(["sea", "sun", "star", "wave", "wind", "moon"], k=3000)))
    sizes = {"train_tokens": 64 * 4 * 8, "train_window": 64, "batch_tokens": 256, "learning_rate": 1e-2}

    def penalty_of(weight: float) -> float:
        options = HealOptions(train=str(text), unlikelihood=weight, quant=quant, cross_entropy=1, **sizes)
        heal(str(pruned_model), tmp_path / str(weight), options)
        checkpoint = Checkpoint.open(tmp_path / str(weight))
        held_out = TrainingText(checkpoint, [str(text)], length=64, seed=0).held_out
        ids = torch.cat([contexts(Sequence(row, row > 0), number) for number, row in enumerate(held_out)])
        student = Student(load(checkpoint, HealOptions()), HealOptions())
        with torch.no_grad():
            return student(ids, None, None, torch.float32).item() / (len(ids) * CONTINUATION)

    assert penalty_of(1.0) < 0.9 * penalty_of(0.0)
