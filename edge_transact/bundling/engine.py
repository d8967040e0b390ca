"""The library ``edge``: its Kotlin and Java with MLC's engine, built once and without a model.

Gradle makes the AAR, from the project that `bundle` writes: Android's plugin compiles both languages, strips the native
libraries and knows what an AAR of its version holds, and whoever has the engine's NDK can have Gradle. Its checks, its
name in a repository and its sources are ours, because ``maven-publish`` wants a version before there is an AAR: it ends
in a digest of the content, as models' versions do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from pathlib import Path
from zipfile import ZipFile

from edge_transact import cache
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.outputs import scratch_directory
from edge_transact.bundling import maven
from edge_transact.bundling.aar import require_repository, write_readme
from edge_transact.bundling.maven import Module, add, digest
from edge_transact.bundling.options import BundleOptions
from edge_transact.bundling.project import PACKAGE_CONFIG, render_templates
from edge_transact.bundling.sources import ABIS, ENGINE, PROGRAMS, package_config
from edge_transact.bundling.steps import run_steps
from edge_transact.errors import EdgeTransactError
from edge_transact.mlc.checkout import find
from edge_transact.version import __version__

LICENCE = "Apache-2.0"

AAR = Path("edge/build/outputs/aar/edge-release.aar")

PARTS = (
    "AndroidManifest.xml", "classes.jar", "proguard.txt",
    *(f"jni/{abi}/{name}" for abi in ABIS for name in (ENGINE, PROGRAMS)),
    "edgetransact/edge/android/MlcEngine.class", "org/apache/tvm/Function.class",
)  # fmt: skip
"""What Gradle's AAR has at least: for phones and emulators, our classes and TVM's."""


def bundle_engine(output: Path) -> str:
    """Adds the library to a folder of a Maven repository and returns its coordinates.

    It is built in the cache, where an interrupted call goes on, and a second one takes seconds. An `EdgeTransactError`
    if a step failed, or `output` is another output.
    """
    require_repository(output)
    project = cache.entry_of("engines", {"mlc": os.path.realpath(find().where)})
    with cache.lock(project, "build the engine"), scratch_directory() as scratch:
        for old in ("app", "edge/src"):
            shutil.rmtree(project / old, ignore_errors=True)
        render_templates(project, [], **BundleOptions().model_dump())
        (project / PACKAGE_CONFIG).write_text(json.dumps(package_config([]), indent=2) + "\n")
        aar = run_steps(project, [":edge:assembleRelease"], AAR)
        with maven.locked(output):
            module = _module(output, project, aar, scratch)
            add(output, [module])
            write_readme(output)
    return module.coordinates


def _module(output: Path, project: Path, aar: Path, scratch: Path) -> Module:
    with ZipFile(aar) as archive:
        archive.extractall(scratch)
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    entries: dict[str, tuple[Path, str] | bytes] = {
        path.relative_to(scratch).as_posix(): (path, sha256(path)) for path in files
    }
    classes = {name for path in files if path.suffix == ".jar" for name in ZipFile(path).namelist()}
    if missing := [name for name in PARTS if name not in entries and name not in classes]:
        raise EdgeTransactError(f"{aar} has no {', '.join(missing)}", fix="Report this as a bug, with Gradle's log.")
    roots = [project / "edge/src/main" / language for language in ("java", "kotlin")]
    sources = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for root in roots
        for path in root.rglob("*.*")
        if path.is_file()
    }
    needs, checkout = _needs(project), find()
    entries |= {f"META-INF/{name}": content for name, content in _terms(checkout.where).items()}
    version = maven.next_version(output, maven.GROUP, "edge", digest(entries, needs))
    origin = "https://github.com/mlc-ai/mlc-llm", checkout.revision
    name = "edge-transact's library with MLC-LLM's engine"
    return Module(maven.GROUP, "edge", version, entries, needs, sources, name, LICENCE, origin)


def _terms(checkout: Path) -> dict[str, bytes]:
    """The licence that all parts have in common, and who asks to be named: MLC-LLM and TVM do so in their files."""
    places = [checkout, checkout / "3rdparty/tvm"]
    notices = [path.read_bytes() for place in places if (path := place / "NOTICE").is_file()]
    ours = f"edge-transact {__version__}, with MLC-LLM, Apache TVM and tokenizers-cpp ({LICENCE}).\n".encode()
    texts = {path.name: path.read_bytes() for path in [checkout / "LICENSE"] if path.is_file()}
    return {"NOTICE": b"\n".join([ours, *notices]), **texts}


def _needs(project: Path) -> list[str]:
    """What apps get with the library: all from other repositories that its ``build.gradle`` names."""
    catalog = tomllib.loads((project / "gradle/libs.versions.toml").read_text())
    build = (project / "edge/build.gradle").read_text()
    names = re.findall(r"^ *(?:api|implementation)\(libs\.([\w.]+)\)", build, re.MULTILINE)
    named = [catalog["libraries"][name.replace(".", "-")] for name in names]
    return [f"{library['module']}:{catalog['versions'][library['version']['ref']]}" for library in named]
