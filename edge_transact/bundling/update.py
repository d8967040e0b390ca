"""Changes the models of a project that people have built their app on, and no file of theirs.

What changes is written to a directory in the project first, complete or not at all, and then moved to its places, the
record last: what a killed call left there is moved by the next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from edge_transact import cache
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.listing import files_beside, listed, write_sealed
from edge_transact.artifacts.outputs import MODELS, new_directory, scratch_directory
from edge_transact.bundling.options import BundleOptions
from edge_transact.bundling.project import PACKAGE_CONFIG, RECORD, Project, render_templates, write_project
from edge_transact.bundling.sources import read_sources
from edge_transact.errors import EdgeTransactError
from edge_transact.reading import read_object

UPDATE = ".edge-transact-update"
"""The directory in a project with the files that are to be moved to their places."""


def update(dists: Sequence[Path], project: Path, weights: str = "auto") -> Project:
    """Has a project hold the models of DISTs and no others. Its names stay, and its code but for what the models need.

    That is a line for each asset pack, the permission to download, and the list in the README. Raises as `bundle` does,
    and an `EdgeTransactError` if a file that has to change isn't as it was written. Then nothing changes.
    """
    with cache.lock(cache.entry_of("projects", {"path": os.path.realpath(project)}), f"write to {project}"):
        _move(project)
        models = Project.read(project).models
        if not (before := listed(project / RECORD)):
            raise EdgeTransactError(f"{project / RECORD} was changed", fix="It says whose files are whose: restore it.")
        record = read_object(project / RECORD)
        known = {name: record[name] for name in BundleOptions.model_fields if name in record}
        names = BundleOptions(**known).model_dump(exclude={"weights"})
        sources = read_sources(dists, weights)
        with new_directory(project / UPDATE, own=True) as fresh, scratch_directory() as scratch:
            write_project(fresh, sources, names)
            render_templates(scratch, models, **names)
            code = {name: sha256(scratch / name) for name in files_beside(scratch / RECORD)}
            _leave_changes(fresh, project, before, code)
        _move(project)
        return Project.read(project)


def _leave_changes(fresh: Path, project: Path, before: Mapping[str, str], code: Mapping[str, str]) -> None:
    """Removes from a new project what stays in the old one; refuses if the rest would replace others' files.

    `before` are the files that the old project lists, and `code` those of its templates for its own models.
    """
    after, files = listed(fresh / RECORD), dict(before)
    for name in sorted({**before, **after}):
        is_models = name == PACKAGE_CONFIG or MODELS.match(name)
        old, new = (before if is_models else code).get(name), after.get(name)
        now = sha256(project / name) if (project / name).is_file() else None
        as_written = {None, old, new, before.get(name) if name == "README.md" else None}
        stays = (old == new and not is_models) or (name == "README.md" and now not in as_written)
        if not stays and now not in as_written:
            raise EdgeTransactError(
                f"{project / name} was changed, and these models need another",
                fix=f"Move it away, or bundle into another directory, and take from its {name} what is missing here.",
            )
        if not stays:
            files.pop(name, None)
            files |= {name: new} if new else {}
        if new and (stays or now == new):
            (fresh / name).unlink()
    write_sealed(fresh / RECORD, read_object(fresh / RECORD), dict(sorted(files.items())))


def _move(project: Path) -> None:
    """Moves what is ready to its places, and removes what the new record doesn't list any more."""
    part = project / UPDATE
    if (part / RECORD).is_file():
        after = listed(part / RECORD)
        for name in files_beside(part / RECORD):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(part / name, project / name)
        for name in listed(project / RECORD).keys() - after.keys():
            (project / name).unlink(missing_ok=True)
            with suppress(OSError):  # others' files are there
                os.removedirs((project / name).parent)
        os.replace(part / RECORD, project / RECORD)
    shutil.rmtree(part, ignore_errors=True)
