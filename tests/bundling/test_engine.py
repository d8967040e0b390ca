"""`bundle --engine`: the library for apps, from Gradle's AAR; programs are scripts here, and published AARs compare."""

import io
import json
import re
import subprocess
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edge_transact.bundling.engine import PARTS
from edge_transact.verification import verify
from edge_transact.version import __version__
from tests.support.android_project import QUICK, ROOT
from tests.support.app_tools import AppTools
from tests.support.command import run, said
from tests.support.dists import make_dist
from tests.support.edge_library import build_library, shown_kotlin
from tests.support.examples import examples_with, run_line
from tests.support.kotlin import LANGUAGE
from tests.support.published_aars import PUBLISHED, published_repository

POM = "{http://maven.apache.org/POM/4.0.0}"
ANDROID = "{http://schemas.android.com/apk/res/android}"
STEPS = [*["rustup", "cmake", "cmake", "cmake"] * 2, "gradle"]
RULES = (ROOT / "templates/android/edge/consumer-rules.pro").read_bytes()
PARTS_OF_GRADLES = {
    "AndroidManifest.xml": b'<manifest xmlns:android="http://schemas.android.com/apk/res/android" '
    b'package="edgetransact.edge"><uses-sdk android:minSdkVersion="26"/></manifest>',
    "R.txt": b"", "proguard.txt": RULES,
    "META-INF/com/android/build/gradle/aar-metadata.properties": b"aarFormatVersion=1.0\n",
    **{
        f"jni/{abi}/lib{name}.so": content
        for abi in ("arm64-v8a", "x86_64")
        for name, content in {"tvm4j_runtime_packed": b"engine", "edge_programs": b"programs"}.items()
    },
}  # fmt: skip
"""What Android's plugin for Gradle puts into the AAR besides jars."""


def packed(entries: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, each in entries.items():
            archive.writestr(name, each)
    return content.getvalue()


def gradles(**changes: bytes | None) -> bytes:
    """An AAR as Gradle makes it of the project, but for some parts."""
    jars = {
        "classes.jar": packed({"edgetransact/edge/android/MlcEngine.class": b"ours"}),
        "libs/tvm4j_core.jar": packed({"org/apache/tvm/Function.class": b"TVM's"}),
    }
    parts = {**PARTS_OF_GRADLES, **jars, **changes}
    return packed({name: content for name, content in parts.items() if content is not None})


@pytest.fixture
def tools(tmp_path, monkeypatch) -> AppTools:
    """A machine with all that an engine takes, and a cache of its own."""
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "cache"))
    tools = AppTools(tmp_path / "tools").use(monkeypatch)
    (tools.root / "edge.aar").write_bytes(gradles())
    return tools


def unpacked(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_the_engine_is_built_once_and_models_need_it(tools, tmp_path):
    made = said("bundle", "--engine", "-o", tmp_path / "maven")
    assert (made["project"], made["package_config"], made["models"]) == (str(tmp_path / "maven"), None, [])
    calls = tools.calls()
    assert [name for name, _, _ in calls] == STEPS and calls[-1][1] == ["--console=plain", ":edge:assembleRelease"]
    # Once for phones and once for emulators.
    assert [words[2] for name, words, _ in calls if name == "rustup"] == [
        "aarch64-linux-android", "x86_64-linux-android"
    ]  # fmt: skip
    abis = [word for name, words, _ in calls if name == "cmake" for word in words if "ABI" in word]
    assert abis == ["-DANDROID_ABI=arm64-v8a", "-DANDROID_ABI=x86_64"]
    (project,) = (tmp_path / "cache/engines").iterdir()
    config = json.loads((project / "mlc-package-config.json").read_text())
    assert config == {"device": "android", "model_list": [], "model_lib_path_for_prepare_libs": {}}
    group, artifact, version = made["engine"].split(":")
    assert (group, artifact) == ("edgetransact", "edge") and version.startswith(f"{__version__}-1-")
    for abi in ("arm64-v8a", "x86_64"):
        assert (project / f"dist/lib/mlc4j/output/{abi}/libtvm4j_runtime_packed.so").read_text() == f"engine {abi}\n"
    stem = tmp_path / f"maven/edgetransact/edge/{version}/edge-{version}"
    notice = (
        f"edge-transact {__version__}, with MLC-LLM, Apache TVM and tokenizers-cpp (Apache-2.0).\n\nMLC's\n\nTVM's\n"
    )
    terms = {"META-INF/NOTICE": notice.encode(), "META-INF/LICENSE": b"Apache\n"}
    assert unpacked(Path(f"{stem}.aar")) == unpacked(tools.root / "edge.aar") | terms
    pom = ElementTree.parse(f"{stem}.pom").getroot()
    assert pom.findtext(f"{POM}name") and pom.findtext(f"{POM}licenses/{POM}license/{POM}name") == "Apache-2.0"
    assert pom.findtext(f"{POM}scm/{POM}url") == "https://github.com/mlc-ai/mlc-llm"
    assert unpacked(Path(f"{stem}-sources.jar")) == {
        file.relative_to(root).as_posix(): file.read_bytes()
        for root in (ROOT / "templates/android/edge/src/main" / language for language in ("java", "kotlin"))
        for file in root.rglob("*")
        if file.is_file()
    }

    stdlib, coroutines = needs(tmp_path / "maven", made["engine"])
    assert stdlib.startswith(f"org.jetbrains.kotlin:kotlin-stdlib:{LANGUAGE}.")
    assert coroutines.startswith("org.jetbrains.kotlinx:kotlinx-coroutines-core:")

    assert said("bundle", "--engine", "-o", tmp_path / "maven") == made
    assert [name for name, _, _ in tools.calls()] == ["gradle"], "Gradle knows itself what has changed"
    (tools.root / "edge.aar").write_bytes(gradles(**{"R.txt": b"newer"}))
    newer = said("bundle", "--engine", "-o", tmp_path / "maven")["engine"]
    assert newer != made["engine"]
    assert all(check.ok for check in verify(tmp_path / "maven"))


@pytest.mark.parametrize("line", examples_with("--engine -o"))
def test_examples_of_pages_and_help_build_an_engine(line, tools, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_line(line)
    assert [name for name, _, _ in tools.calls()] == STEPS


@pytest.mark.needs("clang-19", "ld.lld-19")
def test_a_model_needs_the_newest_engine_of_its_repository(tools, tmp_path):
    dist, maven = make_dist(tmp_path / "tiny"), tmp_path / "maven"
    alone = said("bundle", dist, "--aar", "--without-engine", "-o", maven)["models"][0]["coordinates"]
    assert needs(maven, alone) == []
    engine = said("bundle", "--engine", "-o", maven)["engine"]
    model = said("bundle", dist, "--aar", "-o", maven)["models"][0]["coordinates"]
    assert model != alone and needs(maven, model) == [engine] and needs(maven, alone) == []


def test_an_aar_that_lacks_something_goes_nowhere(tools, tmp_path):
    without_ours = gradles(**{"classes.jar": packed({"x.class": b""})})
    for aar, missing in ((packed({"R.txt": b""}), PARTS), (without_ours, PARTS[-2:-1])):
        (tools.root / "edge.aar").write_bytes(aar)
        result = run("bundle", "--engine", "-o", tmp_path / "maven")
        text = result.stderr.replace("\n", "").replace(" ", "")
        assert result.exit_code == 1 and f"hasno{','.join(missing)}" in text and not (tmp_path / "maven").exists()


def test_a_build_that_failed_goes_on_and_files_of_older_versions_are_gone(tools, tmp_path):
    tools.breaks("gradle", "no space left on device")
    result = run("bundle", "--engine", "-o", tmp_path / "maven")
    assert result.exit_code == 1 and "no space left on device" in result.stderr
    (project,) = (tmp_path / "cache/engines").iterdir()
    old = project / "edge/src/main/java/edgetransact/edge/Old.java"
    old.touch()
    tools.breaks("gradle", None)
    tools.calls()
    assert run("bundle", "--engine", "-o", tmp_path / "maven").exit_code == 0
    assert [name for name, _, _ in tools.calls()] == ["gradle"] and not old.exists()


def test_all_that_is_missing_is_said_at_once(tools, tmp_path, monkeypatch):
    for name in ("gradle", "rustup", "cmake"):
        (tools.root / "bin" / name).unlink()
    for name in ("ANDROID_HOME", "ANDROID_NDK", "MLC_LLM_SOURCE_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", tools.path)
    result = run("bundle", "--engine", "-o", tmp_path / "maven", "--json")
    missing = json.loads(result.stdout.splitlines()[-1])["missing"]
    assert result.exit_code == 1 and missing == ["cmake", "sdk", "ndk", "gradle", "rustup", "mlc", "mlc-tvm"]
    assert not (tmp_path / "maven").exists()


@pytest.mark.needs("clang-19", "ld.lld-19")
def test_a_repository_says_how_an_app_takes_what_is_in_it(tools, tmp_path):
    """Its lines of Kotlin are compiled with those of other documents."""
    maven, dists = tmp_path / "maven", [make_dist(tmp_path / "tiny")]
    dists += [make_dist(tmp_path / "other", ["android-cpu"], "edge_llama_q4f16_0_89abcdef")]
    maven.mkdir()
    (maven / "README.md").write_text("theirs")
    said("bundle", dists[0], "--aar", "--without-engine", "-o", maven)
    readme = maven / "edgetransact/README.md"
    assert "The library isn't here yet" in readme.read_text()
    engine = said("bundle", "--engine", "-o", maven)["engine"]
    models = [model["coordinates"] for model in said("bundle", *dists, "--aar", "-o", maven)["models"]]
    text = readme.read_text()
    assert re.findall(r"^    implementation\('(.*)'\)$", text, re.M) == [*sorted(models), engine]
    assert "isn't here yet" not in text and "Here: `other`, `tiny`." in text
    catalog = tomllib.loads((ROOT / "templates/android/gradle/libs.versions.toml").read_text())["versions"]
    assert f"(API {catalog['minSdk']})" in text and f"**Kotlin**: {LANGUAGE} or newer" in text
    (kotlin,) = re.findall(r"^```kotlin\n(.*?)^```$", text, re.M | re.S)
    assert kotlin in shown_kotlin() and len(kotlin.splitlines()) == 5
    assert (maven / "README.md").read_text() == "theirs" and all(check.ok for check in verify(maven))


@pytest.mark.parametrize("words", [["--engine", "DIST"], ["--engine", "--build"], []])
def test_what_no_engine_is(words, tmp_path):
    dist = [tmp_path if word == "DIST" else word for word in words]
    assert run("bundle", *dist, "-o", tmp_path / "maven").exit_code == 2


# What people and Gradle take a repository's modules apart by.


def home(repository: Path, coordinates: str) -> tuple[Path, str]:
    """The folder of a version, and how its files begin."""
    group, artifact, version = coordinates.split(":")
    return repository.joinpath(*group.split("."), artifact, version), f"{artifact}-{version}"


def needs(repository: Path, coordinates: str) -> list[str]:
    directory, stem = home(repository, coordinates)
    found = ElementTree.parse(directory / f"{stem}.pom").getroot().iter(f"{POM}dependency")
    return [
        ":".join(each.findtext(POM + name) or "" for name in ("groupId", "artifactId", "version")) for each in found
    ]


def layout(repository: Path, coordinates: str) -> dict[str, set[str]]:
    """How a published library is laid out, in words that don't depend on which it is."""
    directory, stem = home(repository, coordinates)
    pom = ElementTree.parse(directory / f"{stem}.pom").getroot()
    parts = unpacked(directory / f"{stem}.aar")
    manifest = ElementTree.fromstring(parts["AndroidManifest.xml"])
    metadata = ElementTree.parse(directory.parent / "maven-metadata.xml").getroot()
    sources = directory / f"{stem}-sources.jar"
    packages = unpacked(sources) if sources.exists() else {}
    return {
        "files": {path.name.removeprefix(stem) for path in directory.iterdir()},
        "pom": {element.tag for element in pom} | {element.tag for element in pom.iter(f"{POM}dependency")},
        "dependency": {child.tag for element in pom.iter(f"{POM}dependency") for child in element},
        "metadata": {element.tag for element in metadata.iter()},
        "parts": {name if "/" not in name else f"{name.split('/')[0]}/" for name in parts},
        "native": {
            "/".join([*name.split("/")[:2], "lib*.so"]) for name in parts if re.match(r"jni/.*/lib.*\.so$", name)
        }
        | {name for name in parts if name.endswith(".so") and not re.match(r"jni/[^/]+/lib[^/]+\.so$", name)},
        "manifest": {*manifest.keys()} | {element.tag for element in manifest if element.tag == "uses-sdk"},
        "levels": {key for element in manifest.iter("uses-sdk") for key in element.attrib},
        "rules": {line.split()[0] for line in parts.get("proguard.txt", b"").decode().splitlines() if line[:1] == "-"},
        "sources": {
            Path(name).suffix
            for name, text in packages.items()
            if f"package {Path(name).parent.as_posix().replace('/', '.')}" in text.decode()
        },
    }


def jar_and_sources(repository: Path, coordinates: str, directory: Path) -> tuple[dict[str, bytes], set[str], set[str]]:
    """The entries of a library's jar of classes, the files that these were compiled from, and the published sources."""
    home_of, stem = home(repository, coordinates)
    jar = directory / "classes.jar"
    jar.write_bytes(unpacked(home_of / f"{stem}.aar")["classes.jar"])
    entries = unpacked(jar)
    names = [name.removesuffix(".class") for name in entries if name.endswith(".class")]
    said = subprocess.check_output(["javap", *QUICK, "-private", "-cp", jar, *names], text=True)
    compiled = re.findall(r'^Compiled from "(.*)"\n(?:.* )?(?:class|interface) ([\w.$]+)', said, re.M)
    assert len(compiled) == len(names)
    sources = {"/".join([*name.split(".")[:-1], file]) for file, name in compiled}
    return entries, sources, set(unpacked(home_of / f"{stem}-sources.jar"))


@pytest.fixture(scope="module")
def classes() -> Path:
    """Of the library; made before `tools`, among which is another javac."""
    return build_library().classes


@pytest.mark.needs("npm", "javac")
def test_all_classes_are_there_with_their_sources_as_in_a_published_library(classes, tools, tmp_path):
    """All that javac and kotlinc make of the library, for the Java that the published one is for, or an older one."""
    made = {file.relative_to(classes).as_posix(): file.read_bytes() for file in classes.rglob("*") if file.is_file()}
    (tools.root / "edge.aar").write_bytes(gradles(**{"classes.jar": packed(made)}))
    engine = said("bundle", "--engine", "-o", tmp_path / "maven")["engine"]
    ours, compiled, sources = jar_and_sources(tmp_path / "maven", engine, tmp_path)
    package = "expo-task-manager@58.0.4"
    theirs, theirs_compiled, theirs_sources = jar_and_sources(
        published_repository(package), PUBLISHED[package], tmp_path
    )
    assert ours == made and compiled <= sources
    assert theirs_compiled & theirs_sources, "the others are copies of another library's inline functions"
    versions = [
        {content[7] for name, content in jar.items() if name.endswith(".class")} for jar in (ours, theirs)
    ]  # major versions of class files
    assert max(versions[0]) <= max(versions[1])
    modules = [[name for name in jar if re.fullmatch(r"META-INF/.*\.kotlin_module", name)] for jar in (ours, theirs)]
    assert [len(each) for each in modules] == [1, 1], "with which Kotlin finds functions outside classes"


@pytest.mark.needs("npm", "clang-19", "ld.lld-19")
def test_modules_are_laid_out_as_published_ones(tools, tmp_path):
    """One published module has native libraries, the other rules for R8; both are Kotlin."""
    maven = tmp_path / "maven"
    engine = said("bundle", "--engine", "-o", maven)["engine"]
    model = said("bundle", make_dist(tmp_path / "tiny"), "--aar", "-o", maven)["models"][0]["coordinates"]
    published = [layout(published_repository(package), name) for package, name in PUBLISHED.items()]
    common = {kind: published[0][kind] & published[1][kind] for kind in published[0]}
    known = {kind: published[0][kind] | published[1][kind] for kind in published[0]}
    known["parts"] |= {"libs/", "assets/"}  # https://developer.android.com/studio/projects/android-library#aar-contents
    for coordinates in (engine, model):
        ours = layout(maven, coordinates)
        assert ours["files"] >= {".aar", ".pom"} and ours["files"] <= known["files"]
        assert {f"{name}.{kind}" for name in (".aar", ".pom") for kind in ("md5", "sha1", "sha256")} <= ours["files"]
        assert ours["pom"] <= known["pom"] and ours["dependency"] <= known["dependency"]
        assert ours["metadata"] <= known["metadata"] and ours["metadata"] >= common["metadata"] - {"lastUpdated"}
        assert common["parts"] - {"META-INF/"} <= ours["parts"] <= known["parts"]
        assert not any(part.startswith("prefab") for part in ours["parts"])  # headers, for an app's own C++
        assert {each for each in ours["native"] if "x86_64" not in each} == {"jni/arm64-v8a/lib*.so"} <= known["native"]
        assert common["manifest"] <= ours["manifest"] and ours["levels"] == common["levels"]
    assert layout(maven, engine)["rules"] and layout(maven, engine)["rules"] >= known["rules"]
    assert layout(maven, engine)["sources"] == {".java", ".kt"} and ".kt" in common["sources"]
