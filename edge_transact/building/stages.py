"""The long stages of a build, each taken from the cache where nothing that it depends on has changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_transact import cache
from edge_transact.artifacts.digests import files_digest, text_digest
from edge_transact.building.options import CALIBRATED_ROUNDINGS
from edge_transact.cache.keys import code_of
from edge_transact.cache.resume import Start, journal_of
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import COPIED_FILES
from edge_transact.compiler.library import build_library
from edge_transact.compiler.targets import BuildTarget
from edge_transact.definition import Definition
from edge_transact.healing import run as training
from edge_transact.healing.options import HealOptions
from edge_transact.inputs.shares import names_of
from edge_transact.inputs.texts import files_of, read_text
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.layerwise.options import CALIBRATION_KEYS, CalibrationOptions
from edge_transact.layerwise.windows import read_calibration
from edge_transact.progress import working
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import TEXT_STEP, computation, for_model, ingredients, prune
from edge_transact.quantization import Quantization
from edge_transact.reading import read_json
from edge_transact.rounding.calibrated import round_best, round_model
from edge_transact.rounding.choice import rounding_named
from edge_transact.rounding.store import keep_rounded, resumable
from edge_transact.selftext.texts import SELF, self_identity
from edge_transact.weights.convert import convert


def compile_step(target: str) -> str:
    return f"compile for {target}"


def pruned(source: Checkpoint, model: str, options: PruneOptions, *, fresh: bool = False) -> Checkpoint:
    """The model pruned to a budget. `model` is the MODEL as it was given, which the pruned checkpoint records."""
    with working("look for it in the cache"):
        key = ingredients(source, for_model(options, source)) | {
            "model": model,
            "calibration": _text_digests(source, options),
        }

    def make(directory: Path) -> None:
        prune(model, directory, options, fresh=fresh, force=True)

    with working("keep the pruned checkpoint"):
        return Checkpoint.open(cache.made(cache.Recipe("pruned", f"prune {model}", key, make, name="pruned")))


def healed(source: Checkpoint, options: HealOptions, *, fresh: bool = False) -> Checkpoint:
    with working("look for it in the cache"):
        teacher, _ = training.teacher_of(source, options)
        key = training.ingredients(source, teacher, options, training.text_of(source, options))

    def make(directory: Path) -> None:
        training.heal(str(source.path), directory, options, fresh=fresh, force=True)

    with working("keep the healed checkpoint"):
        return Checkpoint.open(cache.made(cache.Recipe("healed", f"heal {source.path.name}", key, make, name="healed")))


_CALIBRATION = "calibration.json"
"""The file beside `rounded` codes and scales that describes the text."""


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded to 4 bits; ``best`` aims also at the predictions of `teacher`, the unpruned model."""

    name: str
    calibration: CalibrationOptions
    teacher: Checkpoint | None = None
    start: Start = Start.CONTINUE


@dataclass(frozen=True)
class Weights:
    """The weights of a DIST.

    Attributes:
        rounding: How they were rounded, as `Manifest.rounding` says it.
        calibration: The text that rounding read, as `Calibration.to_dict` describes it, and in ``searched`` the names
            of the matrices that it has too few tokens for, which `search` rounded.
        digests: The sha256 of files whose digest is known, by name.
    """

    rounding: str | None
    calibration: dict[str, Any] | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


def place_weights(
    checkpoint: Checkpoint, definition: Definition, quantization: Quantization, rounding: Rounding, directory: Path
) -> Weights:
    """Writes the quantized parameter shards and their index into `directory`."""
    sources = definition.parameter_sources()
    codes: Path | None = None
    if quantization.bits and rounding.name in CALIBRATED_ROUNDINGS:
        codes = rounded(checkpoint, quantization, rounding)
    name, rounding_of = rounding_named(rounding.name, checkpoint, sources, quantization, codes)
    ingredients = {
        "checkpoint": checkpoint.digest(),
        "parameters": {name: list(names) for name, (names, _) in sources.items()},
        "quantization": quantization.name,
        "rounding": codes.parent.name if codes else name,
        "code": code_of(convert, rounding_named),
        **_versions("torch", "transformers", "apache-tvm"),
    }

    def make(content: Path) -> None:
        if name == "search" and rounding_of:
            # The only one of those without text that takes longer than reading and writing.
            with journal_of(recipe.what, ingredients, rounding.start) as journal:
                kept = resumable(checkpoint, sources, rounding_of, journal)
                convert(checkpoint, sources, quantization, content, kept)
        else:
            convert(checkpoint, sources, quantization, content, rounding_of)

    recipe = cache.Recipe("weights", f"quantize to {quantization.name}", ingredients, make)
    digests = cache.place(recipe, directory)
    calibration = read_json(codes / _CALIBRATION) if codes else None
    return Weights(name, calibration, digests)


def rounded(checkpoint: Checkpoint, quantization: Quantization, rounding: Rounding) -> Path:
    """The codes and scales of a model's matrices, fitted to calibration text: a directory for `Rounded`.

    What an interrupted run has rounded is used again, unless `rounding` starts over.
    """
    calibration = rounding.calibration
    choices = {name: getattr(calibration, name) for name in CALIBRATION_KEYS}
    key = {
        "checkpoint": checkpoint.digest(*COPIED_FILES),
        # Layouts don't matter: q4f16_0 and q4f16_1 share what is chosen.
        "dtype": quantization.model_dtype,
        "rounding": rounding.name,
        "teacher": rounding.teacher and rounding.teacher.digest(),
        "options": choices,
        "calibration": _text_digests(checkpoint, calibration),
        "computation": computation(checkpoint),
        "code": code_of(round_best, round_model, read_calibration),
        **_versions("torch", "transformers", "apache-tvm"),
    }

    def make(content: Path) -> None:
        with working(TEXT_STEP):
            text = read_calibration(checkpoint, calibration)
        with journal_of(recipe.what, key, rounding.start) as journal:
            if rounding.name == "best":
                searched = round_best(checkpoint, rounding.teacher, text.windows, quantization, journal)
            else:
                searched = round_model(LayerwiseModel(checkpoint, text.windows), quantization, journal)
            keep_rounded(journal, checkpoint, content)
        described = text.to_dict() | {"searched": searched}
        (content / _CALIBRATION).write_text(json.dumps(described, indent=2) + "\n")

    recipe = cache.Recipe("rounded", f"choose codes and scales with {rounding.name}", key, make)
    with working("keep codes and scales"):
        return cache.made(recipe)


def _text_digests(checkpoint: Checkpoint, choices: CalibrationOptions) -> list[str]:
    # The text is part of the key, so it is read even if the cache has what follows from it.
    return [
        self_identity(checkpoint)
        if text == SELF
        else text_digest(read_text(text, "calibration"))
        if text.startswith("demo:")
        else files_digest(files_of(text, "calibration"))
        for text in names_of(choices.calibration)
    ]


def place_library(
    definition: Definition,
    quantization: Quantization,
    target: BuildTarget,
    model_lib: str,
    path: Path,
    functions: Collection[str] = (),
) -> dict[str, str]:
    """Writes the library for a target to `path`. Returns its sha256 by file name, where known.

    `model_lib` ends in a digest of the definition's text, and the library has all its `functions` by default.
    """
    ingredients = {
        **({"functions": functions} if functions else {}),
        "model_lib": model_lib,
        "config": definition.config.asdict(),
        "quantization": quantization.name,
        "target": asdict(target) | {"tvm": str(target.tvm_target())},
        "code": code_of(build_library),
        **_versions("apache-tvm"),
    }

    def make(content: Path) -> None:
        with working(compile_step(target.name)):
            build_library(definition, quantization, target, model_lib, content / path.name, functions)

    return cache.place(
        cache.Recipe("libraries", f"compile {model_lib} for {target.name}", ingredients, make), path.parent
    )


def _versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}
