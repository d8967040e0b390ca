"""All Java and Kotlin of a project as classes, compiled as strictly as it can be."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.support.android_api import ApiClass
from tests.support.android_project import JSON, Compiled, java, javac, link_resources
from tests.support.android_stubs import compile_stubs
from tests.support.kotlin import LIBRARY, compile_kotlin, kotlin, runtime

WARNINGS = ("-Xlint:all", "-Werror")


def compile_project(project: Path, api: dict[str, ApiClass], output: Path, others: Sequence[Path] = ()) -> Compiled:
    """The project's classes and what they were compiled against: Android's and tvm4j's, as the sources name them.

    Args:
        api: What `read_api` returned.
        others: Further sources, which are to compile against the same later.
    """
    linked = link_resources(project, output / "resources")
    assert linked.returncode == 0, linked.stderr
    sources = [*java(project), *java(output / "resources")]
    classpath = [compile_stubs(api, [*sources, *kotlin(project), *others], output / "stubs"), JSON]
    classes = output / "classes"
    done = javac(sources, classpath, classes, *WARNINGS)
    assert done.returncode == 0, done.stderr
    for module, flags in (("edge", LIBRARY), ("app", ())):
        if files := kotlin(project / module):
            shutil.copytree(compile_kotlin(files, [classes, *classpath], *flags), classes, dirs_exist_ok=True)
    return Compiled(classes=classes, classpath=[*classpath, *runtime()], resources=output / "resources")
