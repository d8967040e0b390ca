"""Compares what edge-transact wrote with the sha256 that it recorded then. What has no record can't be verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from edge_transact import cache
from edge_transact.artifacts.digests import ends_in_digest, is_sealed
from edge_transact.artifacts.dist_files import MANIFEST, TUNING
from edge_transact.artifacts.listing import files_beside, listed, problems
from edge_transact.artifacts.manifest import Manifest
from edge_transact.bundling import maven
from edge_transact.bundling.apk import examine_apk
from edge_transact.bundling.project import RECORD
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import MODEL_CARD, PROVENANCE_FILE
from edge_transact.doctor.check import Check, verdict
from edge_transact.errors import EdgeTransactError
from edge_transact.formatting import megabytes
from edge_transact.progress import working

AGAIN = "Copy it again, or make it again, unless you edited it."


def verify(*paths: str | Path, tokens: bool = False) -> list[Check]:
    """Compares outputs, byte by byte, with the sha256 that was recorded when they were written.

    ``all(check.ok for check in et.verify("small", "dist"))``

    Args:
        paths: Checkpoints, DISTs, projects, Maven repositories, GGUF files, APKs, the cache, or entries of it.
        tokens: Also compute the answer that a DIST's build recorded, with its library for this host.

    Returns:
        One check for each path, or for each file of it that is damaged or unknown.

    Raises:
        EdgeTransactError: A path is nothing of these, or can't be read at all.
    """
    checks = []
    for path in map(Path, paths):
        with working(f"verify {path.name}"):
            checks += (found := _checks(path))
            if tokens and all(check.ok for check in found):  # damaged libraries aren't loaded
                checks.append(_answer(path))
    return checks


def _checks(path: Path) -> list[Check]:
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(4)
        if head == b"GGUF":
            found = f"{megabytes(path.stat().st_size)} are as they were written"
            return _unsealed(path) or [Check(str(path), True, found)]
        if head == b"PK\3\4":
            return [replace(check, name=f"{path}, {check.name}") for check in examine_apk(path)]
    for name in (MANIFEST, RECORD, PROVENANCE_FILE):
        if (path / name).is_file():
            return _listed(path / name)
    if (path / cache.RECORD).is_file():
        return _entry(path)
    if (path / "config.json").is_file():
        found = f"has {len(Checkpoint.open(path).tensor_names())} tensors as in config.json, and no sha256 of them"
        return [Check(str(path), False, found, "Compare it with its source: another program wrote it.")]
    if (path / maven.GROUP).is_dir():
        files = [file.relative_to(path).with_suffix("").as_posix() for file in path.glob(f"{maven.GROUP}/**/*.sha256")]
        return _compared(path, path, files, maven.problems(path / maven.GROUP, path))
    if any((path / name).is_dir() for name in cache.KINDS):
        return _cache(path)
    raise EdgeTransactError(
        f"{path} is nothing that edge-transact writes" if path.exists() else f"{path} does not exist",
        fix="Name a checkpoint, a DIST, a project, a Maven folder, a .gguf or .apk file, or the cache.",
    )


def _listed(listing: Path) -> list[Check]:
    """Checks a directory. People may write a card, hidden files, and what they like into a project."""
    if unsealed := _unsealed(listing):
        return unsealed
    files = listed(listing)
    known = (*files, MODEL_CARD, TUNING)
    others = [name for name in files_beside(listing) if name not in known and not name.startswith(".")]
    strangers = [] if listing.name == RECORD else others
    wrong = problems(listing.parent, files) | dict.fromkeys(strangers, f"is not in {listing.name}")
    if (listing.parent / TUNING).is_file() and not is_sealed(listing.parent / TUNING):
        wrong[TUNING] = "was changed"
    return _compared(listing.parent, listing.parent, files, wrong)


def _unsealed(path: Path) -> list[Check]:
    """A check that fails unless a file has its own sha256."""
    sealed = is_sealed(path)
    found = "was changed" if sealed is False else "has no sha256 of itself: another program or version wrote it"
    return [] if sealed else [Check(str(path), False, found, AGAIN)]


def _compared(path: Path, directory: Path, names: Iterable[str], wrong: Mapping[str, str]) -> list[Check]:
    """A check for each file of `directory` that is wrong, or one for `path`."""
    size = sum((directory / name).stat().st_size for name in names if name not in wrong)
    found = f"{len(list(names))} files, {megabytes(size)}, are as they were written"
    return [Check(str(directory / name), False, what, AGAIN) for name, what in wrong.items()] or [
        Check(str(path), True, found)
    ]


def _cache(path: Path) -> list[Check]:
    entries = [each.parent for kind in cache.KINDS for each in sorted((path / kind).glob(f"[!.]*/{cache.RECORD}"))]
    wrong = [check for entry in entries for check in _entry(entry) if not check.ok]
    return wrong or [Check(str(path), True, f"{len(entries)} entries are as they were written")]


def _entry(path: Path) -> list[Check]:
    """An entry of the cache, or unfinished work, whose groups each end in their sha256."""
    record = cache.read_record(path)
    if record is None:
        return [Check(str(path / cache.RECORD), False, "can't be read", "Remove it: it is made again when needed.")]
    if record.files:
        files = {name: digest for name, (_, digest) in record.files.items()}
        content = next(path.glob("*/"), path)
        return _compared(path, content, files, problems(content, files))
    names = [
        file.relative_to(path).as_posix() for part in ("", "*-journal/") for file in path.glob(f"{part}*.safetensors")
    ]
    wrong = {name: "was changed" for name in names if not ends_in_digest(path / name)}
    return _compared(path, path, names, wrong)


def _answer(dist: Path) -> Check:
    """Computes the answer that a build recorded: torch's likeliest tokens after a prompt."""
    manifest = Manifest.read(dist)
    recorded = manifest.answer()
    if recorded is None or "host" not in manifest.libraries:
        return Check(f"{dist}, tokens", False, "has no answer for this host", "Build it again with --target host.")
    from edge_transact.runtime.host import HostModel

    (prompt, answer), model, parity = recorded, HostModel.load(dist), manifest.parity
    ours = [model.prefill(prompt).argmax(), *(model.decode(token).argmax() for token in answer[:-1])]
    agreed = sum(map(int.__eq__, map(int, ours), answer)) / len(answer)
    ok = agreed >= min(parity["token_agreement"], parity["required_agreement"])
    found = f"{agreed:.0%} of {len(answer)} tokens are torch's, and {parity['token_agreement']:.0%} were in the build"
    return verdict(f"{dist}, tokens", ok, found, "Build it again on this machine.")
