"""Modules in a Maven repository: a folder that Gradle takes libraries from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from edge_transact import cache
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.outputs import new_directory
from edge_transact.errors import EdgeTransactError
from edge_transact.reading import opened
from edge_transact.version import __version__

GROUP = "edgetransact"
"""The folder of a repository that all modules are in."""

CHECKSUMS = ("md5", "sha1", "sha256")
"""What Maven and Gradle read beside each file."""

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a ZIP file can tell


@dataclass(frozen=True)
class Module:
    """A library for Android with its name in a repository.

    Attributes:
        name: What it is, for people.
        licence: The name of its licence, as its publisher has it.
        origin: The address of what it was made from, and the revision there, as far as they are known.
        entries: The content of its AAR, by path in it: a file with its sha256, or bytes.
        needs: Modules that it needs, as ``group:artifact:version``.
        sources: The files of its sources, by their places in packages.
    """

    group: str
    artifact: str
    version: str
    entries: Mapping[str, tuple[Path, str] | bytes]
    needs: Sequence[str] = ()
    sources: Mapping[str, bytes] = field(default_factory=dict)
    name: str = ""
    licence: str | None = None
    origin: tuple[str, str] | None = None

    @property
    def coordinates(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def directory(self) -> Path:
        return Path(*self.group.split("."), self.artifact, self.version)


def digest(entries: Mapping[str, tuple[Path, str] | bytes], needs: Sequence[str]) -> str:
    """The sha256 over the paths and contents of an AAR and what it needs, in hex."""
    known = {
        name: hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content[1]
        for name, content in entries.items()
    }
    return hashlib.sha256(json.dumps([known, *needs], sort_keys=True).encode()).hexdigest()


def locked(repository: Path) -> AbstractContextManager[None]:
    """Lets one process at a time choose versions in a repository and `add` modules; the others wait."""
    entry = cache.entry_of("repositories", {"path": os.path.realpath(repository)})
    return cache.lock(entry, f"write to {repository}")


def next_version(repository: Path, group: str, artifact: str, digest: str) -> str:
    """The version of a module with this content: the newest one's if that has it, otherwise a higher one.

    Gradle compares numbers between ``-`` as such. Where two libraries need different versions, it takes the higher one,
    which is the one that was added later.
    """
    versions = _versions(repository, group, artifact)
    if versions and re.fullmatch(rf"{re.escape(__version__)}-\d+-{digest[:8]}", versions[-1]):
        return versions[-1]
    return f"{__version__}-{len(versions) + 1}-{digest[:8]}"


def newest(repository: Path, group: str, artifact: str) -> list[str]:
    """The coordinates of a module's newest version in a repository; none if it isn't there."""
    return [f"{group}:{artifact}:{version}" for version in _versions(repository, group, artifact)[-1:]]


def entries(repository: Path, coordinates: str) -> list[str]:
    """The names in the AAR of a module that is in a repository."""
    group, artifact, version = coordinates.split(":")
    path = repository.joinpath(*group.split("."), artifact, version, f"{artifact}-{version}.aar")
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        fix = f"Remove {path.parent} and its version in maven-metadata.xml, or make the module again."
        raise EdgeTransactError(f"{path} can't be read: {error}", fix=fix) from error


def _metadata(repository: Path, group: str, artifact: str) -> Path:
    return repository.joinpath(*group.split("."), artifact, "maven-metadata.xml")


def _versions(repository: Path, group: str, artifact: str) -> list[str]:
    path = _metadata(repository, group, artifact)
    fix = "Remove it: it is written again."
    try:
        with opened(path) as file:
            found = [each.text or "" for each in ElementTree.parse(file).iterfind("versioning/versions/version")]
    except FileNotFoundError:
        return []
    except ElementTree.ParseError as error:
        raise EdgeTransactError(f"{path} can't be read: {error}", fix=fix) from error
    if wrong := [each for each in found if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", each)]:
        raise EdgeTransactError(f"{path} has a version {wrong[0]!r}, which is no folder's name", fix=fix)
    return found


def add(repository: Path, modules: Sequence[Module]) -> None:
    """Adds modules to a repository, all or none; an `EdgeTransactError` if a file or a module there was changed.

    ``maven-metadata.xml`` lists a module after all of them are there: a call that was killed before may leave whole
    modules that nothing lists, and the same call goes on. Others write meanwhile unless the repository is `locked`.
    """
    with ExitStack() as fresh:
        for module in modules:
            place = repository / module.directory
            if not place.exists():
                _write(module, fresh.enter_context(new_directory(place)))
                continue
            for name, what in problems(place, place).items():
                raise EdgeTransactError(f"{place / name} {what}", fix=f"Remove {place}: it is written again.")
    for module in modules:
        _write_versions(repository, module)


def _write(module: Module, directory: Path) -> None:
    stem = f"{module.artifact}-{module.version}"
    pack(directory / f"{stem}.aar", module.entries)
    if module.sources:
        pack(directory / f"{stem}-sources.jar", module.sources)
    (directory / f"{stem}.pom").write_bytes(_pom(module))
    for path in sorted(directory.iterdir()):
        _write_checksums(path)


def pack(path: Path, entries: Mapping[str, tuple[Path, str] | bytes]) -> None:
    """Writes an AAR, which depends on its content alone, uncompressed as most of it is weights."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in sorted(entries.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            if isinstance(content, bytes):
                archive.writestr(entry, content)
                continue
            source, expected = content
            entry.file_size = source.stat().st_size
            with archive.open(entry, "w") as target, source.open("rb") as file:
                found = hashlib.sha256()
                while block := file.read(1 << 20):
                    found.update(block)
                    target.write(block)
            if found.hexdigest() != expected:
                raise EdgeTransactError(f"{source} changed after the build", fix="Copy it again, or build it again.")


def _pom(module: Module) -> bytes:
    project = ElementTree.Element("project", xmlns="http://maven.apache.org/POM/4.0.0")
    own = {"groupId": module.group, "artifactId": module.artifact, "version": module.version}
    for name, text in {"modelVersion": "4.0.0", **own, "packaging": "aar"}.items():
        ElementTree.SubElement(project, name).text = text
    ElementTree.SubElement(project, "name").text = module.name
    if module.licence:
        licence = ElementTree.SubElement(ElementTree.SubElement(project, "licenses"), "license")
        ElementTree.SubElement(licence, "name").text = module.licence
    if module.origin:
        scm = ElementTree.SubElement(project, "scm")
        for name, text in zip(("url", "tag"), module.origin, strict=True):
            ElementTree.SubElement(scm, name).text = text
    dependencies = ElementTree.SubElement(project, "dependencies")
    for coordinates in module.needs:
        dependency = ElementTree.SubElement(dependencies, "dependency")
        parts = ("groupId", "artifactId", "version", "scope")
        for name, text in zip(parts, [*coordinates.split(":"), "compile"], strict=True):
            ElementTree.SubElement(dependency, name).text = text
    return _xml(project)


def _write_versions(repository: Path, module: Module) -> None:
    """Adds the module's version to those that ``maven-metadata.xml`` lists."""
    path = _metadata(repository, module.group, module.artifact)
    there = _versions(repository, module.group, module.artifact)
    metadata = ElementTree.Element("metadata")
    ElementTree.SubElement(metadata, "groupId").text = module.group
    ElementTree.SubElement(metadata, "artifactId").text = module.artifact
    versioning = ElementTree.SubElement(metadata, "versioning")
    for name in ("latest", "release"):
        ElementTree.SubElement(versioning, name).text = module.version
    versions = ElementTree.SubElement(versioning, "versions")
    for version in [*(each for each in there if each != module.version), module.version]:
        ElementTree.SubElement(versions, "version").text = version
    fresh = path.with_name(f".{path.name}")
    fresh.write_bytes(_xml(metadata))
    os.replace(fresh, path)
    _write_checksums(path)


def _xml(element: ElementTree.Element) -> bytes:
    ElementTree.indent(element)
    return bytes(ElementTree.tostring(element, encoding="UTF-8", xml_declaration=True)) + b"\n"


def _write_checksums(path: Path) -> None:
    for kind in CHECKSUMS:
        with path.open("rb") as file:
            value = hashlib.file_digest(file, kind).hexdigest()
        path.with_name(f"{path.name}.{kind}").write_text(value)


def problems(directory: Path, root: Path) -> dict[str, str]:
    """What is wrong with the files of a repository below a directory, by path relative to `root`."""
    found = {}
    for listed in sorted(directory.rglob("*.sha256")):
        path = listed.with_suffix("")
        if not path.is_file():
            found[path.relative_to(root).as_posix()] = "is missing"
        elif sha256(path) != listed.read_text().strip():
            found[path.relative_to(root).as_posix()] = "was changed"
    return found
