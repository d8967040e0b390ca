"""Fixtures of the bench's tests: stand-in phones, a private adb server, the runner, and a built DIST."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_transact.bench.records.plan import Lengths
from edge_transact.bench.run import Conditions
from tests.support.phone.phone import AdbServer, Phone
from tests.support.phone.root import missing
from tests.support.phone.runner import build_runner

QUICK = Conditions(
    lengths=(Lengths(8, 4),), repetitions=2, warmups=0, timeout_s=60, cool_timeout_s=20, reconnect_s=30, sample_s=1
)

NASTY = 'it\'s a "tiny" $(touch pwned); `touch pwned` & touch pwned\n* | <b> \\ é -n #'
"""What a DIST may be called: no shell and no page may take any of it for a command."""


@pytest.fixture(scope="session")
def tiny_dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny trained LLaMA in q4f32_1, for this host and for the phone's CPU."""
    from edge_transact.build.dist import build
    from edge_transact.build.options import BuildOptions

    path = tmp_path_factory.mktemp("dist") / NASTY
    build("demo:tiny", path, BuildOptions(target=["host", "android-cpu"], quant="q4f32_1"))
    return path


def copy_dist(dist: Path, to: Path) -> None:
    """The same model as another build: the manifest's layout differs, and so its digest."""
    shutil.copytree(dist, to)
    manifest = json.loads((to / "manifest.json").read_text())
    (to / "manifest.json").write_text(json.dumps(manifest, indent=len(to.name)))


@pytest.fixture(scope="session")
def runner(_phone_possible: None) -> Path:
    return build_runner()


@pytest.fixture(scope="session")
def _phone_possible() -> None:
    if lacks := missing():
        pytest.skip(f"the stand-in phone needs {', '.join(lacks)}")


@pytest.fixture
def adb_server(_phone_possible: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbServer]:
    server = AdbServer()
    for name, value in server.environment.items():
        if name.startswith("A"):
            monkeypatch.setenv(name, value)
    yield server
    server.remove()


@pytest.fixture
def make_phone(adb_server: AdbServer) -> Iterator[Callable[..., Phone]]:
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
    return make_phone()


@pytest.fixture
def run_bench(tiny_dist: Path, runner: Path, tmp_path: Path):
    """`session.bench_models` on the tiny DIST, quickly; conditions can be changed by keyword."""
    from edge_transact.bench.session import bench_models

    own = {
        "dists": [tiny_dist],
        "log": tmp_path / "log.jsonl",
        "resume": False,
        "runner": runner,
        "app": "",
        "clean": False,
    }

    def run(device: str, **options):
        session = {name: options.pop(name, value) for name, value in own.items()}
        conditions = replace(QUICK, **options)
        return bench_models(
            session.pop("dists"), conditions, device=device, target="android-cpu", format="json", **session
        )

    run.log = tmp_path / "log.jsonl"
    return run


@pytest.fixture
def when_logged(tmp_path: Path) -> Iterator[Callable[..., threading.Thread]]:
    """Does something, once, as soon as the log holds so many records of a kind."""
    threads: list[threading.Thread] = []
    log = tmp_path / "log.jsonl"

    def when(kind: str, count: int, action: Callable[[], object]) -> threading.Thread:
        def watch() -> None:
            end = time.monotonic() + 60
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
        thread.join(60)
