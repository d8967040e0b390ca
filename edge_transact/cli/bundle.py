"""``edge-transact bundle``: an Android app project with models in it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from edge_transact.bundling.options import BundleOptions
from edge_transact.cli.common import ForceOption, JsonOption, guarded, show
from edge_transact.errors import UsageError

if TYPE_CHECKING:
    from edge_transact.bundling.project import Project
    from edge_transact.doctor import Check

_NOT_INSIDE = {
    "pack": "In asset packs, which Google Play installs with the app",
    "fast-follow": "In asset packs, which Google Play brings after the app",
    "download": "Downloaded by the app at its first start",
    "install": "Not in the app",
}
"""Where weights are, other than in the app itself."""


@guarded
def bundle(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="APP", help="Directory of the project.")],
    options: BundleOptions,
    dists: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIST...", help="Directories that `build` wrote for Android.", show_default=False),
    ] = None,
    aar: Annotated[
        bool, typer.Option("--aar", help="Write a Maven repository instead: a library of each model, for your own app.")
    ] = False,
    without_engine: Annotated[
        bool, typer.Option("--without-engine", help="Let --aar write where no engine is, since your app has one.")
    ] = False,
    engine: Annotated[
        bool, typer.Option("--engine", help="Build the library that such models need into the repository, once.")
    ] = False,
    build: Annotated[
        bool, typer.Option("--build", help="Go on to the APK, with MLC's packaging and Gradle. Continues APP.")
    ] = False,
    release: Annotated[
        bool, typer.Option("--release", help="Build for release, with R8 and your key, and an app bundle, too.")
    ] = False,
    install: Annotated[
        bool, typer.Option("--install", help="Build, and put app and weights on a phone. Continues APP.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="SERIAL", help="The phone for --install.", show_default="the only one")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Change the models of an APP that has others' code in it, and no names.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write an Android Studio project with models in it: a library module to build on, and a chat app.

    A model has the name of its directory. Up to 400 MB of weights are packed into the app, and larger models into
    asset packs, which Google Play delivers; `install` copies these to a phone. `--build` and `--engine` need an Android
    SDK with NDK, a JDK, Gradle, Rust and a checkout of MLC-LLM, and list what is missing.

    **Examples**

    `edge-transact bundle dist -o app`

    `edge-transact bundle dist -o app --application-id com.example.notes --app-name "My Notes"`

    `edge-transact bundle dist -o app --update`

    `edge-transact bundle --engine -o maven`

    `edge-transact bundle dist --aar -o maven`

    `edge-transact bundle dist -o app --weights https://example.org/models`

    `edge-transact bundle dist -o app --build`
    """
    from edge_transact.bundling.project import bundle as write_project
    from edge_transact.bundling.update import update as update_project

    goes_on = build or release or install
    if (aar or engine) and (goes_on or update):
        raise UsageError("a repository is no app, which --build and --update need", fix="Leave one of them out.")
    if engine:
        if dists:
            raise UsageError("--engine has no models inside", fix=f"Then add them: bundle DIST --aar -o {output}")
        _engine(output, as_json)
        return
    if not dists:
        raise UsageError("there is no DIST", fix="Name a directory that `edge-transact build` wrote for Android.")
    if aar:
        _modules(dists, output, options.weights, without_engine, as_json)
        return
    if update:
        project = update_project(dists, output, options.weights)
    else:
        project = write_project(dists, output, **options.model_dump(), force=force, keep=goes_on)
    lacking = _lacking() if goes_on else []
    result = project.to_dict()
    checks: list[Check] = []
    if lacking:
        result["missing"] = [check.name for check in lacking]
    elif goes_on:
        from edge_transact.bundling.install import find_phone, install_app

        if install:
            find_phone(device)  # before a long build
        checks = _build(project, release, result)
        if install and all(check.ok for check in checks):
            result["installed"] = install_app(project, Path(str(result["apk"])), device).to_dict()
    show(result, as_json, lambda: _print(project, result, lacking, checks))
    if lacking or not all(check.ok for check in checks):
        raise typer.Exit(1)


def _engine(output: Path, as_json: bool) -> None:
    from edge_transact.bundling.engine import bundle_engine
    from edge_transact.cli.doctor import print_checks

    result: dict[str, object] = {"project": str(output), "package_config": None, "models": []}
    if lacking := _lacking():
        result["missing"] = [check.name for check in lacking]
        show(result, as_json, lambda: print_checks(lacking))
        raise typer.Exit(1)
    result["engine"] = bundle_engine(output)
    show(result, as_json, lambda: print(f'implementation("{result["engine"]}"): see {output}/edgetransact/README.md'))


def _modules(dists: list[Path], output: Path, weights: str, without_engine: bool, as_json: bool) -> None:
    from edge_transact.bundling.aar import bundle_modules

    made = bundle_modules(dists, output, weights, without_engine)

    def text() -> None:
        for model, name in zip(made.models, made.coordinates, strict=True):
            print(f'{model.id}, {model.bytes / 1e6:,.1f} MB: implementation("{name}")')
        for model, dist in zip(made.models, dists, strict=True):
            if model.weights == "install":
                print(f"Not in the library: edge-transact install {dist} --application-id ID")
            if model.url:
                print(f"Not in the library: upload {dist} to {model.url}")
        print(f"Next: the steps of {output / 'edgetransact/README.md'}")

    show(made.to_dict(), as_json, text)


def _lacking() -> list[Check]:
    from edge_transact.doctor import APP_EXAMINERS, JOBS, examine

    return [check for check in examine(APP_EXAMINERS) if check.name in JOBS["app"].needs and not check.ok]


def _build(project: Project, release: bool, result: dict[str, Any]) -> list[Check]:
    from edge_transact.bundling.apk import examine_apk
    from edge_transact.bundling.steps import OUTPUTS, build_app

    apk = build_app(project, release=release)
    checks = examine_apk(apk)
    result |= {"apk": str(apk), "checks": [asdict(check) for check in checks]}
    if release:
        result["bundle"] = str(project.directory / OUTPUTS / "bundle/release/app-release.aab")
    return checks


def _print(project: Project, result: dict[str, Any], lacking: list[Check], checks: list[Check]) -> None:
    from edge_transact.bundling.project import warnings
    from edge_transact.bundling.sources import ASSETS_BYTES, PLAY_LIMIT_BYTES
    from edge_transact.cli.doctor import print_checks
    from edge_transact.formatting import megabytes

    console = Console(highlight=False, markup=False)
    for model in project.models:
        print(f"{model.id}: {model.bytes / 1e6:,.1f} MB, library for {' and '.join(model.libraries)}")
    for warning in warnings(project.models):
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    inside = sum(model.bytes for model in project.models if model.weights == "assets")
    if inside > ASSETS_BYTES:
        what = f"{megabytes(inside)} of weights are in the app; Google Play takes {megabytes(PLAY_LIMIT_BYTES)} in all"
        console.print(f"warning: {what}", style="yellow", soft_wrap=True)
    for how, words in _NOT_INSIDE.items():
        if ids := [model.id for model in project.models if model.weights == how]:
            print(f"{words}: {', '.join(ids)}")
    if any(model.weights in ("pack", "fast-follow", "install") for model in project.models):
        print(f"Once an APK is on a phone: edge-transact install {project.directory}")
    for model in project.models:
        if model.url:
            print(f"Upload {project.directory / model.directory} to {model.url}")
    if lacking:
        print(f"{project.directory} is complete, but --build needs what is missing here:")
        print_checks(lacking)
        return
    print_checks(checks)
    if "bundle" in result:
        print(f"For Google Play: {result['bundle']}")
    if "installed" in result:
        print(f"{project.application_id} is on {result['installed']['device']}.")
    elif "apk" in result:
        print(f"Next: adb install -r {result['apk']}")
    else:
        print(f"Next: the steps of {project.directory / 'README.md'}")
