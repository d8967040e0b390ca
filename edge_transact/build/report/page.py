"""A rounding's report: ``report.json``, figures as PNGs, and one HTML page that holds both."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_transact.artifacts.journal import Journal
from edge_transact.artifacts.manifest import Manifest
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.pages import script_json, write_page
from edge_transact.build.report import figures
from edge_transact.build.report.measure import PART_WINDOW, PART_WINDOWS, Dequantized, Measurement, measure
from edge_transact.checkpoint import Checkpoint
from edge_transact.evaluate.perplexity import PerplexityResult
from edge_transact.evaluate.report_text import TEXT
from edge_transact.progress import working
from edge_transact.quantization import get_quantization
from edge_transact.rounding.search import searching
from edge_transact.runtime.text import TextCodec
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
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Measures what a DIST's shards hold, next to what other roundings make of the same checkpoint.

    Args:
        checkpoint: What was rounded.
        dist: A 4-bit DIST of it.
        sources: The definition's parameters.
        directory: Where to write ``report.json``, the figures as PNGs, and ``index.html``, which holds all of them; it
            is complete or absent.
        text: The result of `prepare_report`.
        force: Replace a directory that exists.

    Returns:
        The content of ``report.json``.

    Raises:
        EdgeTransactError: The model computes NaN or infinity, or `directory` exists.
    """
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
        (fresh / "report.json").write_text(json.dumps(values, indent=1) + "\n")
        with working(FIGURES_STEP):
            drawn = {
                "kl.png": figures.kl_by_part(measured.parts),
                "errors.png": figures.errors_by_matrix(measured.parts),
            }
            write_page(fresh, "build_report.html.j2", drawn, report=values, data=script_json(values))
    return values


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
        "models": {name: _quality(result) for name, result in models.items()},
        "parts": [asdict(part) for part in measured.parts],
    }


def _quality(result: PerplexityResult) -> Mapping[str, float]:
    return {"perplexity": result.perplexity} | (asdict(result.divergence) if result.divergence else {})
