"""A rounding's report: the built model next to other roundings of the same checkpoint, and what each part costs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_transact.artifacts.charts import number
from edge_transact.artifacts.manifest import Manifest
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.report import Origin, Report, Section
from edge_transact.building.report import figures
from edge_transact.building.report.measure import PART_WINDOW, PART_WINDOWS, Dequantized, Measurement, Part, measure
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.evaluation.report_text import TEXT
from edge_transact.formatting import megabytes
from edge_transact.progress import working
from edge_transact.quantization import get_quantization
from edge_transact.rounding.search import searching
from edge_transact.runtime.text import TextCodec
from edge_transact.system.machine import machine_name
from edge_transact.weights.convert import ParameterSources, convert
from edge_transact.weights.shards import ShardReader

logger = logging.getLogger(__name__)

FIGURES_STEP = "figures"


def write_report(
    checkpoint: Checkpoint,
    dist: Path,
    sources: ParameterSources,
    directory: Path,
    text: str,
    command: str,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Measures what a DIST's shards hold, next to other roundings of the checkpoint; an `EdgeTransactError` for NaN."""
    manifest = Manifest.read(dist)
    with new_directory(directory, force=force) as fresh:
        # On the disk of the report, because a large model's shards and hidden states are gigabytes.
        with tempfile.TemporaryDirectory(dir=fresh) as scratch:
            shards = _roundings(checkpoint, dist, sources, manifest, Path(scratch))
            quantization = get_quantization(manifest.quantization)
            rounded = {
                name: Dequantized(**vars(checkpoint), reader=reader, sources=sources, quantization=quantization)
                for name, reader in shards.items()
            }
            logger.info(f"report on {TEXT}")
            journal = Journal(Path(scratch) / "report")
            measured = measure(checkpoint, rounded, TextCodec(checkpoint.path).tokenizer, text, journal)
        values = _values(manifest, dist, measured)
        with working(FIGURES_STEP):
            page(values, measured.parts, Origin(command, machine_name(), manifest.versions)).write(fresh, values)
    return values


def page(values: Mapping[str, Any], parts: Sequence[Part], origin: Origin) -> Report:
    """The page, from the content of ``report.json`` and what was measured of each part."""
    perplexities = {name: number(model["perplexity"]) for name, model in values["models"].items()}
    size, rounding, evaluation = values["weights_bytes"], values["rounding"], values["evaluation"]
    share = values["bits_per_parameter"] / 16
    compared = Section(
        "models",
        "Roundings compared",
        header=("rounding", "perplexity", "same top token", "mean KL", "median KL", "99th percentile of KL"),
        rows=list(_rows(values["models"], rounding)),
        note="The models are computed by torch in fp32 with the dequantized weights, on the first "
        f"{evaluation['windows']} windows of {evaluation['window']} tokens of the evaluation part of "
        f"{evaluation['text']}. KL is the Kullback-Leibler divergence of a prediction from the unrounded model's, in "
        "nats: 0 if both predict the same.",
    )
    return Report(
        f"{megabytes(size)}, {100 * share:.0f} % of 16 bits: "
        f"perplexity {perplexities['unrounded']} → {perplexities[rounding]}",
        f"{values['model']} rounded with {rounding}",
        [compared, figures.kl_by_part(parts), figures.errors_by_matrix(parts, rounding)],
        origin,
        text=[
            f"{values['model']} was rounded to {values['quantization']} with {rounding}, "
            f"{values['bits_per_parameter']:.2f} bits a parameter, and written to {values['dist']}. Other roundings "
            "have the same size."
        ],
    )


def _rows(models: Mapping[str, Mapping[str, float]], rounding: str) -> Iterator[list[str]]:
    for name, model in models.items():
        row = [f"{name}, built" if name == rounding else name, f"{model['perplexity']:.2f}"]
        if "kl_mean" in model:
            row += [f"{100 * model['same_top']:.1f} %"]
            row += [f"{model[name]:.3f}" for name in ("kl_mean", "kl_median", "kl_p99")]
        yield row + [""] * (6 - len(row))


def _roundings(
    checkpoint: Checkpoint, dist: Path, sources: ParameterSources, manifest: Manifest, scratch: Path
) -> dict[str, ShardReader]:
    """The shards of the roundings without text, made now, and those of the DIST, by rounding."""
    quantization = get_quantization(manifest.quantization)
    made = {"nearest": None, "search": searching(checkpoint, sources, quantization)}
    shards: dict[str, ShardReader] = {}
    for name, rounding_of in made.items():
        if name != manifest.rounding:
            (scratch / name).mkdir()
            logger.info(f"round with {name} to compare")
            convert(checkpoint, sources, quantization, scratch / name, rounding_of)
        shards[name] = ShardReader(dist if name == manifest.rounding else scratch / name)
    return shards | ({manifest.rounding: ShardReader(dist)} if manifest.rounding else {})


def _values(manifest: Manifest, dist: Path, measured: Measurement) -> dict[str, Any]:
    models = {"unrounded": measured.unrounded, **measured.rounded}
    text = asdict(measured.unrounded)
    return {
        "model": manifest.source,
        "dist": str(dist),
        "quantization": manifest.quantization,
        "rounding": manifest.rounding,
        "parameters": manifest.parameters,
        "weights_bytes": manifest.weights_bytes,
        "bits_per_parameter": manifest.bits_per_parameter,
        "evaluation": {
            "text": TEXT,
            **{name: text[name] for name in ("tokens", "windows", "window", "text_tokens", "text_sha256")},
            "part_windows": min(PART_WINDOWS, measured.unrounded.windows),
            "part_window": min(PART_WINDOW, measured.unrounded.window),
        },
        "models": {
            name: {"perplexity": result.perplexity} | (asdict(result.divergence) if result.divergence else {})
            for name, result in models.items()
        },
        "parts": [asdict(part) for part in measured.parts],
    }
