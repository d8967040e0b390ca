"""All Java and Kotlin of a project as classes, compiled as strictly as it can be."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.support.android_api import ApiClass
from tests.support.android_project import JSON, WARNINGS, Compiled, java, javac, link_resources
from tests.support.android_stubs import compile_stubs
from tests.support.edge_library import build_library
from tests.support.kotlin import compile_kotlin, kotlin, runtime


def compile_project(
    project: Path, api: dict[str, ApiClass], output: Path, others: Sequence[Path] = (), build: str = "debug"
) -> Compiled:
    """The project's classes and what they were compiled against: Android's and tvm4j's, as the sources name them.

    Args:
        api: What `read_api` returned.
        others: Further sources, which are to compile against the same later.
        build: The app's build type, whose sources are beside those of all builds.
    """
    linked = link_resources(project, output / "resources", build)
    assert linked.returncode == 0, linked.stderr
    app = [project / "app" / "src" / name for name in ("main", build)]
    generated = java(output / "resources")
    named = [*java(project / "edge", *app), *generated, *kotlin(project / "edge", *app), *others]
    classpath = [compile_stubs(api, named, output / "stubs"), JSON, *runtime()]
    classes = shutil.copytree(build_library().classes, output / "classes")
    done = javac([*java(*app), *generated], [classes, *classpath], classes, *WARNINGS)
    assert done.returncode == 0, done.stderr
    if files := kotlin(*app):
        shutil.copytree(compile_kotlin(files, [classes, *classpath]), classes, dirs_exist_ok=True)
    return Compiled(classes=classes, classpath=classpath, resources=output / "resources")
