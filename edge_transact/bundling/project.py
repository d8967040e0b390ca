"""Writes an Android project with models in it, for people to build their app on."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from edge_transact.artifacts import digests
from edge_transact.artifacts.listing import write_listing
from edge_transact.artifacts.outputs import new_directory, refuse_existing
from edge_transact.artifacts.summary import Summarized, Summary
from edge_transact.artifacts.templates import TEMPLATE_DIRECTORIES, environment
from edge_transact.bundling.escaping import android_string, check_app_name, check_application_id, groovy_string
from edge_transact.bundling.models import ASSETS, BUNDLE, MODELS_JSON, AppModel, AppModels
from edge_transact.bundling.sources import Source, package_config, read_sources
from edge_transact.cache.keys import code_of
from edge_transact.errors import EdgeTransactError
from edge_transact.formatting import megabytes
from edge_transact.progress import bar
from edge_transact.reading import read_model
from edge_transact.version import __version__

logger = logging.getLogger(__name__)

PACKAGE_CONFIG = "mlc-package-config.json"
"""What ``mlc_llm package`` reads."""

RECORD = "bundle.json"
"""A project's settings and the digest of its sources."""


class _Record(BaseModel):
    application_id: str
    digest: str


@dataclass(frozen=True, repr=False)
class Project(Summarized):
    """A project that `bundle` wrote."""

    directory: Path
    application_id: str
    models: Sequence[AppModel]
    digest: str

    def summary(self) -> Summary:
        rows = [(model.id, f"{model.bytes / 1e6:,.1f}", " ".join(model.libraries)) for model in self.models]
        return Summary(f"{self.directory}: {self.application_id}", header=("model", "MB", "libraries"), rows=rows)

    def to_dict(self) -> dict[str, object]:
        return {
            "project": str(self.directory),
            "package_config": str(self.directory / PACKAGE_CONFIG),
            "application_id": self.application_id,
            "models": [self._described(model) for model in self.models],
        }

    def _described(self, model: AppModel) -> dict[str, object]:
        path = str(self.directory / model.directory)
        return {**model.model_dump(exclude={"files"}, exclude_none=True), "bytes": model.bytes, "path": path}

    @classmethod
    def read(cls, directory: Path) -> Project:
        """The project in a directory; `EdgeTransactError` if there is none that this version can read."""
        path = directory / RECORD
        try:
            record = read_model(_Record, path, BUNDLE)
            return cls(directory, record.application_id, AppModels.of_project(directory).models, record.digest)
        except FileNotFoundError as error:
            raise EdgeTransactError(
                f"{directory} is not an app's project: it has no {Path(error.filename).name}",
                fix=f"Create one: edge-transact bundle DIST -o {directory}",
            ) from error


def bundle(
    dists: Sequence[Path],
    output: Path,
    *,
    application_id: str = "org.example.chat",
    app_name: str = "Edge Chat",
    version_code: int = 1,
    version_name: str = "1.0",
    weights: str = "auto",
    force: bool = False,
    keep: bool = False,
) -> Project:
    """Writes an Android project with the models of DISTs, complete or not at all.

    ``bundle([Path("dist")], Path("app"))``

    Args:
        dists: Directories that ``build`` wrote for ``android``, ``android-cpu`` or both. They name the models.
        weights: How they get to phones, as in `BundleOptions`.
        keep: Return an existing project unchanged if it was made from the same sources and names.

    Raises:
        UsageError: A name or `weights` is invalid, two models have the same library, or a DIST has none for Android.
        EdgeTransactError: A file of a DIST changed after the build, or `output` exists.
    """
    check_application_id(application_id)
    check_app_name(app_name)
    sources = read_sources(dists, weights)
    models = [source.model for source in sources]
    names: dict[str, object] = {"application_id": application_id, "app_name": app_name}
    names |= {"version_code": version_code, "version_name": version_name}
    digest = _digest(sources, names)
    if keep and not force and output.exists():
        there = Project.read(output)
        if there.digest == digest and there.models == models:  # models.json may have been changed since
            return there
    refuse_existing(output, force, apart_from=dists)
    with new_directory(output, force=force) as directory:
        write_project(directory, sources, names)
    return Project(output, application_id, models, digest)


def write_project(directory: Path, sources: Sequence[Source], names: Mapping[str, object]) -> None:
    """Writes all files of a project into an empty directory."""
    models = [source.model for source in sources]
    render_templates(directory, models, **names)
    total = sum(model.bytes for model in models)
    with bar(f"copy {megabytes(total)} of weights", total) as advance:
        for source in sources:
            _copy_model(source, directory, advance)
    (directory / "libraries").mkdir()
    for source in sources:
        for archive in source.archives().values():
            name = archive.relative_to(source.dist).as_posix()
            _copy(archive, directory / "libraries" / archive.name, source.manifest.files[name])
        if source.archives("x86_64"):
            logger.warning(f"{source.model.id}: MLC's packaging takes no library for emulators; bundle --aar does")
    (directory / PACKAGE_CONFIG).write_text(json.dumps(package_config(sources), indent=2) + "\n")
    assets = directory / ASSETS / MODELS_JSON
    assets.parent.mkdir(parents=True, exist_ok=True)
    assets.write_text(AppModels(models=models).text())
    listed = {
        (parent / file.path).as_posix(): file.sha256
        for model in models
        for parent in (model.directory, model.assets or ASSETS / "edge" / model.id)
        for file in model.files
    }
    content = {"edge_transact": __version__, **names, "digest": _digest(sources, names)}
    write_listing(directory / RECORD, content, listed)


def warnings(models: Sequence[AppModel]) -> list[str]:
    """A sentence for each model without a library for GPUs or for CPUs."""
    where = {"android-cpu": "on phones with OpenCL only", "android": "on CPUs only"}
    return [
        f"{model.id} runs {limited}: build it with --target android,android-cpu"
        for model in models
        for target, limited in where.items()
        if target not in model.libraries
    ]


def _digest(sources: Sequence[Source], names: Mapping[str, object]) -> str:
    content = {
        **names,
        "models": [source.model.model_dump() for source in sources],
        "libraries": [source.manifest.files[path] for source in sources for path in source.manifest.libraries.values()],
        "code": code_of(bundle),
    }
    return digests.text_digest(json.dumps(content, sort_keys=True))


def render_templates(directory: Path, models: Sequence[AppModel], **names: object) -> None:
    """Writes the project's files other than weights and libraries, with the `names` of `BundleOptions`."""
    root = next(path for path in (base / "android" for base in TEMPLATE_DIRECTORIES) if path.is_dir())
    jinja = environment()
    jinja.filters |= {"groovy_string": groovy_string, "android_string": android_string}
    for source in sorted(path for path in root.rglob("*") if path.is_file()):
        name = source.relative_to(root)
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".j2":
            template = jinja.get_template(f"android/{name.as_posix()}")
            text = template.render(models=models, **names)
            target.with_suffix("").write_text(text, encoding="utf-8", newline="\n")
        else:
            shutil.copy(source, target)
    for model in models:
        if model.pack:
            (directory / model.pack).mkdir()
            pack = jinja.get_template("asset_pack.gradle.j2").render(model=model)
            (directory / model.pack / "build.gradle").write_text(pack)


def _copy_model(source: Source, directory: Path, advance: Callable[[float], None]) -> None:
    model = source.model
    (directory / model.directory).mkdir(parents=True)
    for file in model.files:
        copied = directory / model.directory / file.path
        _copy(source.dist / file.path, copied, file.sha256)
        if model.assets:
            asset = directory / model.assets / file.path
            asset.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(copied, asset)
            except OSError:  # a file system without hard links
                shutil.copyfile(copied, asset)
        advance(file.bytes)


def _copy(file: Path, target: Path, expected: str) -> None:
    if digests.copy(file, target) != expected:
        raise EdgeTransactError(f"{file} changed after the build", fix="Copy it again, or build it again.")
