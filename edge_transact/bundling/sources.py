"""An app's models, read from DISTs: libraries, files, and which weights fit into the app."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_transact import costs
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.dist_files import CHAT_CONFIG, MANIFEST, TENSOR_CACHE, TOKENIZER_FILES
from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.records.tuned import Setting, read_tuning
from edge_transact.bundling.escaping import model_ids
from edge_transact.bundling.models import AppModel, ModelFile, files_digest
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.compiler.archive import check_library
from edge_transact.compiler.targets import get_target, library_name
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.formatting import megabytes
from edge_transact.mlc.chat_config import check_chat_config
from edge_transact.quantization import get_quantization
from edge_transact.weights import ShardReader

logger = logging.getLogger(__name__)

ABI = "arm64-v8a"
ABIS = {ABI: ("android", "android-cpu"), "x86_64": ("android-x86_64",)}
"""Folders of libraries to the targets for them, in the order that an app tries them: phones, and emulators."""

ENGINE = "libtvm4j_runtime_packed.so"
"""The library with TVM's runtime and MLC's engine. Models' libraries are linked into it, or need it by this name."""

PROGRAMS = "libedge_programs.so"
"""What the library module ``edge`` calls by JNI."""

PLAY_LIMIT_BYTES = 500_000_000
"""Google Play's limit of a compressed base module (Play Console Help, answer 9859372)."""

ASSETS_BYTES = 400_000_000
"""Limit of the weights in an app. The rest of `PLAY_LIMIT_BYTES` is for code: MLC's engine has 32 MB, stripped."""

PACK_BYTES = 1_500_000_000
"""Google Play's limit of an asset pack (the same answer)."""

PACKS_BYTES = 3_500_000_000
"""Limit of all asset packs of an app: with its base module, 4 GB are installed at once (the same answer)."""


@dataclass(frozen=True)
class Source:
    """A DIST with its manifest and its entry of ``models.json``."""

    dist: Path
    manifest: Manifest
    model: AppModel

    def archives(self, abi: str = ABI) -> dict[str, Path]:
        """The archives of the model's libraries, by the names that engines look up."""
        name, built = self.manifest.model_lib, self.manifest.libraries
        return {library_name(name, target): self.dist / built[target] for target in ABIS[abi] if target in built}


def read_sources(dists: Sequence[Path], weights: str = "auto") -> list[Source]:
    """The DISTs with their models, whose `weights` are as in `BundleOptions`.

    A `UsageError` if two models have the same library or `weights` can't be. Also the errors of `describe_model`.
    """
    ids = model_ids([Path(os.path.abspath(dist)).name for dist in dists])
    sources = [describe_model(dist, identifier) for dist, identifier in zip(dists, ids, strict=True)]
    owners: dict[str, Path] = {}
    for source in sources:
        for name in source.model.libraries.values():
            if name in owners:
                raise UsageError(
                    f"{owners[name]} and {source.dist} have the same library, {name}, which an app can hold only once",
                    fix="Name each DIST once. If models have the same widths, build one with another --context.",
                )
            owners[name] = source.dist
        name, built = source.manifest.model_lib, source.manifest.libraries
        for target in [target for targets in ABIS.values() for target in targets if target in built]:
            source.manifest.verify(source.dist, built[target])
            check_library(source.dist / built[target], get_target(target), library_name(name, target))
    placed = _place([source.model for source in sources], weights)
    return [replace(source, model=model) for source, model in zip(sources, placed, strict=True)]


def _place(models: Sequence[AppModel], weights: str) -> list[AppModel]:
    """The models with their ways to phones; ``auto`` takes the smallest first."""
    if weights.isascii() and re.fullmatch(r"https://[^\s?#/][^\s?#]*", weights):
        folder = weights.rstrip("/")
        return [model.model_copy(update={"weights": "download", "url": f"{folder}/{model.id}"}) for model in models]
    if weights not in ("auto", "assets", "pack", "fast-follow", "install"):
        raise UsageError(
            f"--weights {weights!r} is neither a known word nor the URL of a folder",
            fix="Take auto, assets, pack, fast-follow, install, or a URL like https://example.org/models.",
        )
    room = {"assets": ASSETS_BYTES, "pack": PACKS_BYTES}
    placed: dict[str, AppModel] = {}
    for model in sorted(models, key=lambda model: model.bytes):
        fits = (place for place, left in room.items() if model.bytes <= min(left, PACK_BYTES))
        place = next(fits, "install") if weights == "auto" else weights
        pack = None
        if place == "assets":
            room[place] -= model.bytes
        elif place != "install":
            room["pack"] -= model.bytes
            if model.bytes > PACK_BYTES or room["pack"] < 0:
                raise UsageError(
                    f"Google Play doesn't take {model.id}, {megabytes(model.bytes)}: {megabytes(PACK_BYTES)} fit into "
                    f"an asset pack, and {megabytes(PACKS_BYTES)} into all of an app",
                    fix="Have the app download it: --weights https://...",
                )
            pack = "model_" + re.sub("[^a-z0-9]", "_", model.id.lower())
            while pack in [other.pack for other in placed.values()]:
                pack += "_"
        placed[model.id] = model.model_copy(update={"weights": place, "pack": pack})
    return [placed[model.id] for model in models]


def describe_model(dist: Path, identifier: str) -> Source:
    """A DIST as an app's model `identifier`, whose weights aren't in the app.

    A `UsageError` if it has no library for phones, an `EdgeTransactError` if it lacks a file.
    """
    manifest = Manifest.read(dist, target="android")
    built = manifest.libraries
    libraries = {target: library_name(manifest.model_lib, target) for target in ABIS[ABI] if target in built}
    if not libraries:
        raise UsageError(
            f"{dist} has no library for phones, only for {', '.join(manifest.libraries) or 'nothing'}",
            fix="Build the model again with `--target android,android-cpu`.",
        )
    names = [name for name in manifest.files if "/" not in name and name not in (MANIFEST, PROVENANCE_FILE)]
    missing = next((dist / name for name in names if not (dist / name).is_file()), None)
    if missing:
        raise EdgeTransactError(f"{missing} is missing", fix="Copy the complete directory, or build it again.")
    # Before all is copied: what is small, and how large the shards should be.
    manifest.verify(dist, TENSOR_CACHE, *TOKENIZER_FILES)
    ShardReader(dist)
    check_chat_config(dist / CHAT_CONFIG)
    known = {**manifest.files, CHAT_CONFIG: sha256(dist / CHAT_CONFIG)}
    if known[CHAT_CONFIG] != manifest.files.get(CHAT_CONFIG):
        logger.warning(f"{dist / CHAT_CONFIG} was edited after the build")
    files = [ModelFile(path=name, bytes=(dist / name).stat().st_size, sha256=known[name]) for name in names]
    sizes = manifest.context_window_size, manifest.prefill_chunk_size
    memory = costs.memory_bytes(manifest.plan, get_quantization(manifest.quantization), *sizes)
    model = AppModel(
        id=identifier,
        name=Path(os.path.abspath(dist)).name,
        digest=files_digest(files),
        libraries=libraries,
        memory_bytes=dict.fromkeys(libraries, memory),
        tuned={
            soc: Setting(target=tuned.decode.target, cores=tuned.decode.cores)
            for soc, tuned in read_tuning(dist).items()
            if tuned.decode.target in libraries
        },
        context_window_size=manifest.context_window_size,
        prefill_chunk_size=manifest.prefill_chunk_size,
        weights="install",
        files=files,
    )
    return Source(dist, manifest, model)


def package_config(sources: Sequence[Source]) -> dict[str, object]:
    """``mlc-package-config.json``, with paths relative to the project, where ``mlc_llm package`` has to run.

    MLC links the libraries in ``model_lib_path_for_prepare_libs`` instead of compiling them. A model is listed with its
    first library; MLC links the others, too.
    """
    models = [
        {
            "model": source.model.directory.as_posix(),
            "model_id": source.model.id,
            "model_lib": next(iter(source.model.libraries.values())),
            "estimated_vram_bytes": max(source.model.memory_bytes.values()),
            # MLC requires it if `model` is a directory. Its packaging copies the weights, but not into the app.
            "bundle_weight": True,
        }
        for source in sources
    ]
    libraries = {name: f"libraries/{archive.name}" for source in sources for name, archive in source.archives().items()}
    return {"device": "android", "model_list": models, "model_lib_path_for_prepare_libs": libraries}
