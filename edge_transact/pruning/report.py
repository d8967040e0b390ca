"""A pruning's report: the figures of both models, the widths, and how they were chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edge_transact import costs
from edge_transact.artifacts.charts import Axis, Chart, by_layer, lines, number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.report import Origin, Report, Section, change
from edge_transact.artifacts.summary import PRUNED, SOURCE, width_section
from edge_transact.checkpoint.writer import PROVENANCE_FILE, write_quality
from edge_transact.evaluation.answers.collapse import beside, described, warning
from edge_transact.evaluation.models import REPORT_TEXT, REPORT_TEXTS, REPORT_WINDOWS, evaluate_documents
from edge_transact.evaluation.requirements import asked
from edge_transact.formatting import megabytes
from edge_transact.inputs.texts import read_text
from edge_transact.options import written
from edge_transact.progress import working
from edge_transact.pruning.compensate.compensation import PROJECTIONS
from edge_transact.pruning.compensate.regression import Fit
from edge_transact.pruning.cut import select
from edge_transact.pruning.options import find_method
from edge_transact.pruning.run import PruneResult
from edge_transact.pruning.score.sensitivity import CUT
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.search.loop import Found
from edge_transact.pruning.units import MODULES, QUERIES, UNITS, Unit
from edge_transact.quantization import get_quantization
from edge_transact.reading import read_object
from edge_transact.system.machine import machine_name
from edge_transact.widths import LayerWidths, WidthPlan

CUT_AWAY = 1

MARK, UNTRAINED = "*", 0.5
"""Behind the kinds of text that calibration read, and the share of the vocabulary that an untrained model chooses from.
"""

BINS = 48
"""The most bars of a layer in a chart of scores: neighbours share one."""


REPORT_STEP = "figures"
"""After both models' perplexity."""


def salience_section(unit: Unit, scores: Sequence[LayerScores], plan: WidthPlan, what: str) -> Section:
    """A chart of bars for each layer, kept and cut ones in two colours, as in the paper's Figure 2; `what` a score is.

    Query heads have a scale of their own in each layer; dims share a logarithmic one.
    """
    of_layers = (bars(unit, of_layer, widths) for of_layer, widths in zip(scores, plan.layers, strict=True))
    layers = [(index, values, kept) for index, (values, kept) in enumerate(of_layers) if len(values)]
    positive = torch.cat([values[values > 0] for _, values, _ in layers])
    shared = unit is not QUERIES and len(positive) > 0
    lowest, highest = (positive.min().item(), positive.max().item()) if shared else (0.0, 0.0)
    charts = []
    for index, values, kept in layers:
        y = (
            Axis(lowest / 1.2, highest * 1.2, log=True, names={})
            if shared
            else Axis(0, values.max().item() or 1, names={})
        )
        ends = f"from {number(values.min().item())} to {number(values.max().item())}"
        text = f"Layer {index}: {kept.sum()} of {len(kept)} {unit.title} are kept. Scores go {ends}."
        size = -(-len(values) // BINS)
        x = Axis(0, len(values), names={})
        chart = Chart(f"{index}: {kept.sum():,} of {len(kept):,}", text, x, y, width=160, height=84)
        for colour, chosen in ((PRUNED, kept), (CUT_AWAY, ~kept)):
            parts = zip(values.split(size), chosen.split(size), strict=True)
            heights = [part.mean().item() if of_part.float().mean() >= 0.5 else y.low for part, of_part in parts]
            chart.boxes(((i * size, y.low, (i + 1) * size, top) for i, top in enumerate(heights)), colour)
        charts.append(chart)
    scale = f"logarithmic, from {number(lowest)} to {number(highest)}" if shared else "each layer's own, from 0"
    order = "in their order" if unit is QUERIES else "best first" + " within each KV head" * (unit.place == "in group")
    return Section(
        f"salience-{unit.figure}",
        f"Scores of {unit.title}",
        charts,
        text=f"A chart for each layer, and how many it keeps. Bars are {unit.title}, {order}: {what}. Scale: {scale}.",
        legend={"kept": PRUNED, "cut": CUT_AWAY},
        folded=True,
    )


def bars(unit: Unit, scores: LayerScores, widths: LayerWidths) -> tuple[torch.Tensor, torch.Tensor]:
    """The heights of a layer's bars, fp32 ``[units]``, and which of them these scores alone would keep."""
    kept, values = select(scores, widths), scores.of(unit)
    in_groups = unit.place == "in group"
    rows = values if in_groups else values[None]
    mask = torch.zeros_like(rows, dtype=torch.bool)
    mask[kept.groups[:, None] if in_groups else 0, kept.of(unit)] = True
    if unit is not QUERIES:
        order = rows.argsort(dim=1, descending=True, stable=True)
        rows, mask = rows.gather(1, order), mask.gather(1, order)
    return rows.flatten(), mask.flatten()


def search_section(found: Found) -> Section:
    """How the search went on, and where the plan that it chose differs from the one that it began with."""
    generations = found.generations
    best = [(float(place), each.ranking[0][1]) for place, each in enumerate(generations)]
    low, high = best[-1][1], best[0][1]
    y = Axis(0.98 * low, 1.02 * high, "divergence, nats a token")
    charts = [lines("Best plan", {"": best}, Axis(0, max(1, len(best) - 1), "generation"), y, colours=(PRUNED,))]
    first, last = found.start.layers, found.best.layers
    for unit in UNITS.values():
        before, after = ([unit.width(layer) for layer in layers] for layers in (first, last))
        if before != after:
            widths = Axis.over([*before, *after])
            of_plans = {"before": before, "found": after}
            charts.append(by_layer(unit.title, of_plans, widths, colours=(SOURCE, PRUNED)))
    return Section(
        "search",
        "Search",
        charts,
        text="The divergence of the best plan's predictions from the source's on the text that generations are "
        "compared on, by generation, and the widths of the allocation's plan and of the one that was found. In the "
        f"end, {found.note()}.",
        legend={"before": SOURCE, "found": PRUNED},
        header=("generation", "round", "divergence, nats a token"),
        rows=[[f"{at:.0f}", str(of.round), number(loss)] for (at, loss), of in zip(best, generations, strict=True)],
        folded=True,
    )


def sensitivity_section(divergence: torch.Tensor) -> Section:
    """Columns for the attention and for the MLP of each layer; nats a token, as `measure_sensitivity` returns it."""
    values = divergence.tolist()
    labels = ("Attention", "MLP", "Without attention", "Without MLP")[: divergence.shape[1]]
    y = Axis.over([value for row in values for value in row], "divergence, nats a token", log=True)
    modules = zip(labels, zip(*values, strict=True), strict=True)
    return Section(
        "sensitivity",
        "How sensitive each layer is",
        [by_layer(label, {"": of_module}, y, colours=(PRUNED,)) for label, of_module in modules],
        text="The Kullback-Leibler divergence of the predictions when the attention or the MLP of one layer alone is "
        f"cut by {CUT:.0%}" + (", or is gone." if len(labels) > 2 else "."),
        header=("layer", *(label[0].lower() + label[1:] if label != "MLP" else label for label in labels)),
        rows=[[str(index), *map(number, row)] for index, row in enumerate(values)],
        folded=True,
    )


def compensation_section(fits: Sequence[Mapping[str, Fit]], norms: Mapping[str, float]) -> Section:
    """The distance of each consuming projection from its target, before and after it is solved again.

    `norms` is what training the norms brought, as `NormFit` has it.
    """
    charts = []
    for name in PROJECTIONS:
        before, after = zip(*(_errors(of_layer, name) or (0.0, 0.0) for of_layer in fits), strict=True)
        y = Axis.over(before, "share of the hidden state's square")
        charts.append(by_layer(name, {"before": before, "after": after}, y, colours=(SOURCE, PRUNED)))
    return Section(
        "compensation",
        "Error before and after compensation",
        charts,
        text="The squared distance of a projection's output from that of the source, on held-out calibration text, "
        "before and after its weights are solved again. Training the norms then moved the divergence of the "
        f"predictions from {norms['divergence_before']:.3f} to {norms['divergence_after']:.3f} nats a token.",
        legend={"before": SOURCE, "after": PRUNED},
        header=("layer", *(f"{name}, {when}" for name in PROJECTIONS for when in ("before", "after"))),
        rows=[
            [
                str(index),
                *(cell for name in PROJECTIONS for cell in [*map(number, _errors(of_layer, name))] or ["", ""]),
            ]
            for index, of_layer in enumerate(fits)
        ],
        folded=True,
    )


def _errors(fits: Mapping[str, Fit], name: str) -> tuple[float, ...]:
    """A projection's error before and after it is solved again; empty if the layer lost it."""
    return (fits[name].error_before, fits[name].error_after) if name in fits else ()


def report_texts() -> dict[str, str]:
    """The documents to measure on by `REPORT_TEXTS`, read before the work; raises `EdgeTransactError` without one."""
    return {text: read_text(text, "evaluation") for text in REPORT_TEXTS}


def write_report(
    result: PruneResult, directory: Path, texts: Mapping[str, str], *, force: bool = False
) -> dict[str, Any]:
    """Writes ``report.json``, and ``index.html`` with its charts, which are SVG files too; and into the model card.

    `directory` is complete or absent; `texts` is the result of `report_texts`. Returns the content of ``report.json``.
    """
    values = _values(result, texts)
    rows = {label: f"{before:.2f}, pruned {after:.2f}" for label, before, after in _perplexities(values)}
    if values["degenerate"]["pruned"]:
        rows["unusable test answers"] = beside(values["degenerate"]["pruned"], values["degenerate"]["source"])
    write_quality(result.checkpoint.path, rows)
    with working(REPORT_STEP), new_directory(directory, force=force) as fresh:
        page(values, list(_charts(result)), _origin(result, directory)).write(fresh, values)
    return values


def page(values: Mapping[str, Any], charts: Sequence[Section], origin: Origin) -> Report:
    """The page, from the content of ``report.json`` and its charts, the widths first."""
    source, pruned = values["models"]["source"], values["models"]["pruned"]
    smaller = change(source["weight_bytes"], pruned["weight_bytes"]).lstrip("-")
    nats = {each["kind"]: math.log(each["pruned"] / each["source"]) for each in values["texts"]}
    mean, worst = math.fsum(nats.values()) / len(nats), max(nats, key=nats.__getitem__)
    evaluation = values["evaluation"]
    note = (
        f"Perplexity is measured in fp32 on the first {evaluation['windows']} windows of {evaluation['window']} tokens "
        f"of the evaluation parts of {', '.join(each['text'] for each in values['texts'])}. Lower is better. It is e "
        "to the power of the loss in nats a token; the mean of the kinds is that of their losses."
    )
    if any(each["is_calibration"] for each in values["texts"]):
        note += f" {MARK} Calibration read other parts of the same source: what is unlike it loses more."
    comparison = Section(
        "comparison",
        "Before and after",
        header=("measure", "source", "pruned", "change"),
        rows=list(_comparison(values)),
        note=note,
    )
    notes = Section("notes", "Notes", text="; ".join(values["notes"]))
    return Report(
        f"{smaller} smaller, perplexity {change(1, math.exp(mean))} on average, "
        f"{change(1, math.exp(nats[worst]))} on {worst}",
        f"{values['model']} pruned",
        [comparison, *charts[:1], *([notes] if values["notes"] else []), *charts[1:]],
        origin,
        text=[
            f"{100 * values['ratio']:.1f} % of the attention and MLP parameters of {values['model']} were removed; the "
            f"result is {values['output']}. Run `edge-transact bench` to measure the speed."
        ],
        warnings=list(_warnings(values)),
    )


def _warnings(values: Mapping[str, Any]) -> Iterator[str]:
    """What the figures alone don't say."""
    if min(each["source"] for each in values["texts"]) > UNTRAINED * values["vocabulary"]:
        yield f"{values['model']} predicts no better than chance: it isn't trained, and no figure here says anything."
    elif (found := values["degenerate"]["pruned"]) and (words := warning(values["output"], found)):
        yield words


def _perplexities(values: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Of each text the label, and both models' perplexities."""
    for each in values["texts"]:
        yield f"perplexity, {each['kind']}{f' {MARK}' * each['is_calibration']}", each["source"], each["pruned"]


def _comparison(values: Mapping[str, Any]) -> Iterator[list[str]]:
    for label, before, after in _perplexities(values):
        yield [label, f"{before:.2f}", f"{after:.2f}", change(before, after)]
    unusable, quantization = values["degenerate"], values["quantization"]
    if unusable["source"] and unusable["pruned"]:
        yield ["unusable test answers", *(described(unusable[name]) for name in ("source", "pruned")), ""]
    source, pruned = values["models"]["source"], values["models"]["pruned"]
    rows: tuple[tuple[str, str, Callable[[float], str]], ...] = (
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


def _values(result: PruneResult, texts: Mapping[str, str]) -> dict[str, Any]:
    quantization = get_quantization(result.options.quant)
    models, found, degenerate = {}, {}, {}
    for name, checkpoint in (("source", result.source), ("pruned", result.checkpoint)):
        evaluated = evaluate_documents(str(checkpoint.path), texts.values(), max_windows=REPORT_WINDOWS)
        found[name] = dict(zip(texts, evaluated, strict=True))
        degenerate[name] = asked(checkpoint.path)
        models[name] = {
            "parameters": costs.parameters(checkpoint.plan),
            "attention_and_mlp_parameters": costs.prunable_parameters(checkpoint.plan),
            "weight_bytes": costs.weight_bytes(checkpoint.plan, quantization),
            "kv_bytes_per_token": costs.kv_bytes_per_token(checkpoint.plan, quantization),
            "kv_padding_bytes_per_token": costs.kv_padding_bytes_per_token(checkpoint.plan, quantization),
            "perplexity": found[name][REPORT_TEXT]["perplexity"],
        }
    evaluation = {name: value for name, value in found["source"][REPORT_TEXT].items() if name != "perplexity"}
    calibrated = {source["text"] for source in result.provenance["calibration"]["sources"]}
    summary = result.to_dict()
    del summary["widths"]
    return {
        "model": result.provenance["source"],
        **summary,
        "quantization": quantization.name,
        "evaluation": {"text": REPORT_TEXT, **evaluation},
        "texts": [
            {"text": text, "kind": REPORT_TEXTS[text], "is_calibration": text in calibrated}
            | {name: found[name][text]["perplexity"] for name in found}
            for text in texts
        ],
        "degenerate": degenerate,
        "vocabulary": result.source.plan.vocab_size,
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
        yield search_section(result.searched)
    if result.sensitivity is not None:
        yield sensitivity_section(result.sensitivity)
    if result.fits:
        yield compensation_section(result.fits, result.provenance["norms"])
    for unit in sorted(UNITS.values(), key=lambda unit: MODULES.index(unit.module)):
        # Query heads are also cut with their KV head.
        field = "num_attention_heads" if unit is QUERIES else unit.field
        # Heads that are all gone didn't lose dims.
        if unit.figure and any(
            bool(unit.sets_cache_head_dim) <= getattr(new, field) < getattr(old, field)
            for new, old in zip(pruned.layers, source.layers, strict=True)
        ):
            yield salience_section(unit, result.scores, pruned, what)
