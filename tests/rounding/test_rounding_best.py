"""``best``: which text each of its steps reads, what it leaves of odd weights, and that a GPU computes the same."""

import json

import pytest
import torch
from safetensors.torch import load_file

from edge_transact.building.stages import Rounding, rounded
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.layerwise import model as layerwise
from edge_transact.pruning.options import PruneChoices
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.rounding import calibrated
from edge_transact.rounding.calibrated import round_best
from edge_transact.rounding.store import CODES, SCALES, dequantized, keep_rounded
from tests.support.accelerator import NAME, accelerator
from tests.support.interruption import killed_after, write_every_state

WINDOWS = torch.randint(0, 96, (12, 24), generator=torch.Generator().manual_seed(0))


def kept(checkpoint, directory):
    journal = Journal(directory / "journal")
    round_best(checkpoint, None, WINDOWS[:4], QUANTIZATIONS["q4f16_1"], journal)
    (directory / "kept").mkdir(parents=True)
    keep_rounded(journal, checkpoint, directory / "kept")
    return {name: tensor for file in (directory / "kept").iterdir() for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("tied", [True, False])
def test_the_same_weights_from_a_gpu(make_llama, tmp_path, monkeypatch, tied):
    checkpoint = Checkpoint.open(make_llama(tie_word_embeddings=tied))
    from_cpu = kept(checkpoint, tmp_path / "cpu")
    with accelerator() as device:
        monkeypatch.setattr(layerwise, "compute_device", lambda: torch.device(NAME, 0))
        from_gpu = kept(checkpoint, tmp_path / "gpu")
        assert device.products > 0, "the device computes"
    assert from_gpu.keys() == from_cpu.keys()
    for name, ours in from_cpu.items():
        # Attention adds in another order there, and where two scales are as good, the other one may win.
        alike = (from_gpu[name] == ours) if name.endswith(CODES) else torch.isclose(from_gpu[name], ours, rtol=0.05)
        assert alike.float().mean() > 0.9, name


@pytest.mark.parametrize(("tokens", "shared"), [(24 * 6, 0), (24 * 8, 4), (24 * 100, 12)])
def test_codes_and_scales_are_from_different_text_if_there_is_enough(make_llama, tmp_path, monkeypatch, tokens, shared):
    checkpoint, read = Checkpoint.open(make_llama()), []
    monkeypatch.setattr(calibrated, "CODES_TOKENS", tokens)
    monkeypatch.setattr(calibrated, "SCALES_TOKENS", tokens)
    monkeypatch.setattr(calibrated, "round_model", lambda model, *_: read.append(model.windows))
    monkeypatch.setattr(calibrated, "distill", lambda model, *_: read.append(model.windows))
    round_best(checkpoint, None, WINDOWS, QUANTIZATIONS["q4f16_1"], Journal(tmp_path / "x"))
    for_codes, for_scales = ({tuple(window.tolist()) for window in windows} for windows in read)
    assert len(for_codes) == len(for_scales) == min(12, tokens // 24) and len(for_codes & for_scales) == shared


def test_a_run_that_was_interrupted_while_it_fitted_scales_keeps_its_codes(make_llama, tmp_path, monkeypatch):
    checkpoint = Checkpoint.open(make_llama())
    whole = kept(checkpoint, tmp_path / "whole")
    write_every_state(monkeypatch)
    # The embedding, each layer and its state, lm_head, that all is done, and the first step of the fit.
    with killed_after(2 * len(checkpoint.plan.layers) + 4) as written:
        kept(checkpoint, tmp_path / "once")
    assert written[-1] == "distilled-state"
    codes = tmp_path / "once" / "journal" / "rounded-0.safetensors"
    chosen_ns = codes.stat().st_mtime_ns
    again = kept(checkpoint, tmp_path / "once")
    assert codes.stat().st_mtime_ns == chosen_ns
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_dead_columns_zeros_an_outlier_and_subnormal_weights(make_llama, tmp_path):
    """All in one matrix. Rows stay what they were, but for the grid; a group of zeros may make up for other columns."""
    source, name = Checkpoint.open(make_llama()), "model.layers.1.mlp.gate_proj.weight"
    tensors = {key: source.tensor(key).clone() for key in source.tensor_names()}
    weight = tensors[name].float()
    weight[:, 5], weight[3, 32:], weight[4], weight[7, 40], weight[9] = 0.0, 0.0, 0.0, 300.0, weight[9] * 1e-6
    tensors[name] = weight
    checkpoint = write_checkpoint(source, source.plan, tensors.items(), {}, tmp_path / "damaged")
    stored = kept(checkpoint, tmp_path)
    assert all(torch.isfinite(tensor).all() for tensor in stored.values())
    result = dequantized(stored[name + CODES], stored[name + SCALES], weight.shape[1], QUANTIZATIONS["q4f16_1"])
    assert not result[4].any() and result[9].abs().max() < 4 * weight[9].abs().max()
    assert result[7, 40] == pytest.approx(300.0, rel=0.02)
    others = [row for row in range(len(weight)) if row not in (4, 7, 9)]
    error = (result - weight)[others]
    assert error.square().mean() < 0.05 * weight[others].square().mean()


def test_what_is_kept_names_the_matrices_with_too_few_tokens(random_model, chapters, own_cache):
    text = PruneChoices(calibration=str(chapters), calibration_tokens=4, calibration_window=4)
    checkpoint = Checkpoint.open(random_model)
    directory = rounded(checkpoint, QUANTIZATIONS["q4f16_1"], Rounding("gptq", text))
    calibration = json.loads((directory / "calibration.json").read_text())
    assert calibration["searched"] == [f"model.layers.{index}.mlp.down_proj.weight" for index in range(4)]
