"""`install`: what reaches a phone is complete, right and sent once, whatever happens on the way."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from edge_transact.benchmarking.drivers.adb import client
from edge_transact.benchmarking.drivers.adb.app_folder import STAGING, AppFolder
from edge_transact.benchmarking.drivers.base import DeviceInfo, DeviceLost, DeviceRefused
from edge_transact.bundling import install as installing
from edge_transact.bundling import sources
from edge_transact.bundling.install import install, install_app
from edge_transact.bundling.models import ASSETS, MODELS_JSON, AppModels
from edge_transact.bundling.project import Project, bundle
from edge_transact.errors import EdgeTransactError, UsageError
from tests.support.command import run, said
from tests.support.dists import make_dist
from tests.support.examples import examples_with, run_line
from tests.support.kills import Runs
from tests.support.patience import HANG_S

pytestmark = pytest.mark.needs("clang-19")

PACKAGE = "org.example.chat"
HOME = f"sdcard/Android/data/{PACKAGE}/files/models"
MODULES = ["edge_transact.cli.install", "edge_transact.bundling.install", "adbutils"]
SHARDS = [bytes([index]) * 300_000 for index in range(1, 4)]


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    return make_dist(tmp_path_factory.mktemp("dist") / "big", shards=SHARDS)


@pytest.fixture(scope="module")
def project(dist, tmp_path_factory) -> Path:
    """A project whose model is too large for the app."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "ASSETS_BYTES", 1000)
        return bundle([dist], tmp_path_factory.mktemp("project") / "app", application_id=PACKAGE).directory


def with_app(phone):
    """The phone, with the app on it."""
    (phone.root / "data/app").mkdir(parents=True, exist_ok=True)
    (phone.root / "data/app" / PACKAGE).touch()
    return phone


@pytest.fixture
def chat(phone):
    return with_app(phone)


def complete(models: Path, identifier: str, dist: Path) -> bool:
    """Whether a directory of models has this one alone, with the files of the DIST and no others that hold anything."""
    names = {path.name for path in dist.iterdir() if path.is_file()} - {"manifest.json", "edge_transact.json"}
    model = models / identifier
    assert {path.name for path in models.iterdir()} == {identifier}
    assert {path.name for path in model.iterdir() if path.stat().st_size} == names
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in model.iterdir()), "the app is another user"
    return all((model / name).read_bytes() == (dist / name).read_bytes() for name in names)


def test_weights_arrive_and_are_sent_once(chat, project, dist):
    first = install(project)
    assert complete(chat.root / HOME, "big", dist)
    assert (first.device, first.application_id, first.models) == (chat.serial, PACKAGE, ["big"])
    assert len(first.files) == 6
    assert first.bytes == sum(path.stat().st_size for path in (chat.root / HOME / "big").iterdir())
    assert install(project, device=chat.serial).files == []

    # A file that was damaged is sent again, and one that doesn't belong there goes.
    (chat.root / HOME / "big/params_shard_1.bin").write_bytes(b"x")
    (chat.root / HOME / "big/params_shard_3.bin").write_bytes(b"an older version's")
    again = install(project)
    assert again.files == ["models/big/params_shard_1.bin"] and again.bytes == 300_000
    assert complete(chat.root / HOME, "big", dist)


def test_two_models_of_one_name_at_once_arrive_one_after_the_other(chat, dist, tmp_path, monkeypatch):
    other = make_dist(tmp_path / "big", shards=[bytes([7]) * 300_000] * 3)
    put, at_work, most = installing._put, [], []

    def counted(*arguments):
        at_work.append(arguments)
        most.append(len(at_work))
        time.sleep(0.3)
        try:
            return put(*arguments)
        finally:
            at_work.pop()

    monkeypatch.setattr(installing, "_put", counted)
    with ThreadPoolExecutor() as threads:
        calls = [threads.submit(install, source, application_id=PACKAGE) for source in (dist, other)]
        assert all(call.result().files for call in calls)
    assert most == [1, 1]
    assert complete(chat.root / HOME, "big", dist) != complete(chat.root / HOME, "big", other)


def test_an_apps_folder_is_closed_to_adb_and_only_partly_open_to_its_shell(chat, tmp_path):
    """The stand-in refuses what Android 11 and later refuse, so that the other tests would fail."""
    phone = client.AndroidDevice(client.adb_client(), chat.serial)
    assert "Permission denied" in phone.shell("mkdir", f"/sdcard/Android/data/{PACKAGE}").stderr
    folder = AppFolder(phone, PACKAGE)
    target = f"{folder.make('models')}/file"
    with pytest.raises(DeviceRefused, match="fchown failed"):
        phone.push(b"text", target)
    (tmp_path / "text").write_bytes(b"text")
    subprocess.run(["adb", "-s", chat.serial, "push", tmp_path / "text", "/data/local/tmp/text"], check=True)
    for line, words in (
        (f"cp /data/local/tmp/text {target}", ""),
        (f"touch {target}", "Operation not permitted"),
        (f"rm {target}", "Permission denied"),
        (f"mv {target} {target}2", "Permission denied"),
        (f"cd {folder.path}; rm -r models", "Permission denied"),
        (f"echo more >> {target}", ""),
    ):
        done = phone.script(line)
        assert words in done.stderr and bool(done.code) == bool(words), line
    assert (chat.root / HOME / "file").read_text() == "textmore\n"
    folder.remove(target, f"{target}2")
    assert (chat.root / HOME / "file").read_bytes() == b""


def test_a_dist_goes_into_a_named_app(chat, dist, tmp_path):
    odd = Path(shutil.copytree(dist, tmp_path / "o'dd $(reboot) <&>\n😀"))
    sent = said("install", odd, "--application-id", PACKAGE, "--device", chat.serial)
    assert sent["models"] == ["o-dd-reboot"] and sent["bytes"] > 900_000 and len(sent["files"]) == 6
    assert complete(chat.root / HOME, "o-dd-reboot", dist)
    with pytest.raises(UsageError, match="is a DIST"):
        install(dist)
    with pytest.raises(UsageError, match="part of a Java package"):
        install(dist, application_id="org.$(reboot)")


def test_a_phone_that_goes_away_gets_the_rest_when_it_is_back(chat, project, dist, monkeypatch):
    chunks, lost = client._chunks, []

    def chunks_until_lost(source):
        for number, chunk in enumerate(chunks(source)):
            if number == 2 and "shard_1" in str(source) and not lost:
                lost.append(True)
                chat.reboot()
            yield chunk

    monkeypatch.setattr(client, "_chunks", chunks_until_lost)
    sent = install(project)
    assert lost and len(sent.files) == 6
    assert complete(chat.root / HOME, "big", dist)


def test_a_phone_that_stays_away_is_an_error_and_the_next_call_goes_on(chat, project, dist, monkeypatch):
    monkeypatch.setattr(installing, "RETURN_S", 0)
    accept, accepted = AppFolder.put, []

    def until_gone(folder, source, target, digest, **options):
        if len(accepted) == 4:
            chat.cut_network(0)
            raise DeviceLost("gone")
        accepted.append(target)
        accept(folder, source, target, digest, **options)

    monkeypatch.setattr(AppFolder, "put", until_gone)
    monkeypatch.setattr(client.AndroidDevice, "wait", lambda *_: False)
    with pytest.raises(DeviceLost):
        install(project)
    assert len(list((chat.root / HOME / "big").iterdir())) == 4
    monkeypatch.undo()
    # For adb, it is still offline for a moment.
    assert client.AndroidDevice(client.adb_client(), chat.serial).wait(HANG_S, threading.Event())
    assert len(install(project, device=chat.serial).files) == 2
    assert complete(chat.root / HOME, "big", dist)


SLOW = """
import edge_transact.benchmarking.drivers.adb.client as c, time, runpy
push = c.AndroidDevice.push
c.AndroidDevice.push = lambda *a, **o: (time.sleep(0.3), push(*a, **o))
runpy.run_module('edge_transact', run_name='__main__', alter_sys=True)
"""


def test_a_process_that_is_killed(chat, project, dist, monkeypatch):
    words = ["install", str(project), "--device", chat.serial]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *words], stderr=subprocess.DEVNULL)
    model = chat.root / HOME / "big"
    end = time.monotonic() + HANG_S
    while time.monotonic() < end and not whole(model, "params_shard_0.bin", dist):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = [path.name for path in model.iterdir() if whole(model, path.name, dist)]
    assert "params_shard_0.bin" in there and len(there) < 6
    # What the shell was copying, and a file that had only been pushed.
    (model / "params_shard_1.bin").write_bytes(SHARDS[1][:1000])
    digest = hashlib.sha256(SHARDS[1]).hexdigest()
    (chat.tmp / "edge-transact/staging" / digest).write_bytes(SHARDS[1])
    pushed = []
    send = client.AndroidDevice.push
    monkeypatch.setattr(client.AndroidDevice, "push", lambda *a, **o: (pushed.append(a[2]), send(*a, **o)))
    assert len(install(project, device=chat.serial).files) == 6 - len(there)
    assert f"{STAGING}/{digest}" not in pushed and len(pushed) <= 6 - len(there)
    assert complete(chat.root / HOME, "big", dist)
    assert list((chat.tmp / "edge-transact/staging").iterdir()) == []


def whole(model: Path, name: str, dist: Path) -> bool:
    return (model / name).exists() and (model / name).read_bytes() == (dist / name).read_bytes()


@pytest.fixture
def runs(chat, tmp_path):
    with Runs(tmp_path, MODULES) as running:
        yield running


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_killed_at_any_request(times, chat, project, dist, runs, tmp_path):
    """By any signal, at a request to adb or a moment after: the next call sends the rest."""
    words, dice = ("install", project, "--device", chat.serial, "--json"), random.Random(times)
    models, staging = chat.root / HOME, chat.tmp / "edge-transact/staging"
    undisturbed = runs.run(*words)
    assert undisturbed.code == 0 and undisturbed.events > 15, undisturbed
    shutil.rmtree(models)
    for _ in range(times):
        there = [path.name for path in models.glob("big/*") if whole(path.parent, path.name, dist)]
        number = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
        after_s = dice.choice([0, dice.random() / 20])
        ended = runs.run(*words, at=dice.randint(1, undisturbed.events), number=number, after_s=after_s)
        assert ended.code in (0, 130, 143, -signal.SIGKILL, -signal.SIGALRM) and not ended.left, ended
        assert os.listdir(tmp_path / "tmp") == [], ended
        if ended.code == 0:
            assert len(json.loads(ended.stdout)["files"]) == 6 - len(there)
            assert complete(models, "big", dist) and os.listdir(staging) == []
            shutil.rmtree(models)
    assert runs.run(*words).code == 0 and complete(models, "big", dist) and os.listdir(staging) == []


def test_storage_that_is_full(make_phone, project, dist):
    """Files are copied one by one, so there must be room for all of them and the largest once more."""
    phone = with_app(make_phone(storage_mib=2))
    shutil.rmtree(phone.root / "sdcard")
    (phone.root / "sdcard").symlink_to("/data/local/tmp")
    (phone.tmp / "Android/data").mkdir(parents=True)
    photos = phone.tmp / "photos"
    photos.write_bytes(bytes(1_000_000))
    with pytest.raises(DeviceRefused, match=r"has 1\.1 MB of storage free, and 1\.2 MB are needed") as no:
        install(project)
    assert "Free space" in no.value.fix
    photos.write_bytes(bytes(800_000))
    assert len(install(project).files) == 6
    assert complete(phone.tmp / HOME.removeprefix("sdcard/"), "big", dist)


def test_a_phone_that_is_too_small_for_the_model(chat, project, tmp_path):
    small = Path(shutil.copytree(project, tmp_path / "app"))
    models = json.loads((small / ASSETS / MODELS_JSON).read_text())
    models["models"][0]["memory_bytes"] = {"android": 1 << 50, "android-cpu": 1 << 50}
    (small / ASSETS / MODELS_JSON).write_text(json.dumps(models))
    with pytest.raises(EdgeTransactError, match=r"big needs 1125899\.91 GB of memory, and Stand-in Paper Phone has"):
        install(small)
    assert not (chat.root / HOME).exists()


@pytest.mark.parametrize(("abi", "refused"), [("arm64-v8a", False), ("x86_64", False), ("armeabi-v7a", True)])
def test_phones_and_emulators_whose_libraries_can_be_built(dist, abi, refused):
    model = sources.describe_model(dist, "big").model
    info = DeviceInfo(
        serial="s", name="It", abis=(abi,), android="14", sdk=34, memory_mib=8000.0, available_mib=4000.0, opencl=None,
        battery_percent=50, on_battery=True,
    )  # fmt: skip
    says = pytest.raises(EdgeTransactError, match="It runs armeabi-v7a, not arm64-v8a or x86_64")
    with says if refused else nullcontext():
        installing._require(model, info)


def test_a_project_that_was_damaged(chat, project, tmp_path):
    damaged = Path(shutil.copytree(project, tmp_path / "app"))
    (damaged / "models/big/params_shard_2.bin").write_bytes(b"x")
    with pytest.raises(EdgeTransactError, match=r"params_shard_2\.bin changed after the build"):
        install(damaged)
    assert list((chat.root / HOME / "big").iterdir()) == []


def test_which_phone_and_which_app(adb_server, make_phone, project, dist):
    with pytest.raises(EdgeTransactError, match="adb sees no device"):
        install(project)
    first, second = make_phone(), with_app(make_phone())
    with pytest.raises(UsageError, match="there are 2 phones") as no:
        install(project)
    assert "--device" in no.value.fix
    with pytest.raises(EdgeTransactError, match=f"has no app {PACKAGE}"):
        install(project, device=first.serial)
    assert install(project, device=second.serial).models == ["big"]


def test_an_app_is_installed_with_its_weights(chat, project, dist, tmp_path):
    (tmp_path / "app.apk").write_bytes(os.urandom(1000))
    done = install_app(Project.read(project), tmp_path / "app.apk", None)
    assert done.models == ["big"] and complete(chat.root / HOME, "big", dist)
    assert (chat.root / "standin/installed.apk").read_bytes() == (tmp_path / "app.apk").read_bytes()
    assert list(chat.tmp.glob("*.apk")) == []


def test_models_that_travel_in_the_app_need_no_phone_space(chat, dist, tmp_path):
    inside = bundle([dist], tmp_path / "app").directory
    assert [model.weights for model in AppModels.of_project(inside).models] == ["assets"]
    result = run("install", inside)
    assert result.exit_code == 0 and "travel in the app" in result.stdout


@pytest.mark.parametrize("line", examples_with("transact install"))
def test_examples_of_pages_and_help_install(line, chat, project, dist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("app").symlink_to(project)
    Path("dist").symlink_to(dist)
    run_line(line)
    assert [path.name for path in (chat.root / HOME).iterdir()] in (["big"], ["dist"])
