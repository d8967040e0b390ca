"""Text that a model writes itself: what it is, that it is kept, and where it is taken."""

import functools
import itertools
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edge_transact import cache
from edge_transact.checkpoint import Checkpoint
from edge_transact.healing.text import TrainingText
from edge_transact.layerwise.options import CalibrationOptions
from edge_transact.layerwise.windows import read_calibration
from edge_transact.runtime.text import TextCodec
from edge_transact.selftext import texts, writing
from edge_transact.selftext.writing import sample
from tests.support.tokenizers import CHAT_TEMPLATE


@pytest.fixture
def writer(tiny_model, own_cache, tmp_path, monkeypatch) -> Checkpoint:
    """The tiny model with a chat template, its own cache, and small pieces."""
    monkeypatch.setattr(writing, "ROWS", 4)
    monkeypatch.setattr(writing, "LENGTH", 48)
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return Checkpoint.open(tmp_path / "model")


def test_tokens_are_drawn_from_the_models_distribution(tiny_model):
    """Rows with a KV cache have the likelihood under the model, run without one, that the entropy predicts."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    prompts = torch.tensor([[5, 6]]).expand(64, -1)
    rows = sample(model, prompts, 12, torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_probabilities = model(rows).logits[:, 1:-1].log_softmax(dim=-1)
    surprise = -log_probabilities.gather(2, rows[:, 2:, None]).mean()
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1).mean()
    assert surprise == pytest.approx(entropy.item(), rel=0.1)


def test_turns_follow_the_template():
    """A model that always ends a turn: what the template has between turns is put there, in turns."""

    class Ending(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.config = None

        def forward(self, ids, **_):
            logits = torch.full((*ids.shape, 10), -50.0)
            logits[..., 9] = 50
            return type("Output", (), {"logits": logits})

    rows = sample(Ending(), torch.tensor([[1]]), 9, torch.Generator(), ([9, 2, 3], [9, 4]))
    assert rows.tolist() == [[1, 9, 2, 3, 9, 4, 9, 2, 3]]


def test_it_is_written_once_and_taken_as_text(writer, tmp_path, monkeypatch):
    prefix = TextCodec(writer.path).backend.encode("[user]", add_special_tokens=False).ids
    first = list(texts.SelfPiece(writer, 0).rows())
    assert len(first) == 4 and all(len(ids) == 48 for ids in first)
    assert all(ids[: len(prefix)].tolist() == prefix for ids in first)
    document = next(texts.SelfPiece(writer, 1).rows())
    assert document[: len(prefix)].tolist() != prefix
    entry = next(entry for entry in cache.entries() if entry.what.endswith("piece 1"))
    with monkeypatch.context() as patched:
        patched.setattr(writing, "write", None)
        assert np.array_equal(list(texts.SelfPiece(writer, 0).rows()), first), "it is taken from the cache"
    shutil.rmtree(entry.path)
    assert np.array_equal(list(texts.SelfPiece(writer, 0).rows()), first), "it is the same again"
    (tmp_path / "a.txt").write_text("once upon a time there was a short text. " * 40)
    texts_of_both = ["self", f"{tmp_path}/a.txt=2"]
    options = CalibrationOptions(calibration=texts_of_both, calibration_tokens=9 * 32, calibration_window=32)
    calibration = read_calibration(writer, options)
    assert [source.tokens for source in calibration.sources] == [96, 192]
    assert calibration.windows[:3].flatten().tolist() == np.concatenate(first)[:96].tolist()


def test_it_trains(writer, monkeypatch):
    monkeypatch.setattr(texts, "PIECES", 2)
    text = TrainingText(writer, ["self"], length=32, seed=0)
    written = {tuple(ids) for ids in texts.self_tokens(writer, 384).view(-1, 32).tolist()}
    assert tuple(next(text.sequences()).ids.tolist()) in written and len(text.held_out)


def test_a_short_training_has_little_written(writer, monkeypatch):
    written, write = [], texts.write
    noted = functools.wraps(write)(lambda model, number: (written.append(number), write(model, number))[1])
    monkeypatch.setattr(texts, "write", noted)
    text = TrainingText(writer, ["self"], length=32, seed=0)
    in_two_pieces = 2 * 4 * 48 // 32
    read = [tuple(part.ids.tolist()) for part in itertools.islice(text.sequences(), in_two_pieces)]
    assert written == [0, 8, 1], "the first, those that are held out, and the second"
    assert sorted(read) == sorted(map(tuple, texts.self_tokens(writer, 384).view(-1, 32).tolist()))
    assert read != [tuple(ids) for ids in texts.self_tokens(writer, 384).view(-1, 32).tolist()], "chats among documents"
