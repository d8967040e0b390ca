"""A pruning's report: ``report.json``, figures as PNGs, and one HTML page that holds both."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact import costs
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.pages import script_json, write_page
from edge_transact.evaluate.models import evaluate_model
from edge_transact.evaluate.report_text import TEXT
from edge_transact.progress import working
from edge_transact.prune.forecast import REPORT_STEP, REPORT_WINDOWS
from edge_transact.prune.methods import find_method
from edge_transact.prune.report import figures
from edge_transact.prune.run import PruneResult
from edge_transact.prune.units import MLP, MODULES, QUERIES, UNITS
from edge_transact.quantization import get_quantization

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


def write_report(result: PruneResult, directory: Path, text: str, *, force: bool = False) -> dict[str, Any]:
    """Writes ``report.json``, the figures as PNGs, and ``index.html``, which holds all of them.

    Args:
        result: The pruning.
        directory: Where to write it; it is complete or absent.
        text: The result of `prepare_report`.
        force: Replace a directory that exists.

    Returns:
        The content of ``report.json``.

    Raises:
        EdgeTransactError: A model can't be evaluated, or `directory` exists.
    """
    values = _values(result, text)
    with working(REPORT_STEP), new_directory(directory, force=force) as fresh:
        drawn = {f"{name}.png": figure for name, figure in _figures(result)}
        (fresh / "report.json").write_text(json.dumps(values, indent=1) + "\n")
        write_page(fresh, "prune_report.html.j2", drawn, report=values, data=script_json(values))
    return values


def _values(result: PruneResult, text: str) -> dict[str, Any]:
    quantization = get_quantization(result.options.quant)
    models = {}
    for name, checkpoint in (("source", result.source), ("pruned", result.checkpoint)):
        evaluated = evaluate_model(str(checkpoint.path), text, max_windows=REPORT_WINDOWS)
        models[name] = {
            "parameters": costs.parameters(checkpoint.plan),
            "attention_and_mlp_parameters": costs.prunable_parameters(checkpoint.plan),
            "weight_bytes": costs.weight_bytes(checkpoint.plan, quantization),
            "kv_bytes_per_token": costs.kv_bytes_per_token(checkpoint.plan, quantization),
            "kv_padding_bytes_per_token": costs.kv_padding_bytes_per_token(checkpoint.plan, quantization),
            "perplexity": evaluated.perplexity,
        }
    evaluation = {name: value for name, value in asdict(evaluated).items() if name != "perplexity"}
    summary = result.to_dict()
    del summary["widths"]
    return {
        "model": result.provenance["source"],
        **summary,
        "quantization": quantization.name,
        "evaluation": {"text": TEXT, **evaluation},
        "models": models,
        "layers": list(_layers(result)),
    }


def _layers(result: PruneResult) -> Iterator[dict[str, Any]]:
    for index, (scores, source, pruned) in enumerate(
        zip(result.scores, result.source.plan.layers, result.checkpoint.plan.layers, strict=True)
    ):
        measured = result.sensitivity[index].tolist() if result.sensitivity is not None else None
        yield {
            "source": asdict(source),
            "pruned": asdict(pruned),
            "salience": {name: values.tolist() for name, values in scores.ranks().items()},
            "sensitivity": dict(zip(MODULES, measured, strict=True)) if measured else None,
            "compensation": {
                # JSON has no infinity: `null` is the damping of weights that didn't change.
                name: asdict(fit) | {"damping": fit.damping if math.isfinite(fit.damping) else None}
                for name, fit in (result.fits[index] if result.fits else {}).items()
            },
        }


def _figures(result: PruneResult) -> Iterator[tuple[str, Figure]]:
    source, pruned = result.source.plan, result.checkpoint.plan
    method = result.provenance["method"]
    what = find_method(method).score_unit or f"score of {method}"
    if result.provenance["shots"] > 1:
        what += ", first shot"
    for unit in sorted(UNITS.values(), key=lambda unit: MODULES.index(unit.module)):
        # Heads and MLP dims are always shown, dims inside heads if some were cut.
        cut = [unit.width(layer) for layer in pruned.layers] != [unit.width(layer) for layer in source.layers]
        if unit.figure and (unit in (QUERIES, MLP) or cut):
            yield f"salience-{unit.figure}", figures.salience(unit, result.scores, pruned, what)
    yield "widths", figures.widths_by_layer(source, pruned)
    if result.sensitivity is not None:
        yield "sensitivity", figures.sensitivity(result.sensitivity)
    if result.fits:
        yield "compensation", figures.compensation(result.fits)
