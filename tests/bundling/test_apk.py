"""`verify APK`: what would keep an app from running is found, in real zip files with real ELF libraries."""

import hashlib
import json
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest

from edge_transact.bundling.apk import examine_apk
from edge_transact.bundling.project import bundle
from edge_transact.compiler.archive import PAGE_BYTES
from edge_transact.errors import EdgeTransactError
from edge_transact.verification import verify
from tests.support.android_project import aapt2
from tests.support.command import run, said
from tests.support.dists import CLANG, make_dist
from tests.support.examples import examples_with, run_line, split

pytestmark = pytest.mark.needs("clang-19", "ld.lld-19")

ASSETS = "assets/edge"
ENGINE = "lib/arm64-v8a/libtvm4j_runtime_packed.so"
EDGE = "lib/arm64-v8a/libedge_programs.so"
MODEL = ("edge_llama_q4f16_0_0123abcd", "edge_llama_q4f16_0_0123abcd-cpu")
"""The libraries of the model ``tiny``."""
X86 = "x86_64-linux-android28"


def link(path: Path, page_bytes: int, source: str = "int x = 1;", target: str = "aarch64-linux-android28") -> bytes:
    """A shared library with a data segment, as the NDK's lld makes it for a page size."""
    flags = [f"--target={target}", "-fuse-ld=lld", "-nostdlib", "-shared", f"-Wl,-z,max-page-size={page_bytes}"]
    command = [CLANG[0], *CLANG[2:], *flags, "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return path.read_bytes()


def dex(content: bytes = b"") -> bytes:
    """A DEX file without classes, as the format's page has it: magic, Adler-32, SHA-1, size, size of the header."""
    rest = struct.pack("<3I", 112 + len(content), 112, 0x12345678) + bytes(68) + content
    signed = hashlib.sha1(rest).digest() + rest
    return b"dex\n038\0" + struct.pack("<I", zlib.adler32(signed)) + signed


def manifest(directory: Path) -> bytes:
    """A manifest that aapt2 compiled."""
    (directory / "AndroidManifest.xml").write_text('<manifest package="org.example.chat" />')
    command = [aapt2(), "link", "--manifest", directory / "AndroidManifest.xml", "-o", directory / "linked.apk"]
    subprocess.run(command, check=True)
    return zipfile.ZipFile(directory / "linked.apk").read("AndroidManifest.xml")


class Apk:
    """The entries of an APK, which a test changes before it is written; stored libraries begin at whole pages."""

    def __init__(self, entries: dict[str, bytes]) -> None:
        self.entries = dict(entries)
        self.compressed: set[str] = set()
        self.page_bytes = PAGE_BYTES

    def write(self, path: Path) -> Path:
        """Write the zip, with libraries aligned as zipalign does it: by the length of the extra field."""
        with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, content in self.entries.items():
                entry = zipfile.ZipInfo(name)
                if name in self.compressed:
                    entry.compress_type = zipfile.ZIP_DEFLATED
                elif name.endswith(".so"):
                    entry.extra = bytes(-(file.tell() + 30 + len(name)) % self.page_bytes)
                archive.writestr(entry, content)
        return path


@pytest.fixture(scope="module")
def linked(tmp_path_factory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("linked")
    names = [f"edge_llama_q4f16_0_0123abcd_{part}__tvm_ffi__library_bin" for part in ("", "cpu_")]
    engine = 'const char* names[] = {"' + '", "'.join(names) + '"};'
    return {
        "engine": link(directory / "engine.so", PAGE_BYTES, engine),
        "right": link(directory / "right.so", PAGE_BYTES),
        **{f"lib{name}.so": link(directory / name, PAGE_BYTES, f'const char* name = "{symbol}";')
           for name, symbol in zip(MODEL, names, strict=True)},
        "small pages": link(directory / "small.so", 4096),
        "x86": link(directory / "x86.so", PAGE_BYTES, target=X86),
        "x86 model": link(directory / "model.so", PAGE_BYTES, f'const char* name = "{names[1]}";', X86),
    }  # fmt: skip


@pytest.fixture(scope="module")
def entries(linked, tmp_path_factory) -> dict[str, bytes]:
    """What a complete app has."""
    directory = tmp_path_factory.mktemp("apk")
    project = bundle([make_dist(directory / "tiny")], directory / "app").directory
    assets = project / "app/src/main/assets"
    content = {f"assets/{path.relative_to(assets)}": path.read_bytes() for path in assets.rglob("*") if path.is_file()}
    code = {"AndroidManifest.xml": manifest(directory), "classes.dex": dex()}
    return {**code, ENGINE: linked["engine"], EDGE: linked["right"], **content}


@pytest.fixture
def apk(entries) -> Apk:
    return Apk(entries)


def failed(path: Path) -> dict[str, str]:
    """What is found where a check fails."""
    checks = examine_apk(path)
    assert all(check.ok == (check.fix == "") for check in checks)
    return {check.name: check.found for check in checks if not check.ok}


def test_a_complete_app(apk, tmp_path):
    path = apk.write(tmp_path / "app.apk")
    checks = {check.name: check.found for check in examine_apk(path)}
    assert failed(path) == {}
    assert list(checks) == ["entries", "code", "abi", "segments", "offsets", "libraries", "models"]
    assert checks["code"] == "classes.dex (112 bytes)"
    assert checks["abi"] == "for arm64-v8a: libtvm4j_runtime_packed.so, libedge_programs.so"
    assert checks["models"].startswith("tiny (")
    assert all(check["ok"] for check in said("verify", path)["checks"])


def test_a_library_for_pages_of_4_kb(apk, linked, tmp_path):
    apk.entries[EDGE] = linked["small pages"]
    path = apk.write(tmp_path / "app.apk")
    assert failed(path) == {"segments": f"segments not aligned to 16384 bytes: {EDGE} (4096)"}
    result = run("verify", str(path))
    assert result.exit_code == 1 and "max-page-size=16384" in result.stdout


def test_libraries_at_other_offsets(apk, tmp_path):
    apk.page_bytes = 4096
    assert EDGE in failed(apk.write(tmp_path / "app.apk"))["offsets"]
    # Android unpacks compressed ones, which then stand alone.
    apk.compressed = {ENGINE, EDGE}
    assert failed(apk.write(tmp_path / "app.apk")) == {}


@pytest.mark.parametrize(
    ("name", "content"), [("lib/x86/libx.so", "x86"), ("lib/arm64-v8a/libx.so", "x86"),
                          ("lib/armeabi-v7a/libx.so", "right")]
)  # fmt: skip
def test_a_library_for_another_machine(apk, linked, tmp_path, name, content):
    apk.entries[name] = linked[content]
    assert failed(apk.write(tmp_path / "app.apk")) == {"abi": f"not for arm64-v8a or x86_64: {name}"}


def test_libraries_for_emulators_beside_those_for_phones(apk, linked, tmp_path):
    """Android takes all libraries from one folder, so that of emulators has to be complete."""
    engine, programs = (name.replace("arm64-v8a", "x86_64") for name in (ENGINE, EDGE))
    apk.entries[engine] = linked["x86"]
    absent = f"neither in libtvm4j_runtime_packed.so nor in libraries of their own: {MODEL[1]} for x86_64"
    assert failed(apk.write(tmp_path / "app.apk")) == {"abi": f"no {programs}", "libraries": absent}
    apk.entries[programs] = linked["x86"]
    apk.entries[f"lib/x86_64/lib{MODEL[1]}.so"] = linked["x86 model"]
    path = apk.write(tmp_path / "app.apk")
    assert failed(path) == {}
    (found,) = (check.found for check in examine_apk(path) if check.name == "abi")
    assert found.endswith(f"; for x86_64: libtvm4j_runtime_packed.so, libedge_programs.so, lib{MODEL[1]}.so")
    apk.entries[programs] = linked["right"]
    assert failed(apk.write(tmp_path / "app.apk")) == {"abi": f"not for arm64-v8a or x86_64: {programs}"}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [("classes.dex", None, "no classes.dex"), ("AndroidManifest.xml", None, "no AndroidManifest.xml"),
     ("classes.dex", dex()[:-1], "classes.dex is damaged"), ("classes.dex", b"", "classes.dex is damaged"),
     ("classes.dex", dex()[:-1] + b"x", "classes.dex is damaged"),
     ("classes2.dex", b"cafebabe" * 20, "classes2.dex is damaged"),
     ("AndroidManifest.xml", b"<manifest />", "AndroidManifest.xml is not compiled, or damaged")]
)  # fmt: skip
def test_an_app_without_its_code_or_manifest(apk, tmp_path, name, content, problem):
    if content is None:
        del apk.entries[name]
    else:
        apk.entries[name] = content
    assert failed(apk.write(tmp_path / "app.apk")) == {"code": problem}


def test_an_app_without_the_library_of_edge(apk, tmp_path):
    del apk.entries[EDGE]
    assert failed(apk.write(tmp_path / "app.apk")) == {"abi": f"no {EDGE}"}


def test_models_of_modules_have_libraries_of_their_own(apk, linked, tmp_path):
    """As ``bundle --aar`` makes them: a list of models in each model's folder, and an engine that holds none."""
    path = tmp_path / "app.apk"
    apk.entries[f"{ASSETS}/tiny/models.json"] = apk.entries.pop(f"{ASSETS}/models.json")
    apk.entries[ENGINE] = linked["right"]
    own = {f"lib/arm64-v8a/lib{name}.so": linked[f"lib{name}.so"] for name in MODEL}
    apk.entries |= own
    assert failed(apk.write(path)) == {}
    assert set(own) == {name for name in apk.entries if "0123abcd" in name}
    absent = "neither in libtvm4j_runtime_packed.so nor in libraries of their own: "
    for name, model in zip(own, MODEL, strict=True):
        apk.entries[name] = linked["right"]  # a library, but not the model's
        assert failed(apk.write(path)) == {"libraries": f"{absent}{model} for arm64-v8a"}
        del apk.entries[name]
        assert failed(apk.write(path)) == {"libraries": f"{absent}{model} for arm64-v8a"}
        apk.entries[name] = own[name]
    del apk.entries[f"{ASSETS}/tiny/tokenizer.json"]
    assert failed(apk.write(path)) == {"models": "tiny/tokenizer.json is missing"}


def test_an_app_without_the_engine_or_the_models_libraries(apk, linked, tmp_path):
    apk.entries[ENGINE] = linked["right"]
    missing = ", ".join(f"{name} for arm64-v8a" for name in MODEL)
    found = f"neither in libtvm4j_runtime_packed.so nor in libraries of their own: {missing}"
    assert failed(apk.write(tmp_path / "app.apk")) == {"libraries": found}
    del apk.entries[ENGINE]
    assert set(failed(apk.write(tmp_path / "app.apk"))) == {"abi", "libraries"}


def test_weights_that_are_missing_damaged_or_compressed(apk, tmp_path):
    path = tmp_path / "app.apk"
    apk.compressed = {f"{ASSETS}/tiny/params_shard_1.bin", f"{ASSETS}/tiny/tokenizer.json"}
    assert failed(apk.write(path)) == {"models": "tiny/params_shard_1.bin is compressed"}
    apk.entries[f"{ASSETS}/tiny/params_shard_0.bin"] += b"x"
    del apk.entries[f"{ASSETS}/tiny/tensor-cache.json"]
    problems = failed(apk.write(path))["models"]
    assert "tiny/params_shard_0.bin is damaged" in problems and "tiny/tensor-cache.json is missing" in problems
    del apk.entries[f"{ASSETS}/models.json"]
    assert failed(apk.write(path)) == {"models": f"no {ASSETS}/models.json"}


def test_a_damaged_entry(apk, tmp_path):
    """As a disk damages it: what the archive says of it stays."""
    apk.entries["classes.dex"] = dex(b"code" * 100)
    path = apk.write(tmp_path / "app.apk")
    assert all(check.ok for check in verify(path))
    path.write_bytes(path.read_bytes().replace(b"codecode", b"codfcode", 1))
    assert [(check.name, check.found) for check in examine_apk(path)] == [("entries", "classes.dex is damaged")]
    assert [check.name for check in verify(path) if not check.ok] == [f"{path}, entries"]


def test_weights_that_are_installed_need_not_be_in_the_app(apk, tmp_path):
    models = json.loads(apk.entries[f"{ASSETS}/models.json"])
    models["models"][0]["weights"] = "install"
    apk.entries = {name: content for name, content in apk.entries.items() if "/tiny/" not in name}
    apk.entries[f"{ASSETS}/models.json"] = json.dumps(models).encode()
    found = {check.name: check.found for check in examine_apk(apk.write(tmp_path / "app.apk"))}
    assert "needs edge-transact install" in found["models"]


def test_weights_of_an_asset_pack_are_checked_if_they_are_there(apk, tmp_path):
    """As in an APK for all phones, which bundletool makes; an APK of Gradle's has none."""
    models = json.loads(apk.entries[f"{ASSETS}/models.json"])
    models["models"][0] |= {"weights": "pack", "pack": "model_tiny"}
    apk.entries[f"{ASSETS}/models.json"] = json.dumps(models).encode()
    found = {check.name: check.found for check in examine_apk(apk.write(tmp_path / "all.apk"))}
    assert ", model_tiny)" in found["models"]
    (shard, *_) = (name for name in apk.entries if "/tiny/" in name and name.endswith(".bin"))
    apk.entries[shard] = b"wrong"
    assert "is damaged" in failed(apk.write(tmp_path / "wrong.apk"))["models"]
    apk.entries = {name: content for name, content in apk.entries.items() if "/tiny/" not in name}
    assert not failed(apk.write(tmp_path / "none.apk"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and nothing more"])
def test_what_is_no_apk(tmp_path, content):
    (tmp_path / "app.apk").write_bytes(content)
    with pytest.raises(EdgeTransactError, match="is not a complete APK"):
        examine_apk(tmp_path / "app.apk")
    assert run("verify", str(tmp_path / "gone.apk")).exit_code == 1


@pytest.mark.parametrize("line", examples_with(".apk"))
def test_examples_of_pages_and_help_check(line, apk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in split(line):
        if word.endswith(".apk"):
            apk.write(tmp_path / word)
    run_line(line)
