"""The edge module as an app's library, compiled on this machine: Java and Kotlin, against stubs of Android."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.android_api import install_api, read_api
from tests.support.android_project import JSON, ROOT, WARNINGS, java, javac
from tests.support.android_stubs import TVM4J, compile_stubs
from tests.support.edge_app import build_edge
from tests.support.kotlin import FLAGS, LIBRARY, VERSION, compile_kotlin, kotlin, kotlinc, runtime
from tests.support.phone.runner import CACHE, one_at_a_time

SOURCES = ROOT / "templates" / "android" / "edge" / "src" / "main"
KOTLIN = SOURCES / "kotlin" / "edgetransact" / "edge"
TESTS = ROOT / "tests" / "bundling" / "library"
_LINES = re.MULTILINE | re.DOTALL


class Library(NamedTuple):
    """Directories of classes: the module's own, and those of Android and tvm4j that it names."""

    classes: Path
    stubs: Path

    @property
    def classpath(self) -> list[Path]:
        """What compiles and runs code that uses the library."""
        return [self.classes, self.stubs, JSON, *runtime()]


def build_library() -> Library:
    """The library; cached under a hash of its sources and of what makes its stubs. 15 s of CPU."""
    directory = _build()
    return Library(directory / "classes", directory / "stubs" / "classes")


@one_at_a_time
def _build() -> Path:
    sources = [*java(SOURCES), *kotlin(SOURCES)]
    stubs = [*java(TVM4J), *(Path(__file__).with_name(f"android_{name}.py") for name in ("api", "stubs"))]
    key = hashlib.sha256(" ".join([VERSION, *FLAGS, *LIBRARY]).encode())
    for file in [*sources, *stubs]:
        key.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    target = CACHE / f"edge-library-{key.hexdigest()[:12]}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
            made = Path(fresh) / "library"
            android = compile_stubs(read_api(install_api()), sources, made / "stubs")
            done = javac(java(SOURCES), [android, JSON], made / "java", *WARNINGS)
            assert done.returncode == 0, done.stderr
            done = kotlinc(kotlin(SOURCES), [made / "java", android, JSON], made / "classes", *LIBRARY)
            assert done.returncode == 0, done.stderr
            shutil.copytree(made / "java", made / "classes", dirs_exist_ok=True)
            made.rename(target)
    return target


def library_command(directory: Path) -> list[str]:
    """The command that runs a main class of the tests' Kotlin, but for its name.

    They see what is internal to the library. What documents show is compiled with them.
    """
    library = build_library()
    classpath = [*library.classpath, build_edge()]
    done = javac(java(TESTS), classpath, directory / "java", *WARNINGS)
    assert done.returncode == 0, done.stderr
    classpath.insert(0, directory / "java")
    shown = directory / "Shown.kt"
    shown.write_text(functions(shown_kotlin()))
    sources = [*kotlin(TESTS), shown]
    classpath.insert(0, compile_kotlin(sources, classpath, f"-Xfriend-paths={library.classes}"))
    options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-cp", ":".join(map(str, classpath))]
    return ["java", *options]


def shown_kotlin() -> list[str]:
    """The blocks of Kotlin in documents and in the comment of `Edge`."""
    documents = [*(ROOT / "templates").rglob("README*"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    blocks = [
        block for file in sorted(documents) for block in re.findall(r"^```kotlin\n(.*?)^```$", file.read_text(), _LINES)
    ]
    (comment,) = re.findall(r"^ \* ```\n(.*?)^ \* ```$", (KOTLIN / "Edge.kt").read_text(), _LINES)
    return [*blocks, re.sub(r"^ \* ", "", comment, flags=re.MULTILINE)]


def functions(blocks: Sequence[str]) -> str:
    """A function of each block, in which there is an Android `context`; the file imports what the blocks import."""
    imports = {"import android.content.Context", "import edgetransact.edge.*"}
    bodies = []
    for number, block in enumerate(blocks):
        lines = block.splitlines()
        imports |= {line for line in lines if line.startswith("import ")}
        body = "\n".join(line for line in lines if not line.startswith("import "))
        bodies.append(f"internal suspend fun shown{number}(context: Context) {{\n{body}\n}}")
    return "\n".join(["package shown", *sorted(imports), *bodies]) + "\n"
