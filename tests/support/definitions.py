"""A plan's definition as a build has it: files, and what they define."""

from dataclasses import asdict
from pathlib import Path

from edge_transact.definition import load, render
from edge_transact.definition.loaded import Definition
from edge_transact.widths import WidthPlan
from tests.support.checkpoints import SIZES


def config_of(plan: WidthPlan, **others: object) -> dict:
    """A configuration with the plan's widths, and small sizes of a library."""
    names = ("hidden_size", "vocab_size", "num_hidden_layers", "head_dim", "tie_word_embeddings")
    widths = {name: getattr(plan, name) for name in (*names, "attention_bias", "mlp_bias")} | asdict(plan.widest)
    widths |= {"per_layer_config": plan.per_layer_config(), "rms_norm_eps": 1e-5, "max_position_embeddings": 64}
    return {**widths, **SIZES, **others}


def emit(directory: Path, plan: WidthPlan, config: dict) -> Definition:
    """Writes the plan's definition to a directory, and loads it."""
    directory.mkdir(exist_ok=True)
    for name, text in render(plan).items():
        (directory / name).write_text(text)
    return load(plan, config)
