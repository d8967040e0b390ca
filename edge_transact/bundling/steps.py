"""From a project to an APK: MLC's packaging and Gradle, each skipped if nothing has changed since it ran."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import edge_transact
from edge_transact.artifacts.digests import sha256, text_digest
from edge_transact.bundling.project import PACKAGE_CONFIG, Project
from edge_transact.bundling.sources import ABI, ENGINE
from edge_transact.doctor.android import ALIGNED_NDK, find_ndk, ndk_revision
from edge_transact.errors import EdgeTransactError
from edge_transact.mlc.checkout import find
from edge_transact.mlc.package import EMULATORS
from edge_transact.progress import working
from edge_transact.reading import read_object

logger = logging.getLogger(__name__)

LOGS = "logs"
"""A project's directory with the output of steps, and the fingerprints with which they last began and finished."""

RUNTIME = Path("dist/lib/mlc4j/output", ABI, ENGINE)
"""Made by MLC's packaging: its engine, TVM's runtime and the models' libraries."""

OUTPUTS = Path("app/build/outputs")
"""Gradle's: APKs, signed with the debug key of this machine's Android tools or for a release with the user's."""

ALIGN = {"CCC_OVERRIDE_OPTIONS": "# +-Wl,-z,max-page-size=16384 +-Wno-unused-command-line-argument"}
"""Makes clang align segments as Google Play requires, which NDKs before r28 don't do by default.

clang adds the word after each ``+`` to its command line; ``#`` silences it. Their CMake toolchain ignores LDFLAGS, and
MLC's packaging passes no flags of ours to CMake.
"""

SHOWN_LINES = 20
"""How many of the last lines of a failed step's output the error shows."""


@dataclass(frozen=True)
class Step:
    """A program to run in the project.

    Attributes:
        scratch: A directory in the project to delete when `inputs` have changed.
        inputs: What its result depends on; `None` if the program itself detects changes.
    """

    name: str
    does: str
    command: Sequence[str]
    result: Path
    scratch: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, object] | None = None

    @property
    def fingerprint(self) -> str:
        return text_digest(json.dumps([list(self.command[1:]), self.inputs], sort_keys=True))

    def __str__(self) -> str:
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(self.command)])


def build_app(project: Project, *, release: bool = False) -> Path:
    """Builds the project's APK, a `release` with an app bundle, and returns its path. Raises what `run_steps` does."""
    kind = "release" if release else "debug"
    tasks = [":app:assembleRelease", ":app:bundleRelease"] if release else [":app:assembleDebug"]
    return run_steps(project.directory, tasks, OUTPUTS / f"apk/{kind}/app-{kind}.apk")


def run_steps(directory: Path, tasks: Sequence[str], result: Path) -> Path:
    """Runs MLC's packaging and tasks of Gradle, skipping finished steps; an `EdgeTransactError` if one fails."""
    directory = directory.absolute()
    steps = [package_step(directory), gradle_step(directory, tasks, result)]
    for number, step in enumerate(steps, 1):
        _run(step, directory, f"step {number} of {len(steps)}")
    return directory / result


def package_step(directory: Path) -> Step:
    """``mlc_llm package``, with this machine's NDK and MLC-LLM. It calls rustup and CMake."""
    checkout, found = find(), find_ndk()
    if found is None:
        raise EdgeTransactError("there is no NDK", fix="See what is missing: edge-transact doctor --for app")
    # Absolute, because the step runs in the project.
    source, python, ndk = (path.absolute() for path in (checkout.where, checkout.python, found))
    # Only its directory is used, for llvm-ar and llvm-nm.
    tools = next(ndk.glob("toolchains/llvm/prebuilt/*/bin"), ndk)
    path = [str(Path(edge_transact.__file__).parents[1]), str(python), os.environ.get("PYTHONPATH")]
    environment = {
        "ANDROID_NDK": str(ndk),
        "TVM_NDK_CC": str(tools / "aarch64-linux-android26-clang"),
        "MLC_LLM_SOURCE_DIR": str(source),
        "SKIP_LOADING_MLCLLM_SO": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    if ndk_revision(ndk)[0] < ALIGNED_NDK:
        environment |= ALIGN
    config = read_object(directory / PACKAGE_CONFIG)
    archives = sorted(config["model_lib_path_for_prepare_libs"].values())
    emulators = [] if archives else [EMULATORS]
    arguments = [
        *emulators,
        "--package-config",
        PACKAGE_CONFIG,
        "--mlc-llm-source-dir",
        str(source),
        "--output",
        "dist",
    ]
    return Step(
        name="package",
        does="MLC's packaging: link the engine and the models' libraries",
        command=[sys.executable, "-m", "edge_transact.mlc.package", *arguments],
        result=RUNTIME,
        scratch=Path("build"),
        environment=environment,
        inputs={
            "config": config,
            "libraries": [sha256(directory / archive) for archive in archives],
            "mlc": checkout.revision,
            "ndk": ndk_revision(ndk),
        },
    )


def gradle_step(directory: Path, tasks: Sequence[str], result: Path) -> Step:
    """Gradle, which compiles and packages, and detects changes itself."""
    wrapper = directory / "gradlew"
    program = str(wrapper) if wrapper.is_file() else shutil.which("gradle") or "gradle"
    command = [program, "--console=plain", *tasks]
    return Step(name="gradle", does=f"Gradle: {' '.join(tasks)}", command=command, result=result)


def _run(step: Step, directory: Path, which: str) -> None:
    log, begun, done = (directory / LOGS / f"{step.name}.{kind}" for kind in ("log", "begun", "done"))
    if step.inputs is not None and _read(done) == step.fingerprint and (directory / step.result).is_file():
        logger.info(f"{which}, {step.does}: unchanged")
        return
    if step.scratch and _read(begun) not in ("", step.fingerprint):
        shutil.rmtree(directory / step.scratch, ignore_errors=True)
    logger.info(f"{which}, {step.does}:")
    logger.info(f"$ cd {shlex.quote(str(directory))} && {step}")
    log.parent.mkdir(exist_ok=True)
    done.unlink(missing_ok=True)
    begun.write_text(step.fingerprint)
    with working(step.does), log.open("wb") as output:
        try:
            code = subprocess.run(
                step.command,
                cwd=directory,
                env={**os.environ, **step.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        except OSError as error:
            raise EdgeTransactError(f"{step.command[0]} doesn't start: {error.strerror}", fix="Install it.") from error
    if code or not (directory / step.result).is_file():
        lines = log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
        what = f"failed with exit code {code}" if code else f"made no {step.result}"
        raise EdgeTransactError(
            "\n".join([f"{step.does}: {Path(step.command[0]).name} {what}", *lines]),
            fix=f"The complete output is in {log}. The same command continues from this step.",
        )
    done.write_text(step.fingerprint)


def _read(file: Path) -> str:
    return file.read_text() if file.is_file() else ""
