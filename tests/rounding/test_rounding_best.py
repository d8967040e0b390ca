"""``best``: which text each of its steps reads, and that a GPU computes the same."""

import pytest
import torch
from safetensors.torch import load_file

from edge_transact.artifacts.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.prune.calibrate import layerwise
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.rounding import best
from edge_transact.rounding.best import round_best
from edge_transact.rounding.store import CODES, keep_rounded
from tests.support.accelerator import NAME, accelerator

WINDOWS = torch.randint(0, 96, (12, 24), generator=torch.Generator().manual_seed(0))


def kept(checkpoint, directory):
    journal = Journal(directory / "journal")
    round_best(checkpoint, checkpoint, WINDOWS[:4], QUANTIZATIONS["q4f16_1"], journal)
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
    monkeypatch.setattr(best, "CODES_TOKENS", tokens)
    monkeypatch.setattr(best, "SCALES_TOKENS", tokens)
    monkeypatch.setattr(best, "round_model", lambda model, *_: read.append(model.windows))
    monkeypatch.setattr(best, "distill", lambda model, *_: read.append(model.windows))
    round_best(checkpoint, checkpoint, WINDOWS, QUANTIZATIONS["q4f16_1"], Journal(tmp_path / "x"))
    for_codes, for_scales = ({tuple(window.tolist()) for window in windows} for windows in read)
    assert len(for_codes) == len(for_scales) == min(12, tokens // 24) and len(for_codes & for_scales) == shared
