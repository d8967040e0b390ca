"""The Android project that `bundle` writes: what can be known of it without an SDK, Gradle and a phone."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edge_transact.benchmarking.drivers.host import parse_cores
from edge_transact.benchmarking.portable import _library
from edge_transact.bundling.models import AppModel
from edge_transact.doctor.android import JDK_MAJOR, NDK_PACKAGE
from tests.support.android_api import ApiClass, install_api, level_of, read_api
from tests.support.android_app import (
    FAKES,
    TVM_FFI,
    Programs,
    compile_fakes,
    endings,
    jni_headers,
    run_app,
    weights_of_pack,
)
from tests.support.android_project import ROOT, WARNINGS, Compiled, javac, link_resources, merged_manifest, render
from tests.support.bionic import lacks, read, tvm_runtime
from tests.support.class_files import read_classes
from tests.support.compiled_project import compile_project
from tests.support.json_ffi.fields import GOLDEN
from tests.support.kotlin import LIBRARY, kotlin, kotlinc
from tests.support.patience import HANG_S

pytestmark = pytest.mark.slow

ANDROID = "{http://schemas.android.com/apk/res/android}"
# AGP: the Gradle that it needs at least, its highest API level, its default NDK and the JDK that it needs
# (developer.android.com/build/releases, "Compatibility" of each version's release notes, read in November 2026).
AGP = {
    "9.1": ("9.3.1", 36, "28.2.13676358", 17),
    "9.2": ("9.4.1", 36, "28.2.13676358", 17),
    "9.3": ("9.5.0", 37, "28.2.13676358", 17),
    "9.4": ("9.6.0", 37, "28.2.13676358", 17),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def api() -> dict[str, ApiClass]:
    return read_api(install_api())


FAULTS = {
    "getWindow().addFlag(1);": "cannot find symbol",
    "getSystemService(android.app.ActivityManager.class).getMemoryInfo();": "cannot be applied to given types",
    "String title = getTitle();": "CharSequence cannot be converted to String",
    "getResources().getColor(1);": "has been deprecated",
    "setTitle(R.string.nothing);": "cannot find symbol",
    "org.apache.tvm.Function.getFunction(1);": "int cannot be converted to String",
    "org.apache.tvm.Device.metal();": "cannot find symbol",
}
"""Lines of an activity, and what javac says to them."""


KOTLIN_FAULTS = {
    "internal fun one() { window.addFlag(1) }": "unresolved reference 'addFlag'",
    "internal fun two() { packageManager.getPackageInfo(packageName) }": "no value passed",
    "internal fun three(): String = title": "expected 'String', actual 'CharSequence!'",
    "internal fun four(): String = filesDir?.name": "expected 'String', actual 'String?'",
    "internal fun five() { org.apache.tvm.Device.metal() }": "unresolved reference 'metal'",
    "internal fun six(usage: edgetransact.edge.Usage): Double = usage.decodeTokensPerSecond()": "actual 'Double?'",
    "fun seven() {}": "visibility must be specified",
}
"""Lines of an activity in Kotlin, and what kotlinc says to them."""


@pytest.fixture(scope="module")
def kotlin_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class with a fault in each line from the third on."""
    source = tmp_path_factory.mktemp("kotlin") / "Faults.kt"
    head = ["package edgetransact.app", "public class Faults : android.app.Activity() {"]
    source.write_text("\n".join([*head, *KOTLIN_FAULTS, "}"]))
    return source


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class with a fault in each line from the fourth on."""
    source = tmp_path_factory.mktemp("faults") / "Faults.java"
    head = ["package edgetransact.app;", "class Faults extends android.app.Activity {", "void all() {"]
    source.write_text("\n".join([*head, *FAULTS, "}", "}"]))
    return source


@pytest.fixture(scope="module")
def compiled(project, api, faults, kotlin_faults, tmp_path_factory) -> Compiled:
    """All Java and Kotlin of the project as classes, with the classes that it was compiled against."""
    return compile_project(project, api, tmp_path_factory.mktemp("compiled"), [faults, kotlin_faults, *kotlin(FAKES)])


@pytest.mark.needs("javac", "npm")
def test_all_code_compiles_without_a_warning_against_androids_api_and_tvm4js(compiled):
    """And the manifest links with the resources."""
    assert (compiled.resources / "app.apk").is_file()
    names = {file.stem for file in compiled.classes.rglob("*.class")}
    assert {"ChatActivity", "BenchActivity", "MlcEngine", "Edge", "Session"} <= names


@pytest.mark.needs("javac", "npm")
def test_what_android_does_not_have_does_not_compile(compiled, faults, tmp_path):
    done = javac([faults], [*compiled.classpath, compiled.classes], tmp_path / "classes", *WARNINGS)
    found = {int(line): text for line, text in re.findall(r"Faults\.java:(\d+): (.*)", done.stderr)}
    for number, (fault, words) in enumerate(FAULTS.items(), 4):
        assert words in found.get(number, ""), (fault, done.stderr)


@pytest.mark.needs("java", "npm")
def test_nor_does_it_in_kotlin(compiled, kotlin_faults, tmp_path):
    done = kotlinc([kotlin_faults], [compiled.classes, *compiled.classpath], tmp_path / "classes", *LIBRARY)
    found = {int(line): text for line, text in re.findall(r"Faults\.kt:(\d+):\d+: error: (.*)", done.stderr)}
    for number, (fault, words) in enumerate(KOTLIN_FAULTS.items(), 3):
        assert words in found.get(number, ""), (fault, done.stderr)


# What older phones ignore, and do without.
NEWER_ATTRIBUTES = {
    "accessibilityHeading", "dataExtractionRules", "showWhenLocked", "turnScreenOn", "windowLightNavigationBar",
}  # fmt: skip


@pytest.mark.needs("npm")
def test_phones_of_the_oldest_level_know_the_attributes_of_views(project, api):
    text = "\n".join(file.read_text() for file in project.rglob("*.xml"))
    used = set(re.findall(r"\bandroid:(\w+)=", text)) | set(re.findall(r'name="android:(\w+)"', text))
    minimum = int(versions()["minSdk"])
    assert {name for name in used if level_of(api, "android.R.attr", name) > minimum} == NEWER_ATTRIBUTES


BESIDES = ("org.apache.tvm.", "kotlin.", "kotlinx.coroutines.", "java.util.function.")
"""What the app calls and brings with it, and what Android has since level 24 though its list of classes lacks it."""


@pytest.mark.needs("javac", "npm")
def test_phones_of_the_oldest_level_have_everything_that_the_code_calls(compiled, api):
    minimum = int(versions()["minSdk"])
    classes = {found.name: found for found in read_classes(compiled.classes)}
    newer = set()
    for found in classes.values():
        for use, level in found.uses:
            owner = use.owner
            while owner in classes and use.member and (use.member, use.parameters) not in classes[owner].declared:
                owner = classes[owner].above
            if owner not in classes and not owner.startswith(BESIDES):
                since = level_of(api, owner, use.member, use.parameters)
                assert since <= max(minimum, level), f"{found.name}: {use} is there since level {since}"
                newer |= {owner} if since > minimum else set()
    views = {"android.graphics.Insets", "android.view.WindowInsets", "android.view.WindowInsets.Type"}
    ends = {"android.app.ActivityManager", "android.app.ApplicationExitInfo"}
    assert newer == {*views, *ends, "android.os.Build"}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("res/layout/chat.xml", "@string/send", "@string/sent"),
        ("res/layout/chat.xml", "android:transcriptMode", "android:transcript"),
        ("res/values/themes.xml", "Theme.Material.Light", "Theme.Material.Bright"),
        ("AndroidManifest.xml", "android:exported", "android:export"),
        ("AndroidManifest.xml", "@mipmap/ic_launcher", "@mipmap/icon"),
    ],
)
def test_a_name_that_is_not_there_does_not_link(tmp_path, file, old, new):
    project = render(tmp_path / "project")
    path = project / "app" / "src" / "main" / file
    path.write_text(path.read_text().replace(old, new))
    done = link_resources(project, tmp_path / "resources")
    assert done.returncode != 0 and new.rpartition("/")[2].rpartition(":")[2] in done.stderr


def versions() -> dict[str, str]:
    return tomllib.loads((ROOT / "templates" / "android" / "gradle" / "libs.versions.toml").read_text())["versions"]


def test_the_versions_fit_together(project):
    listed = versions()
    gradle, level, ndk, jdk = AGP[listed["agp"].rpartition(".")[0]]
    wrapper = (project / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text()
    assert f"gradle-{gradle}-bin.zip" in wrapper and re.search(r"^distributionSha256Sum=[0-9a-f]{64}$", wrapper, re.M)
    assert int(listed["compileSdk"]) <= level and int(listed["targetSdk"]) == int(listed["compileSdk"]) >= 35
    assert listed["minSdk"] == "26"
    assert listed["ndk"] == ndk and f"ndk;{ndk}" == NDK_PACKAGE
    assert jdk == JDK_MAJOR


@pytest.mark.needs("java", "groovy")
def test_gradles_files_are_groovy_and_take_every_version_from_one_file(project, tmp_path):
    packed = render(tmp_path / "packed", models=[model("pack"), model("fast-follow")])
    files = sorted(path for of in (project, packed) for path in of.rglob("*.gradle"))
    broken = tmp_path / "broken.gradle"
    broken.write_text((project / "edge" / "build.gradle").read_text().replace("}", "", 1))
    classpath = ":".join(f"/usr/share/java/{name}.jar" for name in ("groovy-all", "antlr", "asm"))
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", classpath, str(ROOT / "tests/bundling/GroovyParser.java")]
    done = subprocess.run([*command, *map(str, files), str(broken)], capture_output=True, text=True, timeout=HANG_S)
    assert re.findall(r"(\S+): \d+: ", done.stdout) == [str(broken)], done.stdout + done.stderr
    for file in files:
        text = file.read_text()
        assert set(re.findall(r"libs\.versions\.(\w+)", text)) <= versions().keys()
        assert not re.search(r"(Sdk|ndkVersion|version) *=? *['\"\d]", text), file
    included = [(of / "settings.gradle").read_text().rstrip().rpartition("\n")[2] for of in (project, packed)]
    assert included == ["include ':edge', ':app'", "include ':edge', ':app', ':model_pack', ':model_fast_follow'"]


def model(weights: str) -> AppModel:
    """A model whose weights get to phones in this way, which is its id."""
    return AppModel(
        id=weights, name=weights, digest="0" * 64, libraries={}, memory_bytes={}, tuned={}, context_window_size=1,
        prefill_chunk_size=1, weights=weights, files=[], url="https://example.org/x" if weights == "download" else None,
        pack=f"model_{weights.replace('-', '_')}" if weights in ("pack", "fast-follow") else None,
    )  # fmt: skip


def test_an_app_with_asset_packs_names_them_to_gradle(tmp_path):
    packed = render(tmp_path / "packed", models=[model("pack"), model("fast-follow")])
    app = (packed / "app/build.gradle").read_text()
    assert re.findall(r"assetPacks\.add\('(.*)'\)", app) == [":model_pack", ":model_fast_follow"]
    assert "implementation(libs.play.asset.delivery)" in app
    for name, delivery in (("model_pack", "install-time"), ("model_fast_follow", "fast-follow")):
        text = (packed / name / "build.gradle").read_text()
        assert f"packName = '{name}'" in text and f"deliveryType = '{delivery}'" in text
    for kind in ("assets", "pack", "install"):
        assert "asset.delivery" not in (render(tmp_path / kind, models=[model(kind)]) / "app/build.gradle").read_text()


def test_only_a_download_asks_for_the_network(tmp_path):
    asked = {}
    for kind in ("assets", "pack", "fast-follow", "install", "download"):
        manifest = ElementTree.parse(render(tmp_path / kind, models=[model(kind)]) / "app/src/main/AndroidManifest.xml")
        asked[kind] = [element.get(f"{ANDROID}name") for element in manifest.iter("uses-permission")]
    assert asked.pop("download") == ["android.permission.INTERNET"] and not any(asked.values())


def test_opencl_is_opened_by_the_names_that_the_manifest_lists(project):
    libraries = ElementTree.fromstring(merged_manifest(project)).findall("application/uses-native-library")
    listed = {library.get(ANDROID + "name") for library in libraries}
    facts = (project / "edge/src/main/java/edgetransact/edge/android/PhoneFacts.java").read_text()
    opened = re.search(r"OPENCL = \{(.*)\}", facts)
    assert opened and listed == {f"lib{name}.so" for name in re.findall(r'"(.*?)"', opened[1])}
    assert all(library.get(ANDROID + "required") == "false" for library in libraries)


def test_the_engine_is_called_by_the_names_that_mlc_gives_its_functions(project):
    """All but the last error, which every failed call raises, and a reset: a conversation begins with its messages."""
    engine = (project / "edge/src/main/java/edgetransact/edge/android/MlcEngine.java").read_text()
    called = set(re.findall(r'(?:function|start|call)\("(\w+)"', engine))
    assert called == set(json.loads(GOLDEN.read_text())["functions"]) - {"get_last_error", "reset"}


@pytest.fixture(scope="module")
def classpath(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return compile_fakes(compiled, tmp_path_factory.mktemp("fakes"))


@pytest.fixture(scope="module")
def told(classpath: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return run_app(classpath, tmp_path_factory.mktemp("phone"))


TOLD = {
    "the app loads a model, after the library that a module brings": ("loaded", "good CPU true"),
    "it shows the answer, what it took, and that it ended": ("answered", "one-two-three STOP 3 12.5 true STOP"),
    "and says so": ("said", "The-answer-is-complete. 3-tokens,-12.5-tokens/s,-the-first-after-some"),
    "and what memory the app takes": ("memory", "100"),
    "a conversation goes on, whose tokens are counted": ("counted", "true"),
    "another screen goes on with the answer and loads nothing": ("turned", "4 true loads 1"),
    "a stopped answer stays": ("stopped", "true STOPPED Stopped. true"),
    "tokens that come faster than frames are shown once a frame": ("frames", "10 1000"),
    "the last message is answered again in place": ("regenerated", "4 true"),
    "a model sees all that stands there": ("recalled", "true true"),
    "a new chat is empty, and the others are kept": ("new", "0 1"),
    "a model hears the system prompt of the settings": ("told", "system-Be-brief.,-user-recall"),
    "chats are listed, the last one first": ("chats", "recall-+-one-two-three"),
    "an older chat is opened again": ("opened", "6 one-two-three null"),
    "another model ends the answer": ("interrupted", "STOPPED null"),
    "the last model chosen is loaded alone": ("chosen", "other one loaded 1"),
    "a model that cannot be loaded leaves none in memory": ("broken", "ENGINE_FAILED no-such-parameter loaded 0"),
    "nothing is sent without a model": ("refused", "false false"),
    "a model that is too large is not loaded": ("small", f"TOO_LITTLE_MEMORY {2 << 30} {1 << 29}"),
    "unless its user goes on all the same": ("anyway", "null loaded 1"),
    "or why there is none, or no more": (
        "ends",
        "No. Cut-off:-the-model's-context-is-full. Cut-off-at-3-tokens,-as-the-settings-say.",
    ),
    "an engine that ends is read out": ("failed", "The-engine-stopped.-Try-again.-(Check-failed:-num_rsentries->-0)"),
    "an engine that ends says why": ("died", "ENGINE_FAILED null ENGINE_FAILED Check-failed:-num_rsentries->-0"),
    "it can be loaded again, and the chat stays": ("loaded again", "null loaded 1 ENGINE_FAILED"),
    "a message without an answer is sent again": ("asked again", "ENGINE_FAILED 0"),
    "an engine whose loops both ended is closed": ("died twice", "null loaded 1"),
    "an error of Java's own is shown": ("no memory", "ENGINE_FAILED java.lang.OutOfMemoryError:-Java-heap-space"),
    "memory that Android wants is given back until the app is seen again": ("released", "loaded 1 100"),
    "and is not, of a user who is back before that": ("seen", "loaded 1"),
    "a chat that was deleted is not opened": ("deleted", "0 1"),
    "and goes from the screen": ("gone", "1"),
    "a chat goes on where it cannot be kept": ("storage", "kept-again"),
    "the settings' device is followed": (
        "gpu",
        "NO_LIBRARY good-isn't-built-for-GPUs.-Let-it-run-on-the-CPU-in-the-settings,-or-choose-another-model.",
    ),
    "a GPU that fails gives way to the CPU": ("gave way", "CPU GPU_FAILED"),
    "and is tried again when its user wants that": ("retried", "GPU_FAILED"),
    "a GPU that ended the app is not loaded though it is wanted": ("ended", "GPU_FAILED"),
    "until its user wants that again": ("ended and retried", "ENGINE_FAILED"),
    "another activity goes on with the chat": ("began again", "[say-it,-say-it] loaded 1"),
    "what was chosen while the app starts again is kept": ("result", "2 true"),
    "chats and settings outlive the app, and a part of an answer too": ("restored", "4 STOPPED true Be-brief. good"),
    "the model goes on from them": ("goes on", "true"),
    "a benchmark frees the model first and ends even if its name is none": ("bench", "Unloaded loaded 0 killed 0"),
    "a benchmark that never began says so": ("skipped", "true"),
    "a benchmark that cannot write its last line ends the process": ("full", "killed 1"),
    "and one that finds no models": ("no models", "killed 2"),
}


@pytest.mark.parametrize("demand", TOLD)
def test_what_the_app_does(told, demand):
    step, words = TOLD[demand]
    assert [word.replace(" ", "-") for word in told[step]] == words.split()


def test_a_benchmark_that_opening_the_app_interrupts_says_so_in_its_last_line(told):
    """The line begins on its own, even if the one before it was cut off."""
    assert told["interrupted benchmark"][:4] == ["loaded", "1", "killed", "0"]
    *_, loaded, empty, last = told["interrupted benchmark"]
    assert json.loads(loaded)["kind"] == "load" and empty == ""
    why = "interrupted: the app was opened, or its benchmark was left"
    assert json.loads(last) == {"run": "run-1", "kind": "error", "message": why}


@pytest.mark.parametrize("level", [29, 30])
def test_android_says_how_an_earlier_process_ended(classpath, level):
    ends = {
        "5,11,100": "CRASHED",  # natively, in front
        "4,0,100": "CRASHED",
        "6,0,100": "CRASHED",
        "1,0,100": "CRASHED",
        "2,11,100": "CRASHED",
        "3,0,100": "LACKED_MEMORY",
        "2,9,200": "LACKED_MEMORY",  # where Android can't tell memory from other reasons
        "3,0,400": "OTHERWISE",  # nobody saw it
        "10,0,100": "OTHERWISE",  # its user ended it
        "16,0,100": "OTHERWISE",  # it was updated
    }
    known = list(ends.values()) if level >= 30 else ["CRASHED"] * len(ends)
    assert endings(classpath, level, *ends) == [*known, "CRASHED"]


@pytest.fixture(scope="module")
def programs(project: Path, classpath: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs.build(project, classpath, tmp_path_factory.mktemp("programs"))


NATIVE = pytest.mark.needs("javac", "npm", "cmake", "ninja", "gcc")


@NATIVE
def test_compiled_opencl_programs_are_kept_byte_for_byte_until_the_app_is_updated(programs, tmp_path):
    assert programs.start(tmp_path).stdout == "compiled\n"
    (kept,) = tmp_path.glob("programs/fake-library.*")
    assert programs.start(tmp_path).stdout == "restored\n"
    assert programs.start(tmp_path, installed=1).stdout == "compiled\n"
    assert not kept.exists() and len(list(tmp_path.glob("programs/*"))) == 1


@NATIVE
def test_programs_that_the_driver_refuses_are_removed_and_java_hears_why(programs, tmp_path):
    programs.start(tmp_path)
    done = programs.start(tmp_path, FAKE_DRIVER="refuses")
    assert "RuntimeException" in done.stderr and "CL_INVALID_BINARY" in done.stderr
    assert not list(tmp_path.glob("programs/*"))


@NATIVE
def test_programs_at_which_the_driver_crashed_are_compiled_at_the_next_start(programs, tmp_path):
    programs.start(tmp_path)
    assert programs.start(tmp_path, FAKE_DRIVER="crashes").returncode == 139
    assert programs.start(tmp_path, FAKE_DRIVER="crashes").stdout == "compiled\n"
    assert programs.start(tmp_path).stdout == "restored\n"


@NATIVE
@pytest.mark.parametrize(("fails", "heard"), [("characters", []), ("class", ["no class"])])
def test_the_native_library_survives_a_java_vm_without_memory(programs, fails, heard):
    done = programs.without_memory(fails)
    assert (done.returncode, done.stdout.splitlines()) == (0, [*heard, "Java hears of it"])


@NATIVE
def test_an_engine_runs_on_the_cores_that_were_found_best_and_nothing_else_does(programs):
    usable = sorted(os.sched_getaffinity(0))
    done = programs.on_core(usable[-1])
    first, second = (line.split()[1] for line in done.stdout.splitlines())
    assert (parse_cores(first), parse_cores(second)) == ([usable[-1]], usable), done.stderr


@NATIVE
@pytest.mark.needs("readelf")
def test_the_native_library_needs_only_tvms_c_interface_and_runs_on_pages_of_16_kb(programs):
    found = read(programs.library)
    undefined = [name for name in found.undefined if "tvm" in name.lower()]
    assert undefined and all(name.startswith("TVMFFI") for name in undefined)
    # In place of MLC's engine the library that has its part of it, and this machine's C and C++ for the NDK's.
    assert "libtvm_ffi.so" in found.needed
    others = {name: replace(read(_library("g++", name)), needed=()) for name in found.needed if name != "libtvm_ffi.so"}
    assert lacks(programs.library, {"libtvm_ffi.so": tvm_runtime(), **others}) == []
    segments = subprocess.check_output(["readelf", "-lW", programs.library], text=True)
    assert set(re.findall(r"LOAD.* (0x\d+)$", segments, re.M)) == {"0x4000"}


@pytest.mark.needs("aarch64-linux-gnu-g++")
def test_the_native_library_compiles_for_arm64(project):
    include = [f"-isystem{TVM_FFI / 'include'}", *(f"-I{path}" for path in jni_headers())]
    source = project / "edge" / "src" / "main" / "cpp" / "jni.cc"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    done = subprocess.run(["aarch64-linux-gnu-g++", *flags, *include, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("java", "javac", "npm")
def test_a_pack_that_google_play_brings_later_is_asked_for_and_used_where_it_is(classpath, tmp_path):
    """Play's library is a stand-in with the names of its reference; an app without it has no pack."""
    fakes, *others = classpath
    without = Path(shutil.copytree(fakes, tmp_path / "without", ignore=shutil.ignore_patterns("google")))
    assert weights_of_pack([without, *others], tmp_path) == ["WEIGHTS_MISSING model_good"]
    assert weights_of_pack(classpath, tmp_path) == ["fetch [model_good]", "WEIGHTS_MISSING model_good"]
    delivered = tmp_path / "cache/packs/model_good/assets/edge/good"
    shutil.copytree(tmp_path / "model/good", delivered)
    assert weights_of_pack(classpath, tmp_path) == [str(delivered)]
    # The rules for R8 keep what is found by name.
    rules = (ROOT / "templates/android/edge/consumer-rules.pro").read_text()
    files = (ROOT / "templates/android/edge/src/main/java/edgetransact/edge/android/AppFiles.java").read_text()
    used = set(re.findall(r'PLAY \+ "(\w+)"', files))
    assert used == set(re.findall(r"-keep class com\.google\.android\.play\.core\.assetpacks\.(\w+) ", rules))
