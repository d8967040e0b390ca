"""``--engine mlc`` and ``--engine tvm`` agree: weights byte for byte, logits to the bound of parity.

What MLC makes of a small checkpoint is in ``tests/data/mlc_engine.npz``, which ``python -m tests.mlc.record`` wrote
with the known pair. Where `MLC_LLM_SOURCE_DIR` names a checkout, MLC itself runs and must make the same again.
"""

import importlib
import json
import os
import shutil
import sys

import numpy as np
import pytest

from edge_transact.artifacts.manifest import Manifest
from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions
from edge_transact.building.parity import LOGIT_TOLERANCE
from edge_transact.checkpoint import Checkpoint
from edge_transact.definition import render
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.mlc import checkout, toolchain
from edge_transact.mlc.toolchain import MLC
from tests.support.command import run
from tests.support.mlc_small import (
    FAMILIES,
    FAMILIES_GOLDEN,
    GOLDEN,
    QUANTIZATIONS,
    SIZES,
    WIDTHS,
    family_measured,
    measured,
    small_checkpoint,
)

CHECKOUT = os.environ.get("MLC_LLM_SOURCE_DIR")
ENGINES = ["tvm", *([pytest.param("mlc", marks=pytest.mark.slow)] if CHECKOUT else [])]


@pytest.fixture(scope="module", params=ENGINES)
def made(request, tiny_model, tmp_path_factory):
    """What an engine makes of the small checkpoints, and where the DIST of one is."""
    scratch = tmp_path_factory.mktemp(request.param)
    return (*measured(tiny_model, scratch, request.param), scratch / "dist")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        return json.loads(str(data["weights"])), data["logits"], data["searched"]


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_weights_are_mlcs_byte_for_byte(made, golden, widths, quantization):
    assert made[0][widths][quantization] == golden[0][widths][quantization]


@pytest.mark.parametrize("rounding", ["nearest", "search"])
def test_logits_are_mlcs_to_the_bound_of_parity(made, golden, rounding):
    """MLC's pipeline compiles the emitted definition; `search` uses code 15 and scales of both signs, MLC neither."""
    which = ["nearest", "search"].index(rounding) + 1
    ours, theirs = made[which], golden[which]
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() <= LOGIT_TOLERANCE["float32"]
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.soak] * (name not in ("qwen3", "phi3"))) for name in FAMILIES]
)
def test_other_families_have_the_weights_and_logits_of_mlcs_definitions(tiny_model, tmp_path, family):
    with np.load(FAMILIES_GOLDEN) as data:
        golden, theirs = json.loads(str(data["weights"]))[family], data[family]
    converted, ours = family_measured(tiny_model, tmp_path, family, "tvm")
    assert converted == golden
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() <= LOGIT_TOLERANCE["float32"]
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


def test_the_dist_is_complete_with_either_engine(made):
    manifest = Manifest.read(made[3])
    manifest.verify(made[3])
    assert manifest.parity["passed"]
    config = json.loads((made[3] / "mlc-chat-config.json").read_text())
    assert config["model_lib"] == manifest.model_lib
    assert config["model_config"]["per_layer_config"].keys() == {"0", "2"}


if CHECKOUT:

    @pytest.mark.slow
    def test_mlc_builds_for_android_from_a_stock_checkpoint(make_llama, tiny_model, tmp_path):
        """MLC has a llama of its own, and looks for RoPE elsewhere than transformers 5: ours is built all the same."""
        rope = {"rope_type": "default", "rope_theta": 50000.0}
        checkpoint = make_llama(vocab_size=1024, max_position_embeddings=96, rope_parameters=rope)
        shutil.copyfile(tiny_model / "tokenizer.json", checkpoint / "tokenizer.json")
        options = BuildOptions(target=["android"], engine="mlc", prefill_chunk=16)
        made = build(str(checkpoint), tmp_path / "dist", options)
        assert made.manifest.parity["passed"] and made.manifest.parity["layers"] == 2
        config = json.loads((tmp_path / "dist" / "mlc-chat-config.json").read_text())
        assert config["model_type"] == "edge_llama" and config["model_config"]["rope_theta"] == 50000.0

    @pytest.mark.slow
    @pytest.mark.parametrize("widths", list(WIDTHS)[1:])
    def test_mlc_builds_cut_head_dims_and_layers_without_attention_or_mlp(tiny_model, tmp_path, widths):
        checkpoint = small_checkpoint(tiny_model, tmp_path / "checkpoint", widths)
        targets = ["host", "android"]
        made = build(str(checkpoint), tmp_path / "dist", BuildOptions(target=targets, engine="mlc", **SIZES))
        assert made.manifest.parity["passed"] and list(made.manifest.libraries) == targets


def test_mlc_needs_xcode_for_an_iphone(foreign, monkeypatch):
    monkeypatch.setattr(toolchain.shutil, "which", lambda program: None)
    with pytest.raises(EdgeTransactError, match="xcrun, which isn't installed here") as caught:
        MLC(["iphone"])
    assert "--engine tvm" in caught.value.fix


@pytest.mark.parametrize("theirs", [None, "EdgeLlamaForCausalLM", "AnotherForCausalLM"])
def test_a_model_type_that_mlc_already_has_is_refused(tiny_model, tmp_path, monkeypatch, theirs):
    """The emitted registration, in an MLC whose registry has the name already."""
    from types import ModuleType, SimpleNamespace

    modules = {
        name: ModuleType(name)
        for name in ("mlc_llm", "mlc_llm.model", "mlc_llm.quantization", "mlc_llm.loader", "mlc_llm.support.config")
    }
    registry = {} if theirs is None else {"edge_llama": SimpleNamespace(model=type(theirs, (), {}))}
    modules["mlc_llm.model"].MODELS, modules["mlc_llm.model"].Model = registry, SimpleNamespace
    modules["mlc_llm.quantization"].Quantization = object
    modules["mlc_llm.quantization"].make_quantization_functions = lambda model: {}
    modules["mlc_llm.loader"].ExternMapping = object
    modules["mlc_llm.support.config"].ConfigBase = object
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "definition").mkdir()
    for name, text in render(Checkpoint.open(tiny_model).plan).items():
        (tmp_path / "definition" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "definition"]:
        monkeypatch.delitem(sys.modules, name)
    if theirs == "AnotherForCausalLM":
        with pytest.raises(ImportError, match="already has another architecture under the model_type edge_llama"):
            importlib.import_module("definition.edge_llama_register")
    else:
        importlib.import_module("definition.edge_llama_register")
        assert registry["edge_llama"].model.__module__ == "definition.edge_llama_model"


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A checkout of another revision, whose ``convert_weight`` wants a TVM that isn't here."""
    package = tmp_path / "mlc-llm" / "python" / "mlc_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from tvm.relax.of_tomorrow import Anything\n")
    monkeypatch.setenv("MLC_LLM_SOURCE_DIR", str(tmp_path / "mlc-llm"))
    return tmp_path / "mlc-llm"


def test_another_revision_is_warned_about(foreign, tiny_model, tmp_path):
    result = run("build", tiny_model, "--target", "host", "--engine", "mlc", "-o", tmp_path / "dist")
    assert result.exit_code == 1
    assert f"which was not tested; {checkout.KNOWN_PAIR} is known to work" in " ".join(result.stderr.split())
    assert "of_tomorrow" in result.stderr and "Traceback" not in result.stderr and "File " not in result.stderr
    assert f"checkout {checkout.KNOWN_REVISION}" in result.stderr
    assert not (tmp_path / "dist").exists()


def test_without_mlc_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv("MLC_LLM_SOURCE_DIR", raising=False)
    monkeypatch.setattr(checkout.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EdgeTransactError, match="no MLC-LLM found") as caught:
        MLC(["host"])
    assert "git clone --recursive" in caught.value.fix and "--engine tvm" in caught.value.fix
    monkeypatch.setenv("MLC_LLM_SOURCE_DIR", str(tmp_path))
    with pytest.raises(EdgeTransactError, match="is not an MLC-LLM checkout"):
        MLC(["host"])


def test_a_target_that_mlc_lacks(foreign):
    with pytest.raises(UsageError, match="no target 'android-cpu'"):
        MLC(["android-cpu"])


@pytest.mark.parametrize(
    ("flag", "option"), [("--cpu", {"cpu": "x86-64-v3"}), ("--device-profile", {"device_profile": "adreno-7xx"})]
)
def test_what_mlcs_compiler_would_ignore_is_refused(foreign, tiny_model, tmp_path, flag, option):
    with pytest.raises(UsageError, match=f"{flag} needs our compiler") as caught:
        build(str(tiny_model), tmp_path / "dist", BuildOptions(target=["android"], engine="mlc", **option))
    assert f"Leave out {flag} or --engine mlc" in caught.value.fix


def test_a_checkout_is_known_by_its_sources(foreign):
    found = checkout.find()
    before = found.digest
    assert not found.is_known and found.revision == "an unknown revision"
    (foreign / "python" / "mlc_llm" / "more.py").write_text("")
    assert found.digest != before
