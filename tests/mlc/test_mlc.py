"""``--engine mlc`` and ``--engine tvm`` agree: weights byte for byte, logits to the bound of parity.

What MLC makes of a small checkpoint is in ``tests/data/mlc_engine.npz``, which ``python -m tests.mlc.record`` wrote
with the known pair. Where `MLC_LLM_SOURCE_DIR` names a checkout, MLC itself runs and must make the same again.
"""

import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_transact.build.parity import LOGIT_TOLERANCE
from edge_transact.cli import app
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.manifest import Manifest
from edge_transact.mlc import checkout
from edge_transact.mlc.engine import MLC
from tests.mlc.small import GOLDEN, QUANTIZATIONS, measured, small_checkpoint

ENGINES = ["tvm", *(["mlc"] if os.environ.get("MLC_LLM_SOURCE_DIR") else [])]


@pytest.fixture(scope="module", params=ENGINES)
def made(request, tiny_model, tmp_path_factory):
    """What an engine makes of the small checkpoint, and where its DIST is."""
    scratch = tmp_path_factory.mktemp(request.param)
    checkpoint = small_checkpoint(tiny_model, scratch / "checkpoint")
    return (*measured(checkpoint, scratch, request.param), scratch / "dist")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        return json.loads(str(data["weights"])), data["logits"]


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_weights_are_mlcs_byte_for_byte(made, golden, quantization):
    assert made[0][quantization] == golden[0][quantization]


def test_logits_are_mlcs_to_the_bound_of_parity(made, golden):
    error = np.abs(made[1] - golden[1]).max() / np.abs(golden[1]).max()
    assert error <= LOGIT_TOLERANCE["float32"]
    assert (made[1].argmax(-1) == golden[1].argmax(-1)).all()


def test_the_dist_is_whole_whoever_made_it(made):
    manifest = Manifest.read(made[2])
    manifest.verify(made[2])
    assert manifest.parity["passed"]
    config = json.loads((made[2] / "mlc-chat-config.json").read_text())
    assert config["model_lib"] == manifest.model_lib
    assert config["model_config"]["per_layer_config"].keys() == {"0", "2"}


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A checkout of another revision, whose ``convert_weight`` wants a TVM that isn't here."""
    package = tmp_path / "mlc-llm" / "python" / "mlc_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from tvm.relax.of_tomorrow import Anything\n")
    monkeypatch.setenv("MLC_LLM_SOURCE_DIR", str(tmp_path / "mlc-llm"))
    return tmp_path / "mlc-llm"


def test_another_revision_gets_a_clear_word(foreign, tiny_model, tmp_path):
    arguments = ["build", str(tiny_model), "--target", "host", "--engine", "mlc", "-o", str(tmp_path / "dist")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"was not tried; what is known to work is {checkout.KNOWN_PAIR}" in " ".join(result.stderr.split())
    assert "of_tomorrow" in result.stderr and "Traceback" not in result.stderr
    assert f"checkout {checkout.KNOWN_REVISION}" in result.stderr
    assert not (tmp_path / "dist").exists()


def test_no_mlc_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv("MLC_LLM_SOURCE_DIR", raising=False)
    monkeypatch.setattr(checkout.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EdgeTransactError, match="no MLC-LLM here") as caught:
        MLC(["host"])
    assert "git clone --recursive" in caught.value.fix and "--engine tvm" in caught.value.fix
    monkeypatch.setenv("MLC_LLM_SOURCE_DIR", str(tmp_path))
    with pytest.raises(EdgeTransactError, match="is no MLC-LLM checkout"):
        MLC(["host"])


def test_a_target_that_mlc_lacks(foreign):
    with pytest.raises(UsageError, match="no target 'android-cpu'"):
        MLC(["android-cpu"])


def test_a_checkout_is_known_by_its_sources(foreign):
    found = checkout.find()
    before = found.digest
    assert not found.is_known and found.revision == "an unknown revision"
    (foreign / "python" / "mlc_llm" / "more.py").write_text("")
    assert found.digest != before
