"""The rounding stage of a build: cached by what it depends on, and continued after an interruption."""

import pytest

from edge_transact.building.stages import Rounding, rounded
from edge_transact.checkpoint import Checkpoint
from edge_transact.pruning.options import PruneChoices
from edge_transact.quantization import QUANTIZATIONS
from tests.support.interruption import killed_after, write_every_state


@pytest.fixture
def text(own_cache, tmp_path, monkeypatch):
    write_every_state(monkeypatch)
    path = tmp_path / "text.txt"
    path.write_text("It was the best of times, it was the worst of times. " * 100)
    return path


@pytest.fixture
def checkpoint(random_model):
    return Checkpoint.open(random_model)


def with_text(text, name="gptq", source=None, **options):
    choices = PruneChoices(calibration=str(text), calibration_tokens=256, calibration_window=64, **options)
    return Rounding(name, choices, source)


def contents(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize(("name", "writes"), [("gptq", 1), ("gptq", 4), ("gptq", 7), ("best", 4), ("best", 13)])
def test_a_killed_run_goes_on_and_is_then_in_the_cache(checkpoint, text, tmp_path, monkeypatch, caplog, name, writes):
    quantization = QUANTIZATIONS["q4f16_1"]
    caplog.set_level("INFO", "edge_transact")
    with killed_after(writes):
        rounded(checkpoint, quantization, with_text(text, name))
    directory = rounded(checkpoint, quantization, with_text(text, name))
    assert f"choose codes and scales with {name}: going on from 20" in caplog.text
    assert not list((directory.parents[2] / "unfinished").iterdir()), "nothing is left"
    first = contents(directory)
    caplog.clear()
    assert rounded(checkpoint, quantization, with_text(text, name)) == directory
    assert "nothing has changed" in caplog.text and contents(directory) == first
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "other"))
    assert contents(rounded(checkpoint, quantization, with_text(text, name))) == first, "as without an interruption"


def test_it_depends_on_text_seed_and_dtype_and_not_on_the_layout(checkpoint, text):
    quantization = QUANTIZATIONS["q4f16_1"]
    directories = {rounded(checkpoint, quantization, with_text(text))}
    assert rounded(checkpoint, QUANTIZATIONS["q4f16_0"], with_text(text)) in directories
    directories.add(rounded(checkpoint, quantization, with_text(text, seed=1)))
    directories.add(rounded(checkpoint, QUANTIZATIONS["q4f32_1"], with_text(text)))
    directories.add(rounded(checkpoint, quantization, with_text(text, "best")))
    text.write_text("The state of the union is strong. " * 200)
    directories.add(rounded(checkpoint, quantization, with_text(text)))
    assert len(directories) == 5
