"""A pruning's report: ``report.json``, and an HTML page with pictures, which are SVG files beside it too."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_transact import costs
from edge_transact.artifacts.charts import Picture, number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.pages import Origin, change, megabytes, write_page
from edge_transact.artifacts.width_picture import width_picture
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.evaluate.models import evaluate_model
from edge_transact.evaluate.report_text import TEXT
from edge_transact.options import written
from edge_transact.progress import working
from edge_transact.prune.forecast import REPORT_STEP, REPORT_WINDOWS
from edge_transact.prune.methods import find_method
from edge_transact.prune.report import figures
from edge_transact.prune.run import PruneResult
from edge_transact.prune.units import MODULES, QUERIES, UNITS
from edge_transact.quantization import get_quantization
from edge_transact.system.machine import machine_name

logger = logging.getLogger(__name__)


def write_report(result: PruneResult, directory: Path, text: str, *, force: bool = False) -> dict[str, Any]:
    """Writes ``report.json``, and ``index.html`` with its pictures, which are SVG files too.

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
        pictures, origin = list(_pictures(result)), _origin(result, directory)
        (fresh / "report.json").write_text(json.dumps(values, indent=1) + "\n")
        write_prune_page(fresh, values, pictures, origin)
    return values


def write_prune_page(directory: Path, report: Mapping[str, Any], pictures: Sequence[Picture], origin: Origin) -> None:
    """Writes the page and its pictures.

    Args:
        directory: An existing directory.
        report: The content of ``report.json``.
        pictures: In the order of the page.
        origin: How the figures came about.
    """
    source, pruned = report["models"]["source"], report["models"]["pruned"]
    smaller = change(source["weight_bytes"], pruned["weight_bytes"]).lstrip("-")
    before, after = source["perplexity"], pruned["perplexity"]
    write_page(
        directory,
        "prune_report.html.j2",
        f"{smaller} smaller, perplexity {number(before)} → {number(after)}",
        f"{report['model']} pruned",
        pictures,
        origin,
        json_file="report.json",
        report=report,
        comparison=list(_comparison(source, pruned, report["quantization"])),
        loss_growth=math.log(after / before),
    )


def _comparison(source: Mapping[str, float], pruned: Mapping[str, float], quantization: str) -> Iterator[list[str]]:
    """What both models take, and how far they differ."""
    rows: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("perplexity", "perplexity", "{:.2f}".format),
        (f"weights in {quantization}", "weight_bytes", megabytes),
        ("parameters", "parameters", _millions),
        ("of attention and MLP", "attention_and_mlp_parameters", _millions),
        ("KV bytes per token", "kv_bytes_per_token", "{:,}".format),
        ("of them padding", "kv_padding_bytes_per_token", "{:,}".format),
    )
    for label, name, shown in rows:
        old, new = source[name], pruned[name]
        yield [label, shown(old), shown(new), change(old, new) if old else ""]


def _millions(parameters: float) -> str:
    return f"{parameters / 1e6:,.1f} M"


def _origin(result: PruneResult, directory: Path) -> Origin:
    method, options, training = find_method(result.options.method), result.options, result.training
    left_to_it = {"allocation": method.allocation, "compensate": method.compensates}
    chosen = {name for name, value in left_to_it.items() if getattr(options, name) == value}
    output = result.checkpoint.path
    command = written.line(
        "prune",
        result.provenance["source"],
        *written.words(options, apart_from=chosen),
        *(written.words(training) if training else ()),
        "-o",
        output,
        "--report",
        directory,
    )
    versions = json.loads((output / PROVENANCE_FILE).read_text())["versions"]
    return Origin(
        command, machine_name(), versions, [*written.rows(options), *(written.rows(training) if training else ())]
    )


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


def _pictures(result: PruneResult) -> Iterator[Picture]:
    source, pruned = result.source.plan, result.checkpoint.plan
    method = result.provenance["method"]
    what = find_method(method).score_unit or f"score of {method}"
    if result.provenance["shots"] > 1:
        what += ", first shot; colours show what it alone would keep"
    yield width_picture(pruned, source)
    if result.sensitivity is not None:
        yield figures.sensitivity(result.sensitivity)
    if result.fits:
        yield figures.compensation(result.fits)
    for unit in sorted(UNITS.values(), key=lambda unit: MODULES.index(unit.module)):
        # Query heads are also cut with their KV head.
        field = "num_attention_heads" if unit is QUERIES else unit.field
        if unit.figure and any(
            getattr(new, field) < getattr(old, field) for new, old in zip(pruned.layers, source.layers, strict=True)
        ):
            yield figures.salience(unit, result.scores, pruned, what)
