"""A release of an app: its version, R8, and whose key signs it. Gradle's files run here without Gradle."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge_transact.bundling.project import Project, bundle
from tests.support.android_project import ROOT, render
from tests.support.command import run
from tests.support.dists import make_dist
from tests.support.patience import HANG_S

KEY = {"releaseStoreFile": "my.jks", "releaseStorePassword": "s$", "releaseKeyAlias": "me", "releaseKeyPassword": "k"}
"""Gradle's properties with a key."""

GROOVY = ":".join(f"/usr/share/java/{name}.jar" for name in ("groovy-all", "antlr", "asm"))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return render(tmp_path_factory.mktemp("release") / "app")


def gradle(file: Path, **properties: str) -> dict[str, Any]:
    """What a Gradle file sets, and how packaging ends."""
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", GROOVY, "groovy.ui.GroovyMain"]
    words = [str(file), *(f"{name}={value}" for name, value in properties.items())]
    script = str(ROOT / "tests/bundling/GradleScript.groovy")
    done = subprocess.run([*command, script, *words], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.needs("java", "groovy")
def test_a_release_is_shrunk_and_signed_by_the_key_that_gradles_properties_name(project):
    made = gradle(project / "app/build.gradle", **KEY)
    release = made["android"]["buildTypes"]["release"]
    assert release["minifyEnabled"] and release["shrinkResources"]
    assert release["proguardFiles"] == ["proguard-android-optimize.txt"]
    signed = {"storeFile": "root/my.jks", "storePassword": "s$", "keyAlias": "me", "keyPassword": "k"}
    assert release["signingConfig"] == signed
    assert set(made["ends"].values()) == {"made"}
    config = made["android"]["defaultConfig"]
    assert (config["versionCode"], config["versionName"]) == (7, "1.2 $beta")


@pytest.mark.needs("java", "groovy")
def test_without_a_key_gradle_refuses_a_release_before_r8_and_builds_the_rest(project):
    made = gradle(project / "app/build.gradle", releaseKeyAlias="me")
    for task in ("packageRelease", "packageReleaseBundle"):
        refusal = "there is no releaseStoreFile, releaseStorePassword, releaseKeyPassword. README.md"
        assert refusal in made["ends"].pop(task)
    assert set(made["ends"].values()) == {"made"}
    assert made["ordered"]["preReleaseBuild"] == ["checkSigning"]
    readme = (project / "README.md").read_text()
    assert set(re.findall(r"^(release\w+)=", readme, re.M)) == set(KEY)


@pytest.mark.needs("java", "groovy")
def test_a_first_sync_says_what_is_missing_and_runs_no_cmake(project, tmp_path):
    """As a build does, whose first task ends with it."""
    app, mlc = Path(shutil.copytree(project, tmp_path / "app")), tmp_path / "mlc"

    def sync() -> tuple[list[str], bool]:
        made = gradle(app / "edge/build.gradle", mlcSource=str(mlc))
        assert [made["ends"]["preBuild"]] == (made["warned"] or ["made"])
        return made["warned"], "externalNativeBuild" in made["android"]

    (said,), runs_cmake = sync()
    assert said.startswith("MLC-LLM's engine is not packaged yet") and "bundle --build" in said and not runs_cmake
    for name in ("tvm4j_core.jar", "arm64-v8a/libtvm4j_runtime_packed.so"):
        (path := app / "dist/lib/mlc4j/output" / name).parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (said,), runs_cmake = sync()
    assert said.startswith(f"No {mlc}/3rdparty/") and "mlcSource in gradle.properties" in said and not runs_cmake
    (header := mlc / "3rdparty/tvm/3rdparty/tvm-ffi/include/tvm/ffi/function.h").parent.mkdir(parents=True)
    header.touch()
    assert sync() == ([], True)


@pytest.mark.needs("java", "groovy")
def test_gradles_wrapper_stays_at_the_version_that_the_project_names(project):
    text = (project / "gradle/wrapper/gradle-wrapper.properties").read_text().replace("\\:", ":")
    there = dict(line.split("=", 1) for line in text.splitlines())
    made = gradle(project / "build.gradle")["wrapper"]
    assert made == {name: there[name] for name in ("distributionUrl", "distributionSha256Sum")}


def test_an_apps_version(tmp_path):
    dist, app = make_dist(tmp_path / "tiny"), tmp_path / "app"
    words = ["bundle", dist, "-o", app]
    assert run(*words, "--version-code", "12", "--version-name", "2.0 'x'").exit_code == 0
    text = (app / "app/build.gradle").read_text()
    assert "versionCode = 12\n" in text and "versionName = \"2.0 'x'\"\n" in text
    digest = Project.read(app).digest
    assert bundle([dist], tmp_path / "same", version_code=12, version_name="2.0 'x'").digest == digest
    assert bundle([dist], tmp_path / "next", version_code=13, version_name="2.0 'x'").digest != digest
    for wrong in ("0", "2100000001"):
        assert "--version-code" in run(*words, "--force", "--version-code", wrong).stderr
