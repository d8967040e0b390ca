"""Complete builds of SmolLM2 for a phone and this host with an empty cache: a uniform and a variable-width plan."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks import page
from benchmarks.model_coverage import in_own_process
from edge_transact.checkpoint import Checkpoint
from edge_transact.inputs.models import resolve_model
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune

if TYPE_CHECKING:
    from benchmarks.__main__ import Options

logger = logging.getLogger(__name__)

TARGETS = ("android", "host")


def measure(options: Options) -> str:
    """Measure, and return the section's table."""
    seconds = defaultdict(list)
    with TemporaryDirectory(dir=options.scratch) as directory:
        models = {
            "layers all alike": resolve_model("demo:smollm2"),
            "layers all different": Path(directory) / "different",
        }
        _all_different(models["layers all alike"], models["layers all different"])
        for number in range(options.repetitions):
            for name in list(models)[:: -1 if number % 2 else 1]:
                logger.info(f"build: {name}, {number + 1} of {options.repetitions}")
                seconds[name].append(in_own_process(built, models[name], options.scratch, options.threads))
    alike, different = seconds.values()
    ratios = [b / a for a, b in zip(alike, different, strict=True)]
    rows = [[name, page.spread(values, 1)] for name, values in seconds.items()]
    rows.append(["different / alike", page.spread(ratios, 2)])
    return page.table([f"SmolLM2 for {' and '.join(TARGETS)}", "seconds"], rows)


def _all_different(source: Path, output: Path) -> None:
    """Write a checkpoint whose layers all have different MLP widths, and one to three KV groups."""
    plan = Checkpoint.open(source).plan
    layers = [
        replace(
            layer,
            num_attention_heads=(index % 3 + 1) * plan.q_per_kv,
            num_key_value_heads=index % 3 + 1,
            intermediate_size=layer.intermediate_size - 32 * index,
        )
        for index, layer in enumerate(plan.layers)
    ]
    widths = output.with_suffix(".json")
    widths.write_text(json.dumps([asdict(layer) for layer in layers]))
    prune(str(source), output, PruneOptions(widths=widths, calibration_tokens=1024))


def built(model: Path, scratch: Path, threads: int) -> float:
    """Seconds of a build with an empty cache, including the weights and the parity check."""
    import torch

    from edge_transact.building.dist import build
    from edge_transact.building.options import BuildOptions

    torch.set_num_threads(threads)
    with TemporaryDirectory(dir=scratch) as directory:
        os.environ["EDGE_TRANSACT_CACHE"] = f"{directory}/cache"
        return build(str(model), Path(directory) / "dist", BuildOptions(target=list(TARGETS))).seconds
