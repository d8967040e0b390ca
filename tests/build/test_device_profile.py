"""``--device-profile``: what android libraries are checked for, from the command line to the cache's key."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from edge_transact import cache
from edge_transact.build import dist, stages
from edge_transact.cli import app
from edge_transact.compiler.gpu.devices import DEVICES
from edge_transact.compiler.targets import get_target
from edge_transact.definition import load, render
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan


def build(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["build", *map(str, arguments)])
    return result.exit_code, result.stderr


def test_an_unknown_profile():
    code, said = build("demo:tiny", "--target", "android", "--device-profile", "adreno750")
    assert code == 2 and "unknown device profile 'adreno750'" in said and "Did you mean 'adreno-750'?" in said


def test_a_model_beyond_the_profile_is_refused_before_any_work(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(DEVICES, "mali-g57", replace(DEVICES["mali-g57"], max_allocation_bytes=1 << 14))
    monkeypatch.setattr(dist, "place_weights", lambda *_: pytest.fail("weights were quantized"))
    options = ("--target", "android", "--device-profile", "mali-g57", "-o", tmp_path / "dist")
    code, said = build(tiny_model, *options)
    assert code == 1 and "model.embed_tokens.q_weight takes" in said and "--device-profile mali-g57 allows" in said, (
        said
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def definition(tmp_path):
    plan = WidthPlan(64, 100, True, False, False, (LayerWidths(4, 2, 16, 16, 32),))
    for name, text in render(plan).items():
        (tmp_path / name).write_text(text)
    config = {"rms_norm_eps": 1e-5, "rope_theta": 1e4, "rope_scaling": None, "tie_word_embeddings": True}
    config |= {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 32, "head_dim": 16}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"context_window_size": 32, "prefill_chunk_size": 8, "max_batch_size": 1}
    return load(tmp_path, config)


@pytest.fixture
def recipes(monkeypatch):
    """Of the libraries that are asked for, none of which is made."""
    asked: list[cache.Recipe] = []
    monkeypatch.setattr(stages.cache, "place", lambda recipe, _directory: asked.append(recipe))
    return asked


def test_the_profile_is_part_of_an_android_librarys_key(definition, recipes, tmp_path):
    for target in ("android", "host"):
        for profile in DEVICES:
            arguments = (definition, get_quantization("q4f16_0"), get_target(target, profile))
            stages.place_library(*arguments, "edge_llama_x", tmp_path / "x")
    assert len({recipe.entry for recipe in recipes}) == len(DEVICES) + 1
