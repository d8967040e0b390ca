"""Libraries for phones, as Android's loader finds what they need: by `tests.support.bionic`, without a phone."""

import subprocess
from dataclasses import replace

import pytest

from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.link import link_archive
from edge_transact.bundling.sources import ENGINE
from edge_transact.compiler.archive import C_LIBRARIES, C_SYMBOLS, android_linker, archived, link_android
from tests.support.bionic import Dynamic, lacks, public, read, tvm_runtime


def test_what_may_be_undefined_is_what_phones_have():
    offered = frozenset().union(*(public()[name].defined for name in C_LIBRARIES))
    assert sorted(C_SYMBOLS - offered) == [] and len(offered) > 1400
    # Of what glibc has, too: none of these is in the NDK's lists.
    assert not offered & {"exp10", "exp10f", "roundevenf", "bzero", "__gmon_start__"}


@pytest.fixture(scope="module")
def archive(built_dist):
    return built_dist / Manifest.read(built_dist).libraries["android-cpu"]


def test_the_runners_library_needs_nothing_that_its_executable_needs(archive, tmp_path):
    """As NDK's runner loads it, which has TVM's runtime in itself and libc and libm among its own needs."""
    runner = replace(tvm_runtime(), needed=C_LIBRARIES)
    library = link_archive(archive)
    assert read(library).needed == C_LIBRARIES and lacks(library, executable=runner) == []
    # A library without needs is what glibc loads and a phone doesn't.
    for name, content in archived(archive):
        (tmp_path / name).write_bytes(content)
    objects, bare = sorted(tmp_path.glob("*.o")), tmp_path / "bare.so"
    subprocess.run([*android_linker(), "-nostdlib", "-shared", "-o", bare, *objects], check=True)
    assert read(bare).needed == () and {"memcpy", "expf", "getauxval"} <= set(lacks(bare, executable=runner))


@pytest.mark.needs("clang-19", "ld.lld-19")
def test_an_apps_library_finds_all_in_the_engine_and_the_phone(archive, tmp_path):
    library, engine = tmp_path / "libmodel.so", replace(tvm_runtime(), needed=C_LIBRARIES)
    link_android(archive, library, android_linker(), ENGINE)
    assert read(library).needed == (ENGINE, *C_LIBRARIES)
    assert lacks(library, {ENGINE: engine}) == [] and ENGINE in lacks(library)
    # An engine of MLC's from before TVM had its FFI, such as the one in npm's @react-native-ai/mlc 0.12.0.
    offers = "AllocWorkspace FreeWorkspace ParallelBarrier ParallelLaunch RegisterSystemLibSymbol"
    older = Dynamic(C_LIBRARIES, frozenset(f"TVMBackend{name}" for name in offers.split()), frozenset())
    missing = lacks(library, {ENGINE: older})
    assert "TVMFFIEnvModRegisterSystemLibSymbol" in missing and all(name.startswith("TVMFFI") for name in missing)
