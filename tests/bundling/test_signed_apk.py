"""A signed release of the sample app with a model's module, as Android's own tools and `verify` see it."""

import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_transact.benchmarking.drivers.app import ACTION
from edge_transact.bundling.aar import bundle_modules
from edge_transact.bundling.apk import examine_apk
from edge_transact.verification import verify
from tests.support.android_api import install_api, read_api
from tests.support.android_app import FAKES, Programs, compile_fakes, run_app
from tests.support.android_project import APPLICATION_ID, aapt2, java, javac, render
from tests.support.class_files import read_classes
from tests.support.compiled_project import compile_project
from tests.support.kotlin import kotlin
from tests.support.patience import HANG_S
from tests.support.signed_apk import ABI, ENGINE, TOOLS, Member, dex, libraries, mlc, read_dex, shrink, sign, symbols

PROGRAMS = f"{ABI}/libedge_programs.so"

pytestmark = [
    pytest.mark.soak,
    pytest.mark.needs(*TOOLS, "aarch64-linux-gnu-g++", "clang-19", "cmake", "javac", "llvm-strip-19", "ninja", "npm"),
]

PLAY = FAKES / "com" / "google"
"""Google Play's library for asset packs, or what the app calls of it."""


class App(NamedTuple):
    """An APK, and what it was made of."""

    apk: Path
    project: Path
    classes: Path
    members: set[Member]
    libraries: dict[str, Path]


@pytest.fixture(scope="module")
def app(built_dist, tmp_path_factory) -> App:
    directory = tmp_path_factory.mktemp("signed")
    project = render(directory / "project")
    compiled = compile_project(project, read_api(install_api()), directory / "compiled", build="release")
    play = directory / "play"
    done = javac(java(PLAY), compiled.classpath, play)
    assert done.returncode == 0, done.stderr
    code = dex(shrink(project, compiled, [play, mlc() / "tvm4j_core.jar"], directory / "shrunk"))
    native = libraries(project, directory / "native")
    files = {"classes.dex": code, **native, **module(built_dist, directory / "module")}
    apk = sign(compiled.resources / "app.apk", files, directory / "app.apk")
    return App(apk, project, compiled.classes, read_dex(code), native)


def module(dist: Path, directory: Path) -> dict[str, Path]:
    """The files of a model's module by their names in an APK."""
    bundle_modules([dist], directory / "maven")
    (aar,) = (directory / "maven").rglob("*.aar")
    with zipfile.ZipFile(aar) as archive:
        archive.extractall(directory)
    names = [path.relative_to(directory) for part in ("jni", "assets") for path in (directory / part).rglob("*.*")]
    return {re.sub("^jni/", "lib/", name.as_posix()): directory / name for name in names}


def said(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=HANG_S).stdout


def test_its_signatures_are_those_of_android_7_and_9(app):
    found = dict(re.findall(r"Verified using (\w+) scheme .*: (\w+)", said("apksigner", "verify", "-v", app.apk)))
    assert (found["v2"], found["v3"]) == ("true", "true")
    # An installer refuses a library that isn't aligned, and resources since Android 11.
    said("zipalign", "-c", "-p", "4", app.apk)
    damaged = app.apk.with_name("damaged.apk")
    content = bytearray(app.apk.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert subprocess.run(["apksigner", "verify", str(damaged)], capture_output=True).returncode != 0


def test_android_reads_what_the_project_says(app):
    badging = said(aapt2(), "dump", "badging", app.apk)
    assert f"package: name='{APPLICATION_ID}' versionCode='7' versionName='1.2 $beta'" in badging
    assert "\nsdkVersion:'26'\ntargetSdkVersion:'36'\n" in badging and "\nnative-code: 'arm64-v8a'" in badging
    (launched,) = re.findall(r"launchable-activity: name='([\w.]+)'", badging)
    tree = said(aapt2(), "dump", "xmltree", "--file", "AndroidManifest.xml", app.apk)
    activities = re.findall(r"E: activity .*\n +A: .*:name\(.*\)=\"([\w.]+)\"", tree)
    assert launched in activities and f'"{ACTION}"' not in tree and tree.count("exported(0x01010010)=true") == 1
    for name in activities:
        assert Member(name.replace(".", "/"), "onCreate", "(Landroid/os/Bundle;)V", False) in app.members
    assert "uses-permission" not in badging


def test_verify_passes_it_and_refuses_one_that_lacks_something(app, tmp_path):
    assert [check.name for check in verify(app.apk) if not check.ok] == []
    (models,) = (check.found for check in examine_apk(app.apk) if check.name == "models")
    assert models.startswith("dist (")
    for name, check, found in [
        ("classes.dex", "code", "no classes.dex"),
        ("AndroidManifest.xml", "code", "no AndroidManifest.xml"),
        (PROGRAMS, "abi", f"no {PROGRAMS}"),
        (f"{ABI}/{ENGINE}", "abi", f"no {ABI}/{ENGINE}"),
        (f"{ABI}/lib*-cpu.so", "libraries", f"neither in {ENGINE} nor in libraries of their own"),
        ("assets/edge/*/params_shard_0.bin", "models", "dist/params_shard_0.bin is missing"),
    ]:
        spoiled = Path(shutil.copy(app.apk, tmp_path))
        said("zip", "-d", spoiled, name)
        assert found in wrong(spoiled)[check], name


def test_verify_tells_the_libraries_of_emulators_and_of_other_machines(app, tmp_path):
    x86 = Programs.build(app.project, [], tmp_path).library
    for name, found in [
        ("lib/x86_64/libedge_programs.so", f"no lib/x86_64/{ENGINE}"),
        ("lib/arm64-v8a/libother.so", "not for arm64-v8a or x86_64: lib/arm64-v8a/libother.so"),
        ("lib/armeabi-v7a/libother.so", "not for arm64-v8a or x86_64: lib/armeabi-v7a/libother.so"),
    ]:
        spoiled = Path(shutil.copy(app.apk, tmp_path))
        with zipfile.ZipFile(spoiled, "a") as archive:
            archive.write(x86, name, zipfile.ZIP_DEFLATED)
        assert wrong(spoiled)["abi"] == found


def wrong(apk: Path) -> dict[str, str]:
    """What `verify` finds where a check fails."""
    return {check.name: check.found for check in examine_apk(apk) if not check.ok}


def test_what_native_code_calls_by_name_is_still_there(app):
    """After the project's rules alone have told what to keep: all that isn't kept has other names."""
    short = {member.owner for member in app.members if re.fullmatch(r"edgetransact/\w+/(\w+/)?\w{1,2}", member.owner)}
    assert len(short) > 20
    methods = {f"Java_{m.owner.replace('/', '_')}_{m.name}" for m in app.members if m.native}
    programs, engine = ({name for name in symbols(app.libraries[each]) if name.startswith("Java_")}
                        for each in (PROGRAMS, f"{ABI}/{ENGINE}"))  # fmt: skip
    assert len(engine) > 20 and engine <= methods
    assert programs == {name for name in methods if "edgetransact" in name}


def test_what_the_engine_asks_for_of_tvm4j_is_still_there(app, tmp_path):
    engine = app.libraries[f"{ABI}/{ENGINE}"].read_bytes()
    with zipfile.ZipFile(mlc() / "tvm4j_core.jar") as jar:
        jar.extractall(tmp_path)
    given = {found.name: {name for name, _ in found.declared} for found in read_classes(tmp_path)}
    kept: dict[str, set[str]] = {}
    for member in app.members:
        kept.setdefault(re.sub(r"[/$]", ".", member.owner), set()).add(member.name)
    strings = {text.decode() for text in re.findall(rb"(?<=\0)[\w/$;()\[]*org/apache/tvm/[\w/$;()\[]+(?=\0)", engine)}
    asked = {name for text in strings if (name := re.sub(r"[/$]", ".", text)) in given}
    assert {f"org.apache.tvm.{name}" for name in ("Function", "Module", "TVMValueLong", "Base.RefLong")} <= asked
    # C++ makes their objects, and reads and sets their fields.
    assert {name: given[name] - kept.get(name, set()) for name in asked} == {name: set() for name in asked}
    # What it calls back.
    methods = {text for text in strings if text.startswith("(")}
    assert methods and methods <= {member.type for member in app.members if member.owner == "org/apache/tvm/Function"}


def test_google_plays_library_is_still_called_by_its_names(app):
    """By reflection, because an app without asset packs hasn't got it."""
    files = (app.project / "edge/src/main/java/edgetransact/edge/android/AppFiles.java").read_text()
    called = set(re.findall(r'getMethod\("(\w+)"', files))
    play = {member.name for member in app.members if member.owner.startswith("com/google/android/play/")}
    assert called and called <= play


def test_the_app_does_the_same_when_it_is_shrunk(tmp_path):
    """In a JVM, with stand-ins for what it calls of Android and tvm4j, which runs what ProGuard made of the app."""
    project = render(tmp_path / "project")
    compiled = compile_project(project, read_api(install_api()), tmp_path / "compiled", kotlin(FAKES))
    classpath = compile_fakes(compiled, tmp_path / "fakes")
    told = []
    # Where it begins, and what the test looks at by reflection.
    keep = [
        "-keep class edgetransact.app.AppMainKt { public static void main(java.lang.String[]); }",
        "-keep class edgetransact.app.R$* { *; }",
        "-keepclassmembers class edgetransact.app.ChatModel { *** conversation; }",
        "-dontwarn android.os.*",
    ]
    fakes = [classpath[0], classpath[-1]]
    shrunk = shrink(project, compiled, fakes, tmp_path / "shrunk", *keep)
    for name, path in (("phone", classpath), ("other", [shrunk, fakes[0], *compiled.classpath[:2]])):
        (tmp_path / name).mkdir()
        told.append(run_app(path, tmp_path / name))
        del told[-1]["interrupted benchmark"]  # it has times
    assert told[0] == told[1] and len(told[0]) > 30
