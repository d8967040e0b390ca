"""Kotlin on this machine, compiled as strictly as it can be: every warning is an error."""

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from tests.support.android_project import QUICK, Done, run_tool
from tests.support.npm import npm_packages
from tests.support.phone.runner import CACHE

PACKAGE = "kotlin-compiler"
VERSION = "2.4.20"

LANGUAGE = "2.2"
"""The oldest Kotlin that compiles the sources and reads the classes; AGP 9 brings this one if a project names none."""
FLAGS = (
    "-no-reflect", "-no-stdlib", "-Xjdk-release=11", "-jvm-target=11", f"-language-version={LANGUAGE}",
    f"-api-version={LANGUAGE}", "-Werror", "-Wextra",
)  # fmt: skip
LIBRARY = ("-Xexplicit-api=strict",)
"""What a library is compiled with besides: all that is public says so, and its types."""


def kotlin(*directories: Path) -> list[Path]:
    """Kotlin files."""
    return sorted(file for directory in directories for file in directory.rglob("*.kt"))


def runtime() -> list[Path]:
    """Kotlin's standard library and coroutines (1.8.0), as the compiler's package has them."""
    return [_library() / name for name in ("kotlin-stdlib.jar", "kotlinx-coroutines-core-jvm.jar")]


def kotlinc(sources: Iterable[Path], classpath: Sequence[Path], output: Path, *flags: str) -> Done:
    """Compiles Kotlin with the standard library and coroutines; 5 to 10 s of CPU."""
    path = ":".join(map(str, [*classpath, *runtime()]))
    java = ["java", *(flag.removeprefix("-J") for flag in QUICK), "-cp", str(_library() / "kotlin-compiler.jar")]
    options = [*FLAGS, *flags, "-d", str(output), "-cp", path]
    return run_tool([*java, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", *options, *map(str, sources)])


def compile_kotlin(sources: Sequence[Path], classpath: Sequence[Path], *flags: str) -> Path:
    """The classes of Kotlin files, kept under a hash of these and of all that they are compiled against.

    Args:
        classpath: Directories of classes, and jars.
        flags: Further options of the compiler, such as `LIBRARY`.
    """
    inputs = [file for path in classpath for file in (sorted(path.rglob("*.class")) if path.is_dir() else [path])]
    key = hashlib.sha256(" ".join([VERSION, *FLAGS, *flags]).encode())
    for file in [*sources, *inputs]:
        key.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    target = CACHE / f"kotlin-{key.hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f".{target.name}.lock"):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as fresh:
                done = kotlinc(sources, classpath, Path(fresh) / "classes", *flags)
                assert done.returncode == 0, done.stderr
                (Path(fresh) / "classes").rename(target)
    return target


def _library() -> Path:
    return npm_packages(PACKAGE, f"{PACKAGE}@{VERSION}") / "node_modules" / PACKAGE / "lib"
