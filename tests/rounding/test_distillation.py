"""Scales fitted to a teacher's predictions: gradients against torch's own, and what they are for."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.inputs import read_text
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.layerwise.options import CalibrationOptions
from edge_transact.layerwise.windows import read_calibration
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.rounding.calibrated import round_best, round_model
from edge_transact.rounding.distillation import distill
from edge_transact.rounding.importance import InputImportance
from edge_transact.rounding.search import search
from edge_transact.rounding.store import CODES, DISTILLED, SCALES, dequantized, groups_of, keep_rounded
from edge_transact.rounding.student import Student

QUANTIZATION = QUANTIZATIONS["q4f16_1"]
WINDOWS = torch.randint(0, 96, (16, 24), generator=torch.Generator().manual_seed(0))


def rounded(checkpoint, directory, windows=WINDOWS):
    journal = Journal(directory)
    round_model(LayerwiseModel(checkpoint, windows), QUANTIZATION, journal)
    return journal


def matrices(journal, checkpoint):
    """Codes and scales by the names of matrices."""
    tensors = {name: tensor for group in groups_of(checkpoint) for name, tensor in journal[group].items()}
    return of_kind(CODES, tensors), of_kind(SCALES, tensors)


def of_kind(kind, tensors):
    return {name.removesuffix(kind): tensor for name, tensor in tensors.items() if name.endswith(kind)}


def exact_model(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)


def weights_of(checkpoint, codes, scales):
    return {name: dequantized(codes[name], scales[name], checkpoint.shape(name)[1], QUANTIZATION) for name in codes}


def divergence_of(exact, weights, windows):
    """Of predictions with other weights from the model's own."""
    with torch.inference_mode():
        target = exact(windows).logits.log_softmax(-1)
        ours = torch.func.functional_call(exact, weights, (windows,)).logits.log_softmax(-1)
    return functional.kl_div(ours, target, reduction="sum", log_target=True).item()


@pytest.mark.parametrize("teachers", [1, 2])
def test_gradients_are_those_of_torch(checkpoint, tmp_path, monkeypatch, teachers):
    """For the model of transformers, whose weights follow from codes and scales; logits are computed in blocks."""
    for module in ("layerwise.model", "rounding.student"):
        monkeypatch.setattr(f"edge_transact.{module}.LOGITS_VOCABULARY", 40)
    monkeypatch.setattr("edge_transact.rounding.student.LOGITS_TOKENS", 10)
    journal = rounded(checkpoint, tmp_path / "journal")
    codes, scales = matrices(journal, checkpoint)
    exact, ids = exact_model(checkpoint), WINDOWS[3]
    changes = {name: torch.zeros(each.shape, requires_grad=True) for name, each in scales.items()}
    changed = {name: scales[name].float() * (1 + changes[name]) for name in scales}
    weights = weights_of(checkpoint, codes, changed)
    last = []
    hook = exact.model.norm.register_forward_pre_hook(lambda _module, inputs: last.append(inputs[0][0].detach()))
    # What the same model predicts for other text stands for a second teacher.
    predictions = [exact(text[None]).logits[0].detach().softmax(-1) for text in (ids, WINDOWS[4])[:teachers]]
    hook.remove()
    logits = torch.func.functional_call(exact, weights, (ids[None],)).logits[0]
    target = sum(predictions) / teachers
    divergence = functional.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
    divergence.backward()

    model = LayerwiseModel(checkpoint, WINDOWS)
    with torch.no_grad():
        student = Student(model, [model] * teachers, QUANTIZATION, journal)
        assert student.divergence(ids, last) == pytest.approx(divergence.item(), rel=1e-4)
        computed = dict(student.gradients(ids, last))
    assert computed.keys() == changes.keys()
    for name, gradient in computed.items():
        expected = changes[name].grad
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.fixture(scope="module")
def tiny(tiny_model, tmp_path_factory):
    """A trained model, and windows of text."""
    text = tmp_path_factory.mktemp("text") / "speeches.txt"
    text.write_text(read_text("demo:sotu", "calibration")[:40_000])
    checkpoint = Checkpoint.open(tiny_model)
    options = CalibrationOptions(calibration=str(text), calibration_tokens=64 * 64, calibration_window=64)
    return checkpoint, read_calibration(checkpoint, options).windows


def test_predictions_are_nearer_to_the_teachers(tiny, tmp_path):
    """On windows that nothing was fitted to, in the model of transformers with the scales as they are stored."""
    checkpoint, windows = tiny
    fitting = torch.cat([windows[1::4], windows[2::4], windows[3::4]])
    journal = rounded(checkpoint, tmp_path / "journal", fitting)
    codes, scales = matrices(journal, checkpoint)
    model = LayerwiseModel(checkpoint, fitting)
    distill(model, [model], QUANTIZATION, journal)
    fitted = of_kind(SCALES, journal[DISTILLED])
    assert {name: (each.shape, each.dtype) for name, each in fitted.items()} == {
        name: (each.shape, torch.float16) for name, each in scales.items()
    }
    exact = exact_model(checkpoint)
    before, after = (divergence_of(exact, weights_of(checkpoint, codes, of), windows[::4]) for of in (scales, fitted))
    assert after < 0.98 * before


TEXTS = {
    "Cyrillic": "Все люди рождаются свободными и равными в своем достоинстве и правах. "  # noqa: RUF001
    "Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства. ",
    "CJK": "人人生而自由, 在尊严和权利上一律平等。 他们赋有理性和良心, 并应以兄弟关系的精神相对待。",
}
"""In scripts that the tokenizer hardly knows: nearly all tokens are the same few."""


@pytest.mark.parametrize("script", TEXTS)
def test_with_foreign_text_english_is_as_near_as_with_search(tiny, tmp_path, script):
    checkpoint, english = tiny
    ids = AutoTokenizer.from_pretrained(checkpoint.path)(TEXTS[script] * 30)["input_ids"]
    journal, exact = Journal(tmp_path / "journal"), exact_model(checkpoint)
    round_best(checkpoint, None, torch.tensor(ids[: 16 * 64]).view(-1, 64), QUANTIZATION, journal)
    codes, scales = matrices(journal, checkpoint)
    importance_of = InputImportance(checkpoint)
    searched = {
        name: dequantized(
            *search(checkpoint.tensor(name), importance=importance_of(name), quantization=QUANTIZATION),
            checkpoint.shape(name)[1],
            QUANTIZATION,
        )
        for name in codes
    }
    bound = 1.2 * divergence_of(exact, searched, english[:16])
    for of in (scales, scales | of_kind(SCALES, journal[DISTILLED])):
        assert divergence_of(exact, weights_of(checkpoint, codes, of), english[:16]) < bound


def test_scales_that_do_not_help_stay(checkpoint, tmp_path, monkeypatch, caplog):
    """What is kept in the end is what was found layer by layer."""
    monkeypatch.setattr("edge_transact.rounding.distillation.LEARNING_RATE", -1.0)
    journal = rounded(checkpoint, tmp_path / "journal")
    codes, scales = matrices(journal, checkpoint)
    model = LayerwiseModel(checkpoint, WINDOWS)
    distill(model, [model], QUANTIZATION, journal)
    assert "they stay" in caplog.text
    (tmp_path / "kept").mkdir()
    keep_rounded(journal, checkpoint, tmp_path / "kept")
    kept = {}
    for file in (tmp_path / "kept").iterdir():
        kept |= load_file(file)
    assert all(torch.equal(kept[name + SCALES], scales[name]) for name in scales)
    assert all(torch.equal(kept[name + CODES], codes[name]) for name in codes)
