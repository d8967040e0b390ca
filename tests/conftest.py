"""Shared by all tests: their order, one cache, and no silent skips where everything must run."""

import gc
import inspect
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from edge_transact.cli import COLLECTED_OBJECTS
from tests.support.checkpoints import save_llama
from tests.support.hub import serve
from tests.support.machine import TestRun, with_callers
from tests.support.pruning import TEXT, another_cache

TEST_RUN = pytest.StashKey[TestRun]()


def pytest_configure(config: pytest.Config) -> None:
    """One cache for the run, not the user's: what one test has built, another takes from it. And one thread a process.

    Set ``EDGE_TRANSACT_CACHE`` to keep it between runs.
    """
    inspect.getouterframes = with_callers
    gc.set_threshold(COLLECTED_OBJECTS)
    # By default, an example that takes 0.2 s fails, which says something of the machine.
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")
    if hasattr(config, "workerinput"):
        return  # a process of pytest-xdist: it inherits all this
    config.stash[TEST_RUN] = TestRun()
    # Shells have what runs in the background ignore Ctrl-C, and the programs that it starts, which tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for library in ("OMP", "TVM"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    # Else TVM binds a process that runs a kernel to the first CPU, which is then all that the process has.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    if "EDGE_TRANSACT_CACHE" not in os.environ:
        cache = tempfile.TemporaryDirectory(prefix="edge-transact-cache-", ignore_cleanup_errors=True)
        config.add_cleanup(cache.cleanup)
        os.environ["EDGE_TRANSACT_CACHE"] = cache.name


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if tests have left anything on the machine."""
    run = session.config.stash.get(TEST_RUN, None)
    if run is not None and (left := run.finish(session.config._tmp_path_factory.getbasetemp())):
        print("\nTests have left these on the machine:", *left, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs programs or packages which this machine lacks, and say which."""
    needed = [name for marker in item.iter_markers("needs") for name in marker.args]
    if lacking := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(lacking)}; as root, `make system-packages` installs what tests need")
    if item.get_closest_marker("opencl") and not (Path(sys.prefix) / "lib" / "libintelocl.so").exists():
        pytest.skip("needs an OpenCL device with fp16: PyPI's intel-opencl-rt, for x86-64 on Linux")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tests first, for people. Several processes take whole files, those with the most slow tests first.

    So what a file's fixtures make is made once, and no process waits long for another's last file.
    """
    if "soak" not in config.option.markexpr:
        _deselect(config, items, "soak")
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    count = Counter(item.path for item in items)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (-slow[item.path], -count[item.path], item.path))
    else:
        items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def _deselect(config: pytest.Config, items: list[pytest.Item], marker: str) -> None:
    left = [item for item in items if item.get_closest_marker(marker)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker(marker)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """With EDGE_REQUIRE_ALL=1 a skip is a failure: what could not run was not tested."""
    report = (yield).get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("EDGE_REQUIRE_ALL") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"EDGE_REQUIRE_ALL=1 and this was skipped: {reason}"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone, which knows where sources of checkpoints lie that others made."""
    return another_cache(tmp_path / "cache", monkeypatch)


@pytest.fixture(scope="session")
def chapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of some thousand tokens."""
    path = tmp_path_factory.mktemp("text") / "chapters.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def calibration(chapters: Path) -> dict:
    """Options of a calibration with 512 tokens."""
    return {"calibration": str(chapters), "calibration_tokens": 512}


@pytest.fixture
def make_llama(tmp_path: Path):
    """``make_llama(seed=0, **config)``: the directory of a stock LLaMA with random weights, `TINY` by default."""
    return lambda seed=0, **config: save_llama(tmp_path / f"llama-{len(list(tmp_path.iterdir()))}", seed, **config)


@pytest.fixture(scope="session")
def random_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and the tokenizer of ``demo:tiny``, of whose layers these are a tenth."""
    path = tmp_path_factory.mktemp("random") / "model"
    save_llama(path, vocab_size=1024, num_hidden_layers=4, intermediate_size=96)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, path)
    return path


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """``demo:tiny`` as a directory: trained weights and a real tokenizer."""
    from edge_transact.inputs import resolve_model

    return resolve_model("demo:tiny")


@pytest.fixture(scope="session")
def built_dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny trained LLaMA in q4f32_1, for this host and for the phone's CPU."""
    from edge_transact.building.dist import build
    from edge_transact.building.options import BuildOptions

    path = tmp_path_factory.mktemp("built") / "dist"
    build("demo:tiny", path, BuildOptions(target=["host", "android-cpu"], quant="q4f32_1"))
    return path


@pytest.fixture(scope="session")
def batch_dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny trained LLaMA for this host, whose library decodes three sequences at once."""
    from edge_transact.building.dist import build
    from edge_transact.building.options import BuildOptions

    path = tmp_path_factory.mktemp("batch") / "dist"
    build("demo:tiny", path, BuildOptions(target=["host"], quant="q4f16_0", max_batch=3))
    return path


@pytest.fixture
def hub():
    """A hub on loopback, empty."""
    with serve() as running:
        yield running
