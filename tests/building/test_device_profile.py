"""``--device-profile``: what android libraries are checked for, from the command line to the cache's key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_transact import cache
from edge_transact.building import dist, stages
from edge_transact.checkpoint import Checkpoint
from edge_transact.compiler.gpu.devices import DEVICES
from edge_transact.compiler.targets import get_target
from edge_transact.quantization import get_quantization
from tests.support.checkpoints import SIZES
from tests.support.command import edge_transact
from tests.support.definitions import emit


def test_an_unknown_profile():
    code, _, said = edge_transact("build", "demo:tiny", "--target", "android", "--device-profile", "adreno750")
    assert code == 2 and "unknown device profile 'adreno750'" in said and "Did you mean 'adreno-750'?" in said


def test_a_model_beyond_the_profile_is_refused_before_any_work(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(DEVICES, "mali-g57", replace(DEVICES["mali-g57"], max_allocation_bytes=1 << 14))
    monkeypatch.setattr(dist, "place_weights", lambda *_: pytest.fail("weights were quantized"))
    options = ("--target", "android", "--device-profile", "mali-g57", "-o", tmp_path / "dist")
    code, _, said = edge_transact("build", tiny_model, *options)
    assert code == 1 and "model.embed_tokens.q_weight takes" in said and "--device-profile mali-g57 allows" in said
    assert list(tmp_path.iterdir()) == []


def test_the_profile_is_part_of_an_android_librarys_key(tiny_model, monkeypatch, tmp_path):
    recipes: list[cache.Recipe] = []
    monkeypatch.setattr(stages.cache, "place", lambda recipe, _directory: recipes.append(recipe))
    checkpoint = Checkpoint.open(tiny_model)
    definition = emit(tmp_path / "definition", checkpoint.plan, checkpoint.config | SIZES)
    for target in ("android", "host"):
        for profile in DEVICES:
            arguments = (definition, get_quantization("q4f16_0"), get_target(target, profile))
            stages.place_library(*arguments, "edge_llama_x", tmp_path / "x")
    assert len({recipe.entry for recipe in recipes}) == len(DEVICES) + 1
