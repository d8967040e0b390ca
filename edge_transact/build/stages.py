"""The long stages of a build, each taken from the cache where nothing that it depends on has changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from edge_transact.artifacts import cache
from edge_transact.artifacts.digests import text_digest
from edge_transact.artifacts.unfinished import Start, going_on
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import COPIED_FILES
from edge_transact.compiler.library import build_library
from edge_transact.compiler.targets import BuildTarget
from edge_transact.definition import Definition
from edge_transact.inputs import read_documents
from edge_transact.progress import working
from edge_transact.prune.calibrate.layerwise import LayerwiseModel
from edge_transact.prune.calibrate.windows import calibration_of, texts_of
from edge_transact.prune.options import CALIBRATION_KEYS, PruneChoices, PruneOptions
from edge_transact.prune.run import computation, digest_of, ingredients, prune
from edge_transact.quantization import Quantization
from edge_transact.rounding.best import round_best
from edge_transact.rounding.calibrated import round_model
from edge_transact.rounding.kept import keeping
from edge_transact.rounding.search import searched
from edge_transact.rounding.store import Rounded, keep_rounded
from edge_transact.weights import w4
from edge_transact.weights.convert import ParameterSources, RoundingOf, convert


def pruned(source: Checkpoint, model: str, options: PruneOptions, *, fresh: bool = False) -> Checkpoint:
    """The model pruned to a budget.

    Args:
        source: The checkpoint of `model`.
        model: The MODEL as it was given, which the pruned checkpoint records.
        options: How small, and how what stays is chosen.
        fresh: Start over where an interrupted run has begun.
    """
    key = ingredients(source, options) | {"model": model, "calibration": _text_digests(options)}

    def make(directory: Path) -> None:
        prune(model, directory, options, fresh=fresh, force=True)

    return Checkpoint.open(cache.made(cache.Recipe("pruned", f"prune {model}", key, make, name="pruned")))


_ROUNDING = ("rounding", "gguf", "compiler/lowering.py", "compiler/vector.py")
"""The code that rounds, and that compiles its kernel."""


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded to 4 bits.

    Attributes:
        name: One of `ROUNDINGS`.
        calibration: Which text those of `CALIBRATED_ROUNDINGS` read.
        teacher: The model whose predictions ``best`` aims at; `None` for the model itself.
        start: What to do with what an interrupted run has rounded.
    """

    name: str
    calibration: PruneChoices
    teacher: Checkpoint | None = None
    start: Start = Start.GO_ON


def place_weights(
    checkpoint: Checkpoint, definition: Definition, quantization: Quantization, rounding: Rounding, directory: Path
) -> dict[str, str]:
    """Writes the quantized parameter shards and their index into `directory`. Returns their sha256, by file name.

    Args:
        checkpoint: The checkpoint.
        definition: Its definition, which names the parameters.
        quantization: The format of the weights.
        rounding: How they are rounded to it.
        directory: An existing directory.
    """
    sources = definition.parameter_sources()
    rounding_of, rounded_from = _rounding_of(checkpoint, sources, quantization, rounding)
    ingredients = {
        "checkpoint": digest_of(checkpoint),
        "parameters": {name: list(names) for name, (names, _) in sources.items()},
        "quantization": quantization.name,
        "rounding": rounded_from,
        "code": cache.code(
            "weights", *_ROUNDING, "checkpoint", "templates/edge_llama_model.py.j2", "quantization.py", "costs.py"
        ),
        **_versions("apache-tvm"),
    }

    def make(content: Path) -> None:
        convert(checkpoint, sources, quantization, content, rounding_of)

    return cache.place(cache.Recipe("weights", f"quantize to {quantization.name}", ingredients, make), directory)


def _rounding_of(
    checkpoint: Checkpoint, sources: ParameterSources, quantization: Quantization, rounding: Rounding
) -> tuple[RoundingOf | None, str | None]:
    """How each parameter is rounded, and what that depends on besides the checkpoint."""
    if quantization.bits is None:
        return None, None
    if rounding.name in ("nearest", "search"):
        nearest = partial(w4.nearest, dtype=getattr(torch, quantization.model_dtype))
        others = (
            partial(searched, checkpoint, sources, quantization) if rounding.name == "search" else lambda _: nearest
        )
        return keeping(checkpoint, sources, quantization, others), rounding.name
    directory = rounded(checkpoint, quantization, rounding)
    return Rounded(directory, sources), directory.parent.name


def rounded(checkpoint: Checkpoint, quantization: Quantization, rounding: Rounding) -> Path:
    """The codes and scales of a model's matrices, fitted to calibration text: a directory for `Rounded`.

    What an interrupted run has rounded is used again, unless `rounding` starts over.
    """
    calibration = rounding.calibration
    text = {name: getattr(calibration, name) for name in CALIBRATION_KEYS}
    key = {
        "checkpoint": digest_of(checkpoint, *COPIED_FILES),
        # Layouts don't matter: q4f16_0 and q4f16_1 share what is chosen.
        "dtype": quantization.model_dtype,
        "rounding": rounding.name,
        "teacher": rounding.teacher and digest_of(rounding.teacher),
        "options": text,
        "calibration": _text_digests(calibration),
        "computation": computation(checkpoint),
        "code": cache.code(*_ROUNDING, "prune", "checkpoint", "weights/w4.py", "quantization.py", "widths.py"),
        **_versions("torch", "transformers", "apache-tvm"),
    }

    def make(content: Path) -> None:
        windows = calibration_of(checkpoint, calibration).windows
        with going_on(recipe.what, key, rounding.start) as journal:
            if rounding.name == "best":
                round_best(checkpoint, rounding.teacher or checkpoint, windows, quantization, journal)
            else:
                round_model(LayerwiseModel(checkpoint, windows), quantization, journal)
            keep_rounded(journal, checkpoint, content)

    recipe = cache.Recipe("rounded", f"choose codes and scales with {rounding.name}", key, make)
    return cache.made(recipe)


def _text_digests(choices: PruneChoices) -> list[str]:
    # The text is part of the key, so it is read even if the cache has what follows from it.
    return [text_digest("\0".join(read_documents(text, "calibration"))) for text in texts_of(choices.calibration)]


def place_library(
    definition: Definition,
    quantization: Quantization,
    target: BuildTarget,
    model_lib: str,
    path: Path,
    dump: Path | None = None,
) -> dict[str, str]:
    """Writes the library for a target to `path`. Returns its sha256 by file name, where known.

    `model_lib` ends in a digest of the definition's text. With `dump`, the library is compiled even if it is in the
    cache, and the compiler's intermediate forms are written to ``dump/TARGET/``.
    """
    ingredients = {
        "model_lib": model_lib,
        "config": definition.config.asdict(),
        "quantization": quantization.name,
        "target": asdict(target) | {"tvm": str(target.tvm_target())},
        "code": cache.code("compiler", "definition", "quantization.py", "costs.py", "artifacts/kernels.py"),
        **_versions("apache-tvm"),
    }

    def make(content: Path) -> None:
        with working(f"for {target.name}: kernels, then machine code"):
            build_library(definition, quantization, target, model_lib, content / path.name, dump and dump / target.name)

    if dump is not None:
        make(path.parent)
        return {}
    return cache.place(
        cache.Recipe("libraries", f"compile {model_lib} for {target.name}", ingredients, make), path.parent
    )


def _versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}
