"""Fixtures of the bench's tests: stand-in phones, a private adb server, the runner, and a built DIST."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.benchmarking.session import BenchOutcome, bench_models
from edge_transact.runtime.host import HostModel
from tests.support.bench_runs import QUICK
from tests.support.dists import edit_json
from tests.support.hostile_names import NAME
from tests.support.patience import HANG_S
from tests.support.phone.leftovers import binfmt
from tests.support.phone.phone import AdbServer, Phone
from tests.support.phone.root import missing
from tests.support.phone.runner import build_runner

PHONE_FIXTURES = {"phone", "make_phone", "adb_server", "runner"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the stand-in phone."""
    for item in items:
        if PHONE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("phone")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip them if the machine lacks something, and say what."""
    if item.get_closest_marker("phone") and (lacks := missing()):
        pytest.skip(f"the stand-in phone needs {', '.join(lacks)}; as root, `make system-packages` installs programs")


@pytest.fixture(scope="session")
def tiny_dist(built_dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with a short parity record: an emulated phone takes a second for the full one in each visit."""
    path = tmp_path_factory.mktemp("dist") / NAME
    shutil.copytree(built_dist, path)
    manifest = json.loads((path / MANIFEST).read_text())
    prompt = manifest["parity"]["prompt_ids"][:8]
    known = {"prompt_ids": prompt, "greedy_ids": list(HostModel.load(path).generate(prompt, 4))}
    edit_json(path / MANIFEST, parity=manifest["parity"] | known)
    return path


@pytest.fixture(scope="session")
def runner() -> Path:
    return build_runner()


@pytest.fixture(scope="session")
def _aarch64() -> Iterator[None]:
    with binfmt():
        yield


@pytest.fixture
def adb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbServer]:
    """An adb server for one test."""
    server = AdbServer()
    for name, value in server.environment.items():
        if name.startswith("A"):
            monkeypatch.setenv(name, value)
    yield server
    server.remove()


@pytest.fixture
def make_phone(adb_server: AdbServer, _aarch64: None) -> Iterator[Callable[..., Phone]]:
    """Makes running phones that the adb server knows."""
    phones: list[Phone] = []

    def make(**options: int) -> Phone:
        phone = Phone(**options)
        phones.append(phone)
        phone.start()
        adb_server.connect(phone)
        return phone

    yield make
    for phone in phones:
        phone.remove()


@pytest.fixture
def phone(make_phone: Callable[..., Phone]) -> Phone:
    """A running phone."""
    return make_phone()


@pytest.fixture
def run_bench(tiny_dist: Path, runner: Path, tmp_path: Path) -> Callable[..., BenchOutcome]:
    """Runs a bench of the tiny DIST quickly, into ``run_bench.log``; everything can be changed by keyword.

    However many repetitions there are, they are in two rounds, because an emulated phone takes long to load a model.
    """

    def run(
        device,
        dists=(tiny_dist,),
        log=tmp_path / "log.jsonl",
        resume=False,
        clean=False,
        evidence=None,
        peer=None,
        **options,
    ):
        per_visit = (options.get("repetitions", QUICK.repetitions) + 1) // 2
        ours = {"target": "android-cpu", "runner": runner, "device": device, "per_visit": per_visit}
        quick = QUICK.model_copy(update=ours | options)
        keep = {"resume": resume, "clean": clean, "evidence": evidence, **(peer or {})}
        return bench_models(dists, quick, log=log, format="json", **keep)

    run.log = tmp_path / "log.jsonl"
    return run


@pytest.fixture
def when_logged(tmp_path: Path) -> Iterator[Callable[..., threading.Thread]]:
    """Does something, once, as soon as the log holds `count` records of a kind."""
    threads: list[threading.Thread] = []
    log = tmp_path / "log.jsonl"

    def when(kind: str, count: int, action: Callable[[], object]) -> threading.Thread:
        def watch() -> None:
            end = time.monotonic() + HANG_S
            while time.monotonic() < end:
                if log.exists() and log.read_text().count(f'"kind": "{kind}"') >= count:
                    action()
                    return
                time.sleep(0.02)

        thread = threading.Thread(target=watch)
        threads.append(thread)
        thread.start()
        return thread

    yield when
    for thread in threads:
        thread.join(HANG_S)
