"""`bundle --aar`: models as libraries for Android in a Maven repository, which load into an engine by its name."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from elftools.elf.elffile import ELFFile

from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.drivers.adb.runner import start_of
from edge_transact.bundling import aar, maven
from edge_transact.compiler.archive import C_LIBRARIES, LIBRARY_SYMBOL
from edge_transact.compiler.targets import library_name, system_lib_prefix
from edge_transact.runtime.host import HostModel
from edge_transact.verification import verify
from edge_transact.version import __version__
from tests.support.bionic import lacks, tvm_runtime
from tests.support.command import run, said
from tests.support.dists import make_dist
from tests.support.interruption import KilledError
from tests.support.phone.runner import build_runner

pytestmark = pytest.mark.needs("clang-19", "ld.lld-19")

POM = "{http://maven.apache.org/POM/4.0.0}"


@pytest.fixture
def dist(tmp_path) -> Path:
    return make_dist(tmp_path / "tiny")


def everything(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def version_of(made: dict) -> str:
    (model,) = made["models"]
    return model["coordinates"].rpartition(":")[2]


def test_a_model_is_a_library_that_gradle_takes(dist, tmp_path):
    made = said("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "maven")
    assert (made["project"], made["package_config"]) == (str(tmp_path / "maven"), None)
    version, home = version_of(made), tmp_path / "maven/edgetransact/models/tiny"
    assert made["models"][0]["coordinates"] == f"edgetransact.models:tiny:{version}"
    assert re.fullmatch(rf"{re.escape(__version__)}-1-[0-9a-f]{{8}}", version)
    stem, kinds = home / version / f"tiny-{version}", ("md5", "sha1", "sha256")
    for path in (stem.with_name(f"{stem.name}.aar"), stem.with_name(f"{stem.name}.pom"), home / "maven-metadata.xml"):
        for kind in kinds:
            assert Path(f"{path}.{kind}").read_text() == hashlib.new(kind, path.read_bytes()).hexdigest()
    pom = ElementTree.parse(f"{stem}.pom").getroot()
    found = {name: pom.findtext(POM + name) for name in ("groupId", "artifactId", "version", "packaging")}
    assert found == {
        "groupId": "edgetransact.models", "artifactId": "tiny", "version": version, "packaging": "aar"
    }  # fmt: skip
    assert pom.findtext(f"{POM}name") == "tiny" and pom.find(f"{POM}licenses") is None
    with zipfile.ZipFile(f"{stem}.aar") as archive:
        assert archive.testzip() is None and {each.compress_type for each in archive.infolist()} == {zipfile.ZIP_STORED}
        names, libraries = archive.namelist(), made["models"][0]["libraries"]
        assert names == sorted(names)
        assert {"AndroidManifest.xml", "classes.jar", "R.txt"} <= {*names}
        assert {name for name in names if name.startswith("jni/")} == {
            f"jni/arm64-v8a/lib{name}.so" for name in libraries.values()
        }
        (model,) = json.loads(archive.read("assets/edge/tiny/models.json"))["models"]
        assert (model["id"], model["weights"]) == ("tiny", "assets")
        for file in model["files"]:
            content = archive.read(f"assets/edge/tiny/{file['path']}")
            assert (
                hashlib.sha256(content).hexdigest() == file["sha256"] and content == (dist / file["path"]).read_bytes()
            )
        manifest = ElementTree.fromstring(archive.read("AndroidManifest.xml"))
        assert manifest.get("package") == "edgetransact.models.m_tiny"
        (tmp_path / "classes.jar").write_bytes(archive.read("classes.jar"))
    assert zipfile.ZipFile(tmp_path / "classes.jar").namelist() == []


def test_a_models_terms_go_along(tmp_path):
    """Its licence by name in the POM, in full in the library, and what became of the model."""
    dist = make_dist(tmp_path / "tiny")
    (dist / "LICENSE").write_text("the terms")
    manifest = replace(Manifest.read(dist), source="org/tiny@abc", license="llama3.2")
    manifest.write(dist)
    coordinates = said("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "maven")["models"][0][
        "coordinates"
    ]
    (path,) = (tmp_path / "maven").rglob("*.aar")
    with zipfile.ZipFile(path) as archive:
        assert archive.read("META-INF/tiny/LICENSE") == archive.read("assets/edge/tiny/LICENSE") == b"the terms"
        notice = archive.read("META-INF/NOTICE").decode()
    assert "org/tiny@abc, under llama3.2; edge-transact" in notice and "q4f16_0" in notice
    pom = ElementTree.parse(path.with_suffix(".pom")).getroot()
    assert pom.findtext(f"{POM}licenses/{POM}license/{POM}name") == "llama3.2" and coordinates.endswith(path.stem[-8:])
    assert [each.text for each in pom.find(f"{POM}scm")] == ["https://huggingface.co/org/tiny", "abc"]


def test_models_alone_are_refused_where_no_engine_is(dist, tmp_path):
    result = run("bundle", dist, "--aar", "-o", tmp_path / "maven")
    said = result.stderr.replace("\n", " ")
    assert result.exit_code == 1 and "has no engine" in said and "bundle --engine -o" in said
    assert not result.stdout and not (tmp_path / "maven").exists()


def gradle_parts(version: str) -> list[tuple[bool, int | str]]:
    """How Gradle orders versions (docs.gradle.org, "Version ordering"): part by part, numbers above words."""
    parts = re.findall(r"\d+|[A-Za-z]+", version)
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in parts]


def test_gradle_takes_the_module_that_was_added_last(tmp_path):
    """Whatever its content's digest, and if an earlier content comes again."""
    added = []
    for digest in [*(f"{9 - index}{'a' * 7}" for index in range(9)), "f" * 8, "0" * 8, f"9{'a' * 7}"]:
        version = maven.next_version(tmp_path, "a.b", "c", digest)
        maven.add(tmp_path, [maven.Module("a.b", "c", version, {})])
        assert maven.next_version(tmp_path, "a.b", "c", digest) == version
        added.append(version)
    assert sorted(added, key=gradle_parts) == added and len({*added}) == 12
    assert maven.newest(tmp_path, "a.b", "c") == [f"a.b:c:{added[-1]}"]


@pytest.mark.parametrize(
    ("index", "why"),
    [
        ("<metadata>", "can't be read"),
        (None, "is a FIFO"),
        ("../../x", "has a version"),
        ("1:2", "has a version"),
        ("", "has a version"),
    ],
)
def test_an_index_that_a_stranger_wrote(dist, tmp_path, index, why):
    path = tmp_path / "maven/edgetransact/edge/maven-metadata.xml"
    path.parent.mkdir(parents=True)
    if index is None:
        os.mkfifo(path)
    else:
        version = f"<versioning><versions><version>{index}</version></versions></versioning>"
        path.write_text(index if index.startswith("<") else f"<metadata>{version}</metadata>")
    result = run("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "maven")
    assert result.exit_code == 1 and why in result.stderr.replace("\n", " ") and "bug" not in result.stderr


def test_a_library_for_emulators_goes_into_their_folder(tmp_path):
    dist = make_dist(tmp_path / "tiny", ["android", "android-cpu", "android-x86_64"])
    result = run("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "maven")
    assert "which takes an engine for x86_64 in this repository" in result.stderr.replace("\n", " ")
    (path,) = (tmp_path / "maven").rglob("*.aar")
    assert not any("x86_64" in name for name in zipfile.ZipFile(path).namelist())
    engines = {f"jni/{abi}/libtvm4j_runtime_packed.so": b"" for abi in ("arm64-v8a", "x86_64")}
    maven.add(tmp_path / "maven", [maven.Module("edgetransact", "edge", "1", engines)])
    coordinates = said("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "maven")["models"][0][
        "coordinates"
    ]
    (path,) = (tmp_path / "maven").rglob(f"tiny-{coordinates.split(':')[2]}.aar")
    name = library_name(Manifest.read(dist).model_lib, "android-x86_64")
    with zipfile.ZipFile(path) as archive:
        folders = [each.split("/")[1] for each in archive.namelist() if each.startswith("jni/")]
        elf = ELFFile(archive.open(f"jni/x86_64/lib{name}.so"))
        (model,) = json.loads(archive.read("assets/edge/tiny/models.json"))["models"]
        assert folders == ["arm64-v8a", "arm64-v8a", "x86_64"] and model["libraries"]["android-cpu"] == name
        assert elf["e_machine"] == "EM_X86_64"
        needed = [tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")]
        assert needed == ["libtvm4j_runtime_packed.so", *C_LIBRARIES]
    gpu = run(
        "bundle",
        make_dist(tmp_path / "gpu", ["android", "android-x86_64"]),
        "--aar",
        "--without-engine",
        "-o",
        tmp_path / "maven",
    )
    assert "which takes android-cpu beside it" in gpu.stderr.replace("\n", " ")
    # MLC's packaging links one archive of all libraries, for arm64-v8a.
    result = run("bundle", dist, "-o", tmp_path / "app")
    assert "takes no library for emulators" in result.stderr.replace("\n", " ")
    assert not [*(tmp_path / "app").rglob("*x86_64*")] and "x86_64" not in result.stdout
    alone = run(
        "bundle",
        make_dist(tmp_path / "alone", ["android-x86_64"]),
        "--aar",
        "--without-engine",
        "-o",
        tmp_path / "maven",
    )
    assert alone.exit_code == 2 and "no library for phones, only for android-x86_64" in alone.stderr.replace("\n", " ")


def test_a_library_whose_weights_the_app_downloads(dist, tmp_path):
    words = ["bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "maven", "--weights"]
    shown = run(*words, "https://example.org/llms").stdout
    assert f"Not in the library: upload {dist} to https://example.org/llms/tiny" in shown
    (path,) = (tmp_path / "maven").rglob("*.aar")
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".bin")]
        (model,) = json.loads(archive.read("assets/edge/tiny/models.json"))["models"]
        manifest = ElementTree.fromstring(archive.read("AndroidManifest.xml"))
    assert (model["weights"], model["url"]) == ("download", "https://example.org/llms/tiny")
    names = [each.get("{http://schemas.android.com/apk/res/android}name") for each in manifest.iter("uses-permission")]
    assert names == ["android.permission.INTERNET"]
    assert "--aar has no --weights pack" in run(*words, "pack").stderr


def test_the_same_model_is_the_same_to_the_byte_and_another_is_another_version(dist, tmp_path, monkeypatch):
    first = said("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "one")
    copy = Path(shutil.copytree(dist, tmp_path / "elsewhere/tiny"))
    monkeypatch.setattr("time.time", lambda: 0.0)
    said("bundle", copy, "--aar", "--without-engine", "-o", tmp_path / "two")
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    changed = make_dist(tmp_path / "changed/tiny", shards=[b"Weights", b"more"])
    assert version_of(said("bundle", changed, "--aar", "--without-engine", "-o", tmp_path / "two")) != version_of(first)


def test_a_repository_grows_and_what_others_put_there_stays(dist, tmp_path):
    home = tmp_path / "maven/edgetransact/models/tiny"
    (tmp_path / "maven/com/example").mkdir(parents=True)
    (tmp_path / "maven/com/example/x.aar").write_text("theirs")
    versions = [version_of(said("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "maven"))]
    before = everything(tmp_path / "maven")
    said("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "maven")
    assert everything(tmp_path / "maven") == before
    changed = make_dist(tmp_path / "changed/tiny", shards=[b"Weights", b"more"])
    versions.append(version_of(said("bundle", changed, "--aar", "--without-engine", "-o", tmp_path / "maven")))
    listed = ElementTree.parse(home / "maven-metadata.xml").getroot()
    assert [each.text for each in listed.iter("version")] == versions and listed.findtext(".//release") == versions[1]
    after = everything(tmp_path / "maven")
    written_again = {name for name in before if "metadata" in name or name.endswith("README.md")}
    assert all(after[name] == content for name, content in before.items() if name not in written_again)
    assert [check.ok for check in verify(tmp_path / "maven")] == [True]
    # A file of a version that is there was damaged: nothing is added to it, or to anything.
    (home / versions[1] / f"tiny-{versions[1]}.aar").write_bytes(b"")
    result = run("bundle", changed, "--aar", "--without-engine", "-o", tmp_path / "maven")
    assert result.exit_code == 1 and f"tiny-{versions[1]}.aar was changed" in result.stderr.replace("\n", "")
    (check,) = verify(tmp_path / "maven")
    assert not check.ok and check.found == "was changed" and check.name.endswith(f"tiny-{versions[1]}.aar")


def test_all_modules_or_none(dist, tmp_path, monkeypatch):
    other = make_dist(tmp_path / "other", ["android-cpu"], "edge_llama_q4f16_0_89abcdef")
    written, write = [], maven._write

    def until_killed(module, directory):
        if written:
            raise KilledError
        written.append(module)
        write(module, directory)

    monkeypatch.setattr(maven, "_write", until_killed)
    with pytest.raises(KilledError):
        aar.bundle_modules([dist, other], tmp_path / "maven", without_engine=True)
    assert everything(tmp_path / "maven") == {}
    monkeypatch.undo()
    result = run("bundle", dist, other, "--aar", "--without-engine", "-o", tmp_path / "maven")
    assert result.exit_code == 0 and 'implementation("edgetransact.models:other:' in result.stdout
    (dist / "params_shard_1.bin").write_bytes(b"most")
    result = run("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "new")
    assert result.exit_code == 1 and "params_shard_1.bin changed after the build" in result.stderr.replace("\n", "")
    assert everything(tmp_path / "new") == {}


def test_killed_between_renames_modules_are_whole_and_listed_last(tmp_path, monkeypatch):
    modules = [maven.Module("a.b", name, "1", {"classes.jar": name.encode()}) for name in ("one", "two")]
    maven.add(tmp_path / "whole", modules)
    whole, replace = everything(tmp_path / "whole"), os.replace
    for renames, there in enumerate([(0, 0), (1, 0), (2, 0), (2, 1)]):
        place, done = tmp_path / str(renames), []

        def until_killed(old: Path, new: Path, most: int = renames, done: list[Path] = done) -> None:
            if len(done) == most:
                raise KilledError
            done.append(new)
            replace(old, new)

        with monkeypatch.context() as patched, pytest.raises(KilledError):
            patched.setattr(os, "replace", until_killed)
            maven.add(place, modules)
        assert (len([*place.rglob("*.aar")]), len([*place.rglob("maven-metadata.xml")])) == there
        assert not maven.problems(place, place)
        assert all(len([*path.parent.iterdir()]) == 8 for path in place.rglob("*.aar"))
        maven.add(place, modules)
        assert everything(place) == whole


def test_large_weights_stay_out_of_the_library(dist, tmp_path, monkeypatch):
    monkeypatch.setattr(aar, "ASSETS_BYTES", 10)
    made = said("bundle", dist, "--aar", "--without-engine", "-o", tmp_path / "maven")
    (path,) = (tmp_path / "maven").rglob("*.aar")
    assets = [name for name in zipfile.ZipFile(path).namelist() if name.startswith("assets/")]
    assert assets == ["assets/edge/tiny/models.json"] and made["models"][0]["weights"] == "install"


def test_another_output_is_no_repository(dist, tmp_path):
    assert run("bundle", dist, "-o", tmp_path / "app").exit_code == 0
    for output in (tmp_path / "app", dist):
        before = everything(output)
        result = run("bundle", dist, "--aar", "--without-engine", "-o", output)
        assert result.exit_code == 1 and "it is no Maven repository" in result.stderr
        assert everything(output) == before
    assert run("bundle", dist, "--aar", "--without-engine", "--build", "-o", tmp_path / "maven").exit_code == 2


CONSTRUCTED = "#include <dlfcn.h>\n#include <stdio.h>\nint main(int n, char** names) {\n\
    if (dlopen(names[1], RTLD_NOW | RTLD_LOCAL)) return 0;\n    puts(dlerror());\n    return 1;\n}\n"


@pytest.mark.needs("aarch64-linux-gnu-gcc", "qemu-aarch64")
def test_a_models_library_finds_the_engine_by_name_and_registers_itself(built_dist, tmp_path):
    """Under qemu, where TVM's runtime from its wheel has the engine's name. The tokens are the host library's."""
    said("bundle", built_dist, "--aar", "--without-engine", "-o", tmp_path / "maven")
    manifest, home = Manifest.read(built_dist), tmp_path / "home"
    name = library_name(manifest.model_lib, "android-cpu")
    (path,) = (tmp_path / "maven").rglob("*.aar")
    library = Path(zipfile.ZipFile(path).extract(f"jni/arm64-v8a/lib{name}.so", tmp_path))
    with library.open("rb") as file:
        elf = ELFFile(file)
        tags = list(elf.get_section_by_name(".dynamic").iter_tags())
        needed = [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"]
        assert needed == ["libtvm4j_runtime_packed.so", *C_LIBRARIES]
        assert [tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"] == [f"lib{name}.so"]
        assert {segment["p_align"] for segment in elf.iter_segments("PT_LOAD")} == {16384}
        assert elf.get_section_by_name(".init_array")["sh_size"] > 0
        symbols = [*elf.get_section_by_name(".dynsym").iter_symbols()][1:]
        assert "TVMFFIEnvModRegisterSystemLibSymbol" in {
            each.name for each in symbols if each["st_shndx"] == "SHN_UNDEF"
        }
        assert system_lib_prefix(name) + LIBRARY_SYMBOL in {
            each.name for each in symbols if each["st_shndx"] != "SHN_UNDEF"
        }
    assert lacks(library, {"libtvm4j_runtime_packed.so": tvm_runtime()}) == []

    tools = Path(shutil.copytree(build_runner(), home))
    compiler = ["aarch64-linux-gnu-gcc", "-x", "c", "-", "-x", "none"]
    opens = ["qemu-aarch64", *start_of(str(tools), portable=True)[:-1], tmp_path / "opens", library]
    subprocess.run([*compiler, "-o", tmp_path / "opens", "-ldl"], input=CONSTRUCTED, text=True, check=True)
    alone = subprocess.run(opens, capture_output=True, text=True)
    assert alone.returncode == 1 and "libtvm4j_runtime_packed.so" in alone.stdout
    engine = [tools / "libtvm_runtime.so", tools / "libtvm_ffi.so", "-o", tools / "libtvm4j_runtime_packed.so"]
    link = ["-shared", "-Wl,--no-as-needed", "-Wl,-soname,libtvm4j_runtime_packed.so", *engine]
    subprocess.run([*compiler, *link], input="", text=True, check=True)
    # A program without TVM opens it: all symbols are found in what it needs.
    assert subprocess.run(opens, capture_output=True, text=True).stdout == ""

    prompt = manifest.parity["prompt_ids"][:8]
    (ids := tmp_path / "ids").write_text(" ".join(map(str, prompt)) + "\n")
    files = (
        "--model",
        built_dist,
        "--library",
        library,
        "--prompt",
        ids,
        "--system-lib-prefix",
        system_lib_prefix(name),
    )
    words = ("qemu-aarch64", *start_of(str(tools), portable=True), *files, "--device", "cpu", "--decode", 4)
    command = [*map(str, (*words, "--repetitions", 1, "--warmups", 0))]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    (tokens,) = (line["tokens"] for line in map(json.loads, output.splitlines()) if line["kind"] == "repetition")
    assert tokens == list(HostModel.load(built_dist).generate(prompt, 4))
