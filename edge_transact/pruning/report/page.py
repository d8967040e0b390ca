"""A pruning's report: the figures of both models, the widths, and how they were chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_transact import costs
from edge_transact.artifacts.charts import number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.report import Origin, Report, Section, change
from edge_transact.artifacts.summary import width_section
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.evaluation.models import evaluate_model
from edge_transact.evaluation.report_text import TEXT, WINDOWS
from edge_transact.formatting import megabytes
from edge_transact.options import written
from edge_transact.progress import working
from edge_transact.pruning.methods import find_method
from edge_transact.pruning.report import figures
from edge_transact.pruning.run import PruneResult
from edge_transact.pruning.units import MODULES, QUERIES, UNITS
from edge_transact.quantization import get_quantization
from edge_transact.reading import read_object
from edge_transact.system.machine import machine_name

REPORT_STEP = "figures"
"""After both models' perplexity."""


def write_report(result: PruneResult, directory: Path, text: str, *, force: bool = False) -> dict[str, Any]:
    """Writes ``report.json``, and ``index.html`` with its charts, which are SVG files too.

    `directory` is complete or absent; `text` is the result of `prepare_report`. Returns the content of ``report.json``.

    Raises:
        EdgeTransactError: A model can't be evaluated, or `directory` exists.
    """
    values = _values(result, text)
    with working(REPORT_STEP), new_directory(directory, force=force) as fresh:
        page(values, list(_charts(result)), _origin(result, directory)).write(fresh, values)
    return values


def page(values: Mapping[str, Any], charts: Sequence[Section], origin: Origin) -> Report:
    """The page, from the content of ``report.json`` and its charts, the widths first."""
    source, pruned = values["models"]["source"], values["models"]["pruned"]
    smaller = change(source["weight_bytes"], pruned["weight_bytes"]).lstrip("-")
    before, after, evaluation = source["perplexity"], pruned["perplexity"], values["evaluation"]
    nats = math.log(after / before)
    note = (
        f"Perplexity is measured in fp32 on the first {evaluation['windows']} windows of {evaluation['window']} tokens "
        f"of the evaluation part of {evaluation['text']}. Lower is better. It is e to the power of the loss, which "
        f"{'rose' if nats >= 0 else 'fell'} by {abs(nats):.3f} nats a token."
    )
    comparison = Section(
        "comparison",
        "Before and after",
        header=("measure", "source", "pruned", "change"),
        rows=list(_comparison(source, pruned, values["quantization"])),
        note=note,
    )
    by_loss = (
        "The predicted loss, by which widths are chosen, is the sum of what each layer's cut alone is expected to add, "
    )
    notes = Section(
        "notes",
        "Notes",
        text="; ".join(values["notes"]),
        note=f"{by_loss}before compensation." if values["allocation"] == "budgeted" else "",
    )
    return Report(
        f"{smaller} smaller, perplexity {number(before)} → {number(after)}",
        f"{values['model']} pruned",
        [comparison, *charts[:1], *([notes] if values["notes"] else []), *charts[1:]],
        origin,
        text=[
            f"{100 * values['ratio']:.1f} % of the attention and MLP parameters of {values['model']} were removed; the "
            f"result is {values['output']}. Run `edge-transact bench` to measure the speed."
        ],
    )


def _comparison(source: Mapping[str, float], pruned: Mapping[str, float], quantization: str) -> Iterator[list[str]]:
    rows: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("perplexity", "perplexity", "{:.2f}".format),
        (f"weights in {quantization}", "weight_bytes", megabytes),
        ("parameters", "parameters", _millions),
        ("of attention and MLP", "attention_and_mlp_parameters", _millions),
        ("KV bytes per token", "kv_bytes_per_token", "{:,}".format),
        ("of them padding", "kv_padding_bytes_per_token", "{:,}".format),
    )
    for label, name, written_as in rows:
        old, new = source[name], pruned[name]
        yield [label, written_as(old), written_as(new), change(old, new) if old else ""]


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
    versions = read_object(output / PROVENANCE_FILE)["versions"]
    return Origin(
        command, machine_name(), versions, [*written.rows(options), *(written.rows(training) if training else ())]
    )


def _values(result: PruneResult, text: str) -> dict[str, Any]:
    quantization = get_quantization(result.options.quant)
    models = {}
    for name, checkpoint in (("source", result.source), ("pruned", result.checkpoint)):
        evaluated = evaluate_model(str(checkpoint.path), text, max_windows=WINDOWS)
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
            "sensitivity": dict(zip(MODULES, measured, strict=False)) if measured else None,
            "dropped": dict(zip(MODULES, measured[len(MODULES) :], strict=False)) or None if measured else None,
            "compensation": {
                # JSON has no infinity: `null` is the damping of weights that didn't change.
                name: asdict(fit) | {"damping": fit.damping if math.isfinite(fit.damping) else None}
                for name, fit in (result.fits[index] if result.fits else {}).items()
            },
        }


def _charts(result: PruneResult) -> Iterator[Section]:
    source, pruned = result.source.plan, result.checkpoint.plan
    method = result.provenance["method"]
    what = find_method(method).score_unit or f"score of {method}"
    if result.provenance["shots"] > 1:
        what += ", first shot; colours show what it alone would keep"
    yield width_section(pruned, source)
    if result.searched:
        yield figures.search(result.searched)
    if result.sensitivity is not None:
        yield figures.sensitivity(result.sensitivity)
    if result.fits:
        yield figures.compensation(result.fits)
    for unit in sorted(UNITS.values(), key=lambda unit: MODULES.index(unit.module)):
        # Query heads are also cut with their KV head.
        field = "num_attention_heads" if unit is QUERIES else unit.field
        # Heads that are all gone didn't lose dims.
        if unit.figure and any(
            bool(unit.sets_cache_head_dim) <= getattr(new, field) < getattr(old, field)
            for new, old in zip(pruned.layers, source.layers, strict=True)
        ):
            yield figures.salience(unit, result.scores, pruned, what)
