"""One process that runs for days: what it holds is level after a tenth of the work."""

import gc
import shutil
from pathlib import Path

import pytest

from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.session import Session
from tests.support.checkpoints import save_llama
from tests.support.command import said
from tests.support.growth import growth, require_level


def test_a_library_is_unloaded_and_its_logits_stay(built_dist, tmp_path):
    (source,) = built_dist.glob("lib/*-host.so")
    library = Path(shutil.copy(source, tmp_path / "once.so"))
    logits = (model := HostModel(library, built_dist)).prefill([1, 2, 3])
    expected = logits.copy()
    del model
    gc.collect()
    assert "once.so" not in Path("/proc/self/maps").read_text()
    assert (logits == expected).all()


@pytest.mark.soak
def test_a_thousand_generations(built_dist):
    session = Session.load(built_dist, max_tokens=16, seed=0)

    def generate(number: int) -> None:
        session.answer(f"In the year {number}")

    require_level(growth(generate, 1000))


@pytest.mark.soak
def test_two_hundred_evals(built_dist, chapters):
    def evaluate(number: int) -> None:
        said("eval", built_dist, "--text", chapters, "--window", 32 + number % 2, "--max-windows", 2, "--no-cache")

    require_level(growth(evaluate, 200))


@pytest.mark.soak
def test_a_hundred_builds_of_different_models(tiny_model, tmp_path):
    def make(number: int) -> None:
        # The first tenth has the deepest: pools that have grown once stay.
        path = save_llama(tmp_path / "model", number, vocab_size=1024, num_hidden_layers=4 - number % 3,
                          intermediate_size=64 + 8 * (99 - number))  # fmt: skip
        for file in tiny_model.glob("tokenizer*"):
            shutil.copy(file, path)
        build(str(path), tmp_path / "dist", BuildOptions(target=["host"], context=number % 32 + 32), force=True)
        shutil.rmtree(path)

    require_level(growth(make, 100))
