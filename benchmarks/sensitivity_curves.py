"""``python -m benchmarks.sensitivity_curves``: SmolLM2's, and the widths that ``budgeted`` chooses on them.

The result, ``benchmarks/results/sensitivity-curves.json``, is what `benchmarks.pictures` draws. It takes minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from benchmarks import page
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune
from edge_transact.pruning.score.sensitivity import sensitivity_curves

RESULTS = page.RESULTS / "sensitivity-curves.json"
STEPS = {"mlp": 32, "groups": 1, "values": 8, "queries-keys": 4}
"""The step in which the allocation moves along the curve of each unit."""


def points(curve: torch.Tensor, step: int) -> list[list[float]]:
    """Points ``[units kept, loss in nats a token]`` of a curve ``[units + 1]``, from full width down in steps."""
    kept = range(len(curve) - 1, -1, -step)
    return [[units, float(f"{curve[units].item():.5g}")] for units in kept]


def measure(model: str, ratio: float) -> dict[str, object]:
    """Prunes a model with ``obs``: its widths before and after, and the sensitivity curves of every layer.

    Compensation, which takes the longest, comes after the widths are chosen and is left out.
    """
    with tempfile.TemporaryDirectory(prefix="edge-transact-curves-") as scratch:
        result = prune(model, Path(scratch) / "pruned", PruneOptions(ratio=ratio, compensate=False))
        source, pruned = result.source.plan, result.checkpoint.plan
    curves = sensitivity_curves(result.scores, source.layers, result.sensitivity)
    return {
        "model": model,
        "ratio": ratio,
        "machine": page.machine(torch.get_num_threads()),
        "source": source.to_list(),
        "pruned": pruned.to_list(),
        "curves": [{unit: points(layer[unit], step) for unit, step in STEPS.items()} for layer in curves],
    }


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sensitivity_curves", description=__doc__)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.ratio)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
