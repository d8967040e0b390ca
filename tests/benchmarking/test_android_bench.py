"""The runner: compiled for a phone as far as clang and lld can without an NDK; its command line, lines and errors."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import tvm_ffi

from edge_transact.benchmarking.drivers.adb.runner import start_of
from edge_transact.benchmarking.records.lines import LoadLine, RepetitionLine
from tests.support.phone.runner import SOURCE

ANDROID = ("--target=aarch64-linux-android28", "-std=c++17", "-O1", "-fPIC", "-nostdinc++")
GNU = "/usr/aarch64-linux-gnu/include"
STANDIN = Path(__file__).parents[1] / "support" / "phone"
PROGRAMS = r"""
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include "programs.h"
int main(int argc, char** argv) {
  auto build = [] { std::printf("build; "); return std::string("a\0b", 3); };
  auto restore = [argc, argv](const std::string& programs) {
    std::printf("restore; ");
    if (argc > 2 && *argv[2] == 'c') std::_Exit(139);
    if (argc > 2) throw std::runtime_error("CL_INVALID_BINARY");
    if (programs != std::string("a\0b", 3)) std::printf("others; ");
  };
  try {
    std::printf("kept %d", edge::RestoreOrBuild(argv[1], build, restore));
  } catch (const std::exception& error) {
    std::printf("thrown: %s", error.what());
  }
}
"""


@pytest.fixture
def run_on(phone, adb_server, runner):
    """Runs ``edge-bench`` on the phone with these arguments; returns its exit code and output."""
    for path in runner.iterdir():
        shutil.copy(path, phone.tmp / path.name)
        (phone.tmp / path.name).chmod(0o755)

    def run(*arguments: str, preload: str = "") -> subprocess.CompletedProcess[str]:
        home = "/data/local/tmp"
        command = f"LD_PRELOAD={preload} {shlex.join([*start_of(home, portable=True), *arguments])}"
        return adb_server.adb("-s", phone.serial, "shell", command)

    return run


@pytest.mark.slow
@pytest.mark.needs("clang++-19", "ld.lld-19")
def test_it_compiles_and_links_for_android(tmp_path):
    """Android's own headers and libraries come with the NDK. GNU's stand in for them here."""
    include = [f"{GNU}/c++/14", f"{GNU}/c++/14/aarch64-linux-gnu", GNU, f"{Path(tvm_ffi.__file__).parent}/include"]
    flags = [flag for path in include for flag in ("-isystem", path)]
    objects = []
    for source in sorted(SOURCE.glob("src/*.cc")):
        objects.append(str(tmp_path / f"{source.stem}.o"))
        subprocess.run(["clang++-19", *ANDROID, *flags, "-c", str(source), "-o", objects[-1]], check=True)
    program = tmp_path / "edge-bench"
    command = ["ld.lld-19", "-pie", "-z", "max-page-size=16384", "--unresolved-symbols=ignore-all", "-e", "main"]
    subprocess.run([*command, "-o", str(program), *objects], check=True)
    loads = subprocess.run(["readelf", "-lW", str(program)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"LOAD.*?(0x[0-9a-f]+)$", loads, re.MULTILINE)) == {"0x4000"}
    symbols = subprocess.run(["nm", "-Cu", str(program)], capture_output=True, text=True, check=True).stdout
    wanted = [line.split(maxsplit=1)[1] for line in symbols.splitlines()]
    # Only tvm_ffi's stable C interface, its module class and its JSON: no header of TVM's runtime was needed.
    ours = {name for name in wanted if "tvm" in name.lower()}
    assert all(name.startswith(("TVMFFI", "tvm::ffi::Module", "tvm::ffi::json::")) for name in ours), ours


def test_wrong_options_are_refused_with_the_usage(run_on):
    for arguments, words in (
        (("--nonesuch", "1"), "unknown option --nonesuch"),
        (("--repetitions", "0"), "--repetitions is '0'"),
        (("--decode", "4x"), "--decode is '4x'"),
        (("--cores", "2-1"), "--cores is '1'"),
        (("--threads", "100000"), "--threads is '100000', not an integer of at least 0 and at most 1024"),
        (("--cores", "0-2147483647"), "--cores names core 2147483647"),
        (("--prompt", "/nonesuch"), "cannot read /nonesuch"),
        (("--model", "m"), "--model, --library and --prompt are needed"),
    ):
        result = run_on(*arguments)
        assert result.returncode == 2 and words in result.stderr and "--watch-stdin" in result.stderr


def test_compiled_programs_are_kept(tmp_path):
    """Programs are built, restored, built again if they are damaged, removed if the driver refuses or crashes."""
    program, kept = tmp_path / "programs", tmp_path / "kept"
    main = tmp_path / "main.cc"
    main.write_text(PROGRAMS)
    sources = [str(main), str(SOURCE / "src/programs.cc")]
    subprocess.run(["aarch64-linux-gnu-g++", "-static", f"-I{SOURCE}/src", *sources, "-o", str(program)], check=True)

    def run(*arguments: str) -> str:
        command = ["qemu-aarch64", str(program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check="crash" not in arguments).stdout

    assert run(str(kept)) == "build; kept 0"
    assert kept.read_bytes().endswith(b"a\0b") and list(tmp_path.glob("*.new")) == []
    assert run(str(kept)) == "restore; kept 1"
    kept.write_bytes(kept.read_bytes()[:-1])
    assert run(str(kept)) == "build; kept 0" and run(str(kept)) == "restore; kept 1"
    refused = run(str(kept), "refuse")
    assert refused.startswith("restore; thrown:") and "removed: CL_INVALID_BINARY" in refused
    assert not kept.exists() and run(str(kept)) == "build; kept 0"
    assert run("") == run("/nonesuch/kept") == "build; kept 0"
    run(str(kept), "crash")
    assert not kept.exists() and run(str(kept)) == "build; kept 0"
    assert run(str(kept)) == "restore; kept 1" and {path.name for path in tmp_path.glob("kept*")} == {"kept"}


def test_broken_models_end_with_an_error_line(run_on, phone, tiny_dist):
    from edge_transact.artifacts.dist_files import SHARDS, TENSOR_CACHE
    from edge_transact.benchmarking.link import link_archive
    from edge_transact.benchmarking.model import open_models
    from edge_transact.compiler.targets import system_lib_prefix

    (model,) = open_models([tiny_dist], [])
    (phone.tmp / "prompt").write_text("5 6 7\n")
    shutil.copy(link_archive(tiny_dist / model.manifest.libraries["android-cpu"]), phone.tmp / "library.so")
    home = "/data/local/tmp"
    prefix = system_lib_prefix(model.library_name("android-cpu"))
    options = ["--model", home, "--prompt", f"{home}/prompt", "--system-lib-prefix", prefix]
    library = ["--library", f"{home}/library.so"]

    def last(*arguments: str) -> dict:
        result = run_on(*options, *arguments)
        assert result.returncode == 1
        return json.loads(result.stdout.splitlines()[-1])

    assert "nonesuch" in last("--library", "/nonesuch.so")["message"]
    assert "tensor-cache.json" in last(*library)["message"]
    assert "1003 are asked for" in last(*library, "--decode", "1001")["message"]
    for path in (tiny_dist / TENSOR_CACHE, *tiny_dist.glob(SHARDS)):
        shutil.copy(path, phone.tmp / path.name)
    # A good run, though the phone's clock is set back and forth all the while.
    clock = STANDIN / "jumping_clock.c"
    compiler = ["aarch64-linux-gnu-gcc", "-shared", "-fPIC"]
    subprocess.run([*compiler, str(clock), "-o", str(phone.tmp / "clock.so")], check=True)
    more = ["--decode", "3", "--repetitions", "2", "--run", 'a "name"', "--cores", "0"]
    result = run_on(*options, *library, *more, preload=f"{home}/clock.so")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["start", "load", "warmup", "repetition", "repetition", "final"]
    assert {line["run"] for line in lines} == {'a "name"'} and result.returncode == 0
    assert lines[1]["threads"] == 1
    # The runner writes every field that a bench reads.
    assert {field.name for field in fields(LoadLine)} <= set(lines[1])
    of_apps = {"text", "decode_tokens"}
    assert {field.name for field in fields(RepetitionLine)} - of_apps <= set(lines[3])
    first, second = lines[3:5]
    assert abs(first["started_at"] - second["started_at"]) > 700 * 86400
    for line in (first, second):
        assert 0 < line["ttft_s"] < line["e2e_s"] < 60 and all(0 < step < 60 for step in line["decode_steps_s"])
    slept = run_on(*options, *library, *more, preload=f"{home}/clock.so SUSPENDED=1")
    kinds = [json.loads(line)["kind"] for line in slept.stdout.splitlines()]
    assert slept.returncode == 1 and kinds == ["start", "load", "error"]
    assert "the phone was suspended for" in json.loads(slept.stdout.splitlines()[-1])["message"]
    for token in (-7, 2**31 - 1, model.manifest.plan.vocab_size):
        (phone.tmp / "prompt").write_text(f"5 {token}\n")
        assert f"token {token} is outside the vocabulary of" in last(*library)["message"]
    (phone.tmp / "prompt").write_text("5 6 7\n")
    nowhere = run_on(*options, *library, "--output", "/nonexistent/x")
    assert nowhere.returncode == 1 and "cannot write /nonexistent/x" in nowhere.stderr and not nowhere.stdout
    os.mknod(phone.tmp / "full", 0o666 | stat.S_IFCHR, Path("/dev/full").stat().st_rdev)
    full = run_on(*options, *library, "--output", f"{home}/full", "--decode", "1")
    assert full.returncode == 1 and f"cannot write all lines to {home}/full" in full.stderr
    index = phone.tmp / "tensor-cache.json"
    content = json.loads(index.read_text())
    index.write_text("[" * 200_000)
    assert "nested too deep" in last(*library)["message"]
    first = content["records"][0]["records"][0]
    for offset in (10**9, -1, 2**62):
        index.write_text(json.dumps(content).replace(json.dumps(first), json.dumps(first | {"byteOffset": offset}), 1))
        assert "a parameter outside its file" in last(*library)["message"]
    content["records"][0]["nbytes"] = 10**15
    index.write_text(json.dumps(content))
    starved = run_on(*options, *library)
    ignored = json.loads(run_on(*options, *library, "--ignore-memory").stdout.splitlines()[-1])
    assert "low_memory" not in ignored.values()
    assert starved.returncode == 3 and json.loads(starved.stdout.splitlines()[-1])["code"] == "low_memory"
