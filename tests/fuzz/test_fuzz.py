"""Every input that was worth keeping keeps its target's promise; ``make soak`` looks for others.

``corpus/TARGET`` holds what reaches different code, and ``corpus/found`` what once broke a target, after its name.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fuzz.targets import TARGETS

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
SECONDS = int(os.environ.get("EDGE_FUZZ_SECONDS", "60"))
LONGEST_BYTES = 1 << 14


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs(name):
    inputs = [*(CORPUS / name).iterdir(), *(CORPUS / "found").glob(f"{name}-*")]
    assert inputs
    for path in inputs:
        TARGETS[name](path.read_bytes())


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_new_inputs(name, tmp_path):
    look_for_more([sys.executable, "-m", "tests.support.fuzz", name], CORPUS / name, tmp_path)


@pytest.mark.soak
@pytest.mark.needs("clang++-19")
def test_new_command_lines_and_lines_of_the_runner(runner_fuzzer, tmp_path):
    look_for_more([str(runner_fuzzer)], CORPUS / "runner", tmp_path)


@pytest.fixture(scope="module")
def runner_fuzzer(tmp_path_factory) -> Path:
    """The runner's options and lines under libFuzzer, with checks of memory and of undefined behaviour."""
    import tvm_ffi

    root, sources = Path(tvm_ffi.__file__).parent, HERE.parents[1] / "android_bench" / "src"
    program = tmp_path_factory.mktemp("fuzz") / "runner"
    includes = [f"-I{path}" for path in (sources, root / "include", root / "3rdparty" / "dlpack" / "include")]
    checks = ["-std=c++17", "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
    files = [HERE / "runner.cc", sources / "options.cc", sources / "line_writer.cc"]
    library = [f"-L{root / 'lib'}", "-ltvm_ffi", f"-Wl,-rpath,{root / 'lib'}"]
    subprocess.run(["clang++-19", *checks, *includes, *map(str, files), *library, "-o", str(program)], check=True)
    return program


def look_for_more(command: list[str], corpus: Path, directory: Path) -> None:
    """Runs a fuzzer for a while; what breaks the target is left in `directory`."""
    new = directory / "new"
    new.mkdir()
    words = [f"-max_total_time={SECONDS}", f"-max_len={LONGEST_BYTES}", "-rss_limit_mb=2048"]
    words += [f"-artifact_prefix={directory}/", str(new), str(corpus)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    print(next((line for line in done.stderr.splitlines()[::-1] if "DONE" in line), ""))
    assert done.returncode == 0, done.stderr[-3000:]
