"""Models as libraries for Android (AARs), which an app takes as dependencies."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.dist_files import LICENCE_FILES, MANIFEST
from edge_transact.artifacts.manifest import Manifest
from edge_transact.artifacts.outputs import scratch_directory
from edge_transact.artifacts.templates import environment
from edge_transact.benchmarking.link import require_linker
from edge_transact.bundling import maven
from edge_transact.bundling.maven import Module, add, digest, newest
from edge_transact.bundling.models import AppModel, AppModels
from edge_transact.bundling.project import RECORD
from edge_transact.bundling.sources import ABI, ABIS, ASSETS_BYTES, ENGINE, Source, read_sources
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.compiler.archive import link_android
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.formatting import megabytes
from edge_transact.progress import working
from edge_transact.version import __version__

logger = logging.getLogger(__name__)

GROUP = f"{maven.GROUP}.models"
MIN_SDK = 26

EMPTY_JAR = b"PK\5\6" + bytes(18)
"""A ZIP file without entries: a model has no classes."""


@dataclass(frozen=True)
class Repository:
    """A folder of a Maven repository, with the models that `bundle_modules` put there and their coordinates."""

    directory: Path
    models: Sequence[AppModel]
    coordinates: Sequence[str]

    def to_dict(self) -> dict[str, object]:
        models = [
            {**model.model_dump(exclude={"files"}, exclude_none=True), "bytes": model.bytes, "coordinates": name}
            for model, name in zip(self.models, self.coordinates, strict=True)
        ]
        return {"project": str(self.directory), "package_config": None, "models": models}


def bundle_modules(
    dists: Sequence[Path], output: Path, weights: str = "auto", without_engine: bool = False
) -> Repository:
    """Adds a module for each DIST's model to a folder of a Maven repository, all or none.

    They need the newest library ``edge`` that `bundle_engine` put there. A version ends in a digest of the content,
    because Gradle keeps released versions. Weights above `ASSETS_BYTES` stay out of it, unless `weights` is ``assets``:
    `install` puts them on a phone, or the app downloads them if `weights` is a URL. Raises the errors of
    `read_sources`, and an `EdgeTransactError` if there is no linker, `output` is another output, or there is no engine
    in it and not `without_engine`.
    """
    require_repository(output)
    if weights in ("pack", "fast-follow"):
        raise UsageError(f"--aar has no --weights {weights}", fix="An asset pack belongs to an app: leave out --aar.")
    sources = [_alone(source) if weights == "auto" else source for source in read_sources(dists, weights)]
    with maven.locked(output), scratch_directory() as scratch, working("write the models' modules"):
        needs = newest(output, maven.GROUP, "edge")
        if not needs and not without_engine:
            raise EdgeTransactError(
                f"{output} has no engine, and no app compiles with its models alone",
                fix=f"Build it: edge-transact bundle --engine -o {output}; or --without-engine, if the app has it.",
            )
        engines = [name for each in needs for name in maven.entries(output, each)]
        # A device runs an app for the first ABI of its own that any of the app's parts has.
        abis = [abi for abi in ABIS if abi == ABI or f"jni/{abi}/{ENGINE}" in engines]
        modules = [_module(output, source, scratch, needs, abis) for source in sources]
        add(output, modules)
        write_readme(output)
    return Repository(output, [source.model for source in sources], [module.coordinates for module in modules])


def require_repository(output: Path) -> None:
    """Raises an `EdgeTransactError` if there is another output of this package."""
    if other := next((name for name in (RECORD, MANIFEST, PROVENANCE_FILE) if (output / name).exists()), None):
        raise EdgeTransactError(f"{output} has a {other}: it is no Maven repository", fix="Choose another output.")


def write_readme(repository: Path) -> None:
    """How an app takes the newest of each module, beside these: the folder's own README may be another's."""
    home = repository / maven.GROUP
    models = [each for path in sorted(home.glob("models/*")) for each in newest(repository, GROUP, path.name)]
    engine = newest(repository, maven.GROUP, "edge")
    fresh = home / ".README.md"
    fresh.write_text(environment().get_template("aar/README.md.j2").render(models=models, engine=engine))
    fresh.replace(home / "README.md")


def _alone(source: Source) -> Source:
    """The model with weights as they are in a module of its own, whatever other models there are."""
    weights = "assets" if source.model.bytes <= ASSETS_BYTES else "install"
    return replace(source, model=source.model.model_copy(update={"weights": weights, "pack": None}))


def _module(output: Path, source: Source, scratch: Path, needs: Sequence[str], abis: Sequence[str]) -> Module:
    model = source.model
    has_cpu = "android-cpu" in model.libraries  # by whose name apps ask for the library of emulators, too
    for abi in ABIS:
        if source.archives(abi) and not (abi == ABI or (has_cpu and abi in abis)):
            lacks = f"an engine for {abi} in this repository" if has_cpu else "android-cpu beside it"
            logger.warning(f"{model.id}: left out the library for {abi}, which takes {lacks}")
            abis = [ABI]
    entries: dict[str, tuple[Path, str] | bytes] = {
        "AndroidManifest.xml": manifest(f"{GROUP}.{_package(model.id)}", downloads=model.url is not None),
        "classes.jar": EMPTY_JAR,
        "R.txt": b"",
        "META-INF/NOTICE": _notice(source.manifest).encode(),
        f"assets/edge/{model.id}/models.json": AppModels(models=[model]).text().encode(),
    }
    for abi in abis:
        for name, archive in source.archives(abi).items():
            library = scratch / abi / f"lib{name}.so"
            library.parent.mkdir(exist_ok=True)
            link_android(archive, library, require_linker("aarch64" if abi == ABI else abi), ENGINE)
            entries[f"jni/{abi}/{library.name}"] = (library, sha256(library))
    for file in model.files:
        if file.path in LICENCE_FILES:
            entries[f"META-INF/{model.id}/{file.path}"] = (source.dist / file.path, file.sha256)
    if model.weights == "assets":
        for file in model.files:
            entries[f"assets/edge/{model.id}/{file.path}"] = (source.dist / file.path, file.sha256)
    logger.info(f"{model.id}: {megabytes(model.bytes)}, weights in {model.weights}")
    version = maven.next_version(output, GROUP, model.id, digest(entries, needs))
    hub, _, revision = source.manifest.source.partition("@")
    origin = (f"https://huggingface.co/{hub}", revision or "main") if re.fullmatch(r"[\w.-]+/[\w.-]+", hub) else None
    licence = source.manifest.license
    return Module(GROUP, model.id, version, entries, needs, name=model.name, licence=licence, origin=origin)


def _notice(manifest: Manifest) -> str:
    licence = f"under {manifest.license}" if manifest.license else "under the terms of its publisher"
    return (
        f"Weights of {manifest.source}, {licence}; edge-transact {__version__} made {manifest.quantization} of them.\n"
        "Its libraries call Apache TVM's runtime (Apache-2.0).\n"
    )


def _package(identifier: str) -> str:
    """A model's id as a part of a Java package's name that no other id has."""
    return "m_" + "".join(each if each.isascii() and each.isalnum() else f"_{ord(each):x}_" for each in identifier)


def manifest(namespace: str, *, downloads: bool = False) -> bytes:
    """The manifest of a library without activities."""
    network = '    <uses-permission android:name="android.permission.INTERNET" />\n' if downloads else ""
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="{namespace}">\n'
        f'    <uses-sdk android:minSdkVersion="{MIN_SDK}" />\n{network}'
        "</manifest>\n"
    ).encode()
