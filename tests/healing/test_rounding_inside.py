"""``heal --quant`` and ``build``: what is built is what was trained, to the bit."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from edge_transact.building.dist import build, definition_config, takes_trained
from edge_transact.building.options import BuildOptions
from edge_transact.building.stages import Rounding, place_weights
from edge_transact.checkpoint import Checkpoint
from edge_transact.definition import load
from edge_transact.errors import EdgeTransactError
from edge_transact.exporting.gguf import export_gguf
from edge_transact.healing.grid import Grid
from edge_transact.healing.options import HealOptions
from edge_transact.healing.run import heal
from edge_transact.pruning.options import PruneChoices
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.weights import w4
from edge_transact.weights.convert import is_embedding, is_packed, split
from edge_transact.weights.shards import ShardReader
from edge_transact.weights.trained import ROUNDING_FILE, TrainedRounding
from tests.support.definitions import emit
from tests.support.examples import small_model
from tests.support.grid import levels_of
from tests.support.interruption import killed_after, write_every_state
from tests.support.pruning import weights_of

GATE = "model.layers.0.mlp.gate_proj.weight"
SIZES = {"train_tokens": 64 * 4 * 6, "batch_tokens": 256, "micro_batch_tokens": 128, "learning_rate": 3e-3}


@dataclass
class Trained:
    """A checkpoint that was trained through the grid, its loss before and after, and the codes of each matrix."""

    path: Path
    before: float
    after: float
    levels: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def trained(pruned_model: Path, chapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    path = tmp_path_factory.mktemp("trained") / "out"
    grids: list[Grid] = []
    attach = Grid.attach

    def recorded(grid: Grid, parameters: dict) -> None:
        grids.append(grid)
        attach(grid, parameters)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Grid, "attach", recorded)
        result = heal(str(pruned_model), path, HealOptions(train=str(chapters), quant="q4f16_0", **SIZES)).trained
    scales = grids[0].scales()
    levels = {name: levels_of(grids[0].exact(name), scales[name]) for name in scales}
    return Trained(path, result.held_out_before, result.held_out, levels)


def test_training_lowers_the_loss_of_the_rounded_model(trained: Trained, pruned_model: Path) -> None:
    assert trained.after < 0.97 * trained.before
    record = json.loads((trained.path / "edge_transact.json").read_text())["healed"][0]
    assert record["quant"] == "q4f16_0"
    assert weights_of(trained.path) != weights_of(pruned_model)


def test_shards_have_the_codes_that_were_trained(trained: Trained, tmp_path: Path) -> None:
    dist = build(str(trained.path), tmp_path / "dist", BuildOptions(target=["host"], quant="q4f16_0"))
    assert dist.manifest.rounding == "trained" and dist.manifest.parity["passed"]
    checkpoint = Checkpoint.open(trained.path)
    definition = load(checkpoint.plan, definition_config(checkpoint, {}))
    check_codes(trained, checkpoint, definition.parameter_sources(), tmp_path / "dist", "q4f16_0")


def test_another_layout_has_the_same_codes(trained: Trained, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(trained.path)
    definition = emit(tmp_path / "definition", checkpoint.plan, definition_config(checkpoint, {}))
    (tmp_path / "shards").mkdir()
    weights = place_weights(
        checkpoint, definition, QUANTIZATIONS["q4f16_1"], Rounding("trained", PruneChoices()), tmp_path / "shards"
    )
    assert weights.rounding == "trained"
    check_codes(trained, checkpoint, definition.parameter_sources(), tmp_path / "shards", "q4f16_1")


def check_codes(trained: Trained, checkpoint: Checkpoint, sources, shards: Path, name: str) -> None:
    quantization, reader, seen = QUANTIZATIONS[name], ShardReader(shards), set()
    shapes = {part: checkpoint.shape(part) for part in checkpoint.tensor_names()}
    model = AutoModelForCausalLM.from_pretrained(trained.path).state_dict()
    for parameter, source in sources.items():
        if not is_packed(parameter, shapes[source[0][0]], quantization):
            continue
        prefix, embedding = parameter.removesuffix("weight"), is_embedding(parameter)
        stored = reader.array(f"{prefix}q_weight"), reader.array(f"{prefix}q_scale")
        words, _ = w4.output_major(*stored, quantization, embedding=embedding)
        columns = shapes[source[0][0]][1]
        weights = w4.dequantize(*stored, quantization, columns, embedding=embedding)
        for part, codes in split(w4.codes(words, quantization).reshape(len(words), -1)[:, :columns], source, shapes):
            np.testing.assert_array_equal(codes.astype(int) - 7, trained.levels[part], part)
            seen.add(part)
        for part, weight in split(weights, source, shapes):
            # What transformers loads is the model that the library has.
            np.testing.assert_array_equal(model[part].numpy(), weight, part)
    assert seen == set(trained.levels)


def test_a_gguf_file_has_the_codes_that_were_trained(chapters: Path, tmp_path: Path) -> None:
    """Its rows are groups of 32 weights. No code is above 5: for those, `search` would choose smaller scales."""
    source = str(small_model(tmp_path / "model"))
    options = HealOptions(train=str(chapters), train_window=64, teacher=source, quant="q4f16_0", **SIZES)
    checkpoint = heal(source, tmp_path / "trained", options).checkpoint
    scales = TrainedRounding.of(checkpoint).scales(GATE).repeat_interleave(32, 1).float()
    weights = load_file(checkpoint.path / "model.safetensors")
    wanted = torch.minimum(torch.maximum(weights[GATE].float(), -5 * scales), 5 * scales).half()
    save_file(weights | {GATE: wanted}, checkpoint.path / "model.safetensors", {"format": "pt"})

    export_gguf(str(checkpoint.path), tmp_path / "model.gguf", kind="q4_0")
    (stored,) = (each for each in gguf.GGUFReader(tmp_path / "model.gguf").tensors if "ffn_gate" in each.name)
    assert stored.tensor_type.name == "Q4_0"
    np.testing.assert_array_equal(gguf.dequantize(stored.data, stored.tensor_type).astype(np.float16), wanted)


def test_build_says_when_it_rounds_anew(trained: Trained, pruned_model: Path, caplog) -> None:
    checkpoint = Checkpoint.open(trained.path)

    def takes(quant: str, **choices) -> bool:
        return takes_trained(checkpoint, QUANTIZATIONS[quant], BuildOptions(**choices))

    assert takes("q4f16_0") and takes("q4f16_1") and not takes("q0f16") and not caplog.records
    with caplog.at_level(logging.WARNING):
        assert not takes("q4f32_1")
        assert "q4f32_1 rounds it anew. Give --quant q4f16_0" in caplog.text
        assert not takes("q4f16_0", rounding="search")
        assert "--rounding search rounds it anew. Leave out --rounding" in caplog.text
    assert not takes_trained(Checkpoint.open(pruned_model), QUANTIZATIONS["q4f16_0"], BuildOptions())


@pytest.mark.usefixtures("own_cache")
def test_training_goes_on_bit_for_bit(pruned_model: Path, chapters: Path, tmp_path: Path, monkeypatch) -> None:
    options = HealOptions(train=str(chapters), quant="q4f32_1", **SIZES)
    heal(str(pruned_model), tmp_path / "whole", options)
    write_every_state(monkeypatch)
    with killed_after(6):
        heal(str(pruned_model), tmp_path / "out", options)
    heal(str(pruned_model), tmp_path / "out", options, resume=True)
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "whole")
    scales = [load_file(tmp_path / name / ROUNDING_FILE) for name in ("out", "whole")]
    assert all(torch.equal(scale, scales[1][name]) for name, scale in scales[0].items())


def test_training_again_begins_with_the_same_codes(trained: Trained, chapters: Path, tmp_path: Path) -> None:
    options = HealOptions(train=str(chapters), quant="q4f16_1", **SIZES | {"train_tokens": 256})
    result = heal(str(trained.path), tmp_path / "again", options)
    assert result.trained.held_out_before == pytest.approx(trained.after, rel=1e-3)


def test_without_quant_nothing_is_rounded(trained, pruned_model, chapters: Path, tmp_path: Path) -> None:
    options = HealOptions(train=str(chapters), **SIZES | {"train_tokens": 256})
    for name, source in (("out", pruned_model), ("exact", trained.path)):  # which then leaves the grid
        heal(str(source), tmp_path / name, options)
        assert not (tmp_path / name / ROUNDING_FILE).exists()


def test_bad_input(trained: Trained, tmp_path: Path) -> None:
    changed = shutil.copytree(trained.path, tmp_path / "changed")
    tensors = load_file(changed / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1.04
    save_file(tensors, changed / "model.safetensors")
    with pytest.raises(EdgeTransactError, match=r"down_proj.* not on the grid"):
        build(str(changed), tmp_path / "dist", BuildOptions(target=["host"], quant="q4f16_0"))
    (changed / ROUNDING_FILE).write_bytes(b"nonsense")
    with pytest.raises(EdgeTransactError, match="damaged"):
        build(str(changed), tmp_path / "dist", BuildOptions(target=["host"], quant="q4f16_0"))
