"""The runner's sources for a phone, as far as clang and lld go without an NDK; its command line and its errors."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess

import pytest

from tests.bench.standin.runner import SOURCE, wheels

ANDROID = ("--target=aarch64-linux-android28", "-std=c++17", "-O1", "-fPIC", "-nostdinc++")
GNU = "/usr/aarch64-linux-gnu/include"


@pytest.fixture
def run_on(phone, adb_server, runner):
    """Runs ``edge-bench`` on the phone with these arguments, and gives its exit code and its output."""
    for path in runner.iterdir():
        shutil.copy(path, phone.tmp / path.name)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        home = "/data/local/tmp"
        command = f"LD_LIBRARY_PATH={home} {home}/edge-bench {shlex.join(arguments)}"
        return adb_server.adb("-s", phone.serial, "shell", command)

    return run


@pytest.mark.slow
def test_it_compiles_and_links_for_android(tmp_path):
    """Android's own headers and libraries come with the NDK; GNU's stand in for them here."""
    clang, lld = shutil.which("clang++-19"), shutil.which("ld.lld-19")
    if clang is None or lld is None:
        pytest.skip("no clang-19 and lld-19")
    include = [f"{GNU}/c++/14", f"{GNU}/c++/14/aarch64-linux-gnu", GNU, f"{wheels()}/tvm_ffi/include"]
    flags = [flag for path in include for flag in ("-isystem", path)]
    objects = []
    for source in sorted(SOURCE.glob("src/*.cc")):
        objects.append(str(tmp_path / f"{source.stem}.o"))
        subprocess.run([clang, *ANDROID, *flags, "-c", str(source), "-o", objects[-1]], check=True)
    program = tmp_path / "edge-bench"
    command = [lld, "-pie", "-z", "max-page-size=16384", "--unresolved-symbols=ignore-all", "-e", "main"]
    subprocess.run([*command, "-o", str(program), *objects], check=True)
    loads = subprocess.run(["readelf", "-lW", str(program)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"LOAD.*?(0x[0-9a-f]+)$", loads, re.MULTILINE)) == {"0x4000"}
    symbols = subprocess.run(["nm", "-Cu", str(program)], capture_output=True, text=True, check=True).stdout
    wanted = [line.split(maxsplit=1)[1] for line in symbols.splitlines()]
    # Of TVM only the stable C interface and the module class: no runtime header was needed.
    ours = {name for name in wanted if "tvm" in name.lower()}
    assert all(name.startswith(("TVMFFI", "tvm::ffi::Module", "tvm::ffi::json::Parse")) for name in ours), ours


def test_what_it_says_of_wrong_options(run_on):
    for arguments, words in (
        (("--nonesuch", "1"), "unknown option --nonesuch"),
        (("--repetitions", "0"), "--repetitions is '0'"),
        (("--decode", "4x"), "--decode is '4x'"),
        (("--cores", "2-1"), "--cores is '1'"),
        (("--prompt", "/nonesuch"), "cannot read /nonesuch"),
        (("--model", "m"), "--model, --library and --prompt are needed"),
    ):
        result = run_on(*arguments)
        assert result.returncode == 2 and words in result.stderr and "--watch-stdin" in result.stderr


def test_what_it_says_of_broken_models(run_on, phone, tiny_dist):
    from edge_transact.bench.link import link_archive
    from edge_transact.bench.model import open_models

    (model,) = open_models([tiny_dist], [])
    (phone.tmp / "prompt").write_text("5 6 7\n")
    shutil.copy(link_archive(tiny_dist / model.manifest.libraries["android-cpu"]), phone.tmp / "library.so")
    home = "/data/local/tmp"
    options = ["--model", home, "--prompt", f"{home}/prompt", "--system-lib-prefix", model.system_lib_prefix]
    library = ["--library", f"{home}/library.so"]

    def last(*arguments: str) -> dict:
        result = run_on(*options, *arguments)
        assert result.returncode == 1
        return json.loads(result.stdout.splitlines()[-1])

    assert "nonesuch" in last("--library", "/nonesuch.so")["message"]
    assert "tensor-cache.json" in last(*library)["message"]
    assert "1003 are asked for" in last(*library, "--decode", "1001")["message"]
    for path in model.weight_files().values():
        shutil.copy(path, phone.tmp / path.name)
    result = run_on(*options, *library, "--decode", "3", "--run", 'a "name"')
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["start", "load", "warmup", "repetition", "final"]
    assert {line["run"] for line in lines} == {'a "name"'} and result.returncode == 0
    index = phone.tmp / "tensor-cache.json"
    content = json.loads(index.read_text())
    content["records"][0]["nbytes"] = 10**15
    index.write_text(json.dumps(content))
    starved = run_on(*options, *library)
    assert starved.returncode == 3 and json.loads(starved.stdout.splitlines()[-1])["code"] == "low_memory"
