"""The complete bench on the stand-in phone: what a user with a phone sees."""

import json
import os
import subprocess
import sys
import threading

import pytest

from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.drivers.adb.client import AndroidDevice, adb_client
from edge_transact.benchmarking.drivers.adb.devices import describe, find_devices
from edge_transact.benchmarking.drivers.adb.push import sync_files
from edge_transact.benchmarking.drivers.adb.sensors import read_sensors
from edge_transact.benchmarking.evidence import Evidence
from edge_transact.benchmarking.records.log import read_records
from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions
from edge_transact.errors import UsageError
from edge_transact.inputs import read_text
from edge_transact.pruning.options import PruneOptions
from tests.support.bench_logs import repetitions
from tests.support.bench_runs import copy_dist
from tests.support.hostile_names import NAME
from tests.support.patience import HANG_S
from tests.support.phone.phone import adb_server_beside


def test_the_phone_gives_the_hosts_tokens(phone, run_bench, built_dist, tmp_path):
    on_phone = run_bench(phone.serial, dists=[built_dist], repetitions=3)
    on_host = run_bench("host", dists=[built_dist], log=tmp_path / "host.jsonl")
    assert on_phone.failures == on_host.failures == []
    (theirs,), (ours,) = on_phone.results, on_host.results
    assert theirs["tokens"] == ours["tokens"] and len(ours["tokens"]) == 4
    assert theirs["kv_mib"] == ours["kv_mib"]
    assert theirs["tokens_checked"] == theirs["tokens_agreed"] == 17
    assert theirs["repetitions"] == 3 and theirs["tokens_equal"]
    assert theirs["device"] == "Stand-in Paper Phone" and theirs["android"] == "14" and theirs["soc"] == "SM8650"
    assert theirs["temp_start_c"] == theirs["temp_peak_c"] == 29.0 and theirs["throttled"] is False
    assert theirs["cpu_mhz"] == 3302.4 and theirs["energy_per_token_j"] is None
    assert 0 < theirs["bandwidth_share"] < 1
    for name in ("load_s", "ttft_s", "prefill_s", "decode_s", "e2e_s", "peak_rss_mib", "decode_step_p99_s"):
        assert theirs[name] > 0, name
    assert all(sample["e2e_s"] >= sample["ttft_s"] + 0.9 * sample["decode_s"] for sample in theirs["samples"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "cut"),
    [
        pytest.param("demo:tiny", {"ratio": 0.4}, marks=pytest.mark.soak),
        # A third of the heads, a sixth of the MLP.
        pytest.param("demo:smollm2", {"heads": 3, "intermediate": 256}, marks=pytest.mark.soak),
    ],
)
def test_a_pruned_model_gives_the_hosts_tokens(phone, run_bench, tmp_path, monkeypatch, model, cut):
    """With few tokens of the parity record, because the phone is emulated."""
    answer = Manifest.answer
    monkeypatch.setattr(Manifest, "answer", lambda manifest: (answer(manifest)[0], answer(manifest)[1][:3]))
    dist, text = tmp_path / "pruned", tmp_path / "speeches.txt"
    text.write_text(read_text("demo:sotu", "calibration")[:20_000])
    how = BuildOptions(target=["host", "android-cpu"], rounding="nearest", context=128, prefill_chunk=8)
    calibration = {"calibration": str(text), "calibration_tokens": 512}
    pruning = PruneOptions(method="magnitude", **cut, **calibration)
    build(model, dist, how, pruning=pruning)
    options = {"dists": [dist], "lengths": (Lengths(16, 4),), "repetitions": 1, "timeout_s": 600}
    on_phone = run_bench(phone.serial, **options)
    on_host = run_bench("host", log=tmp_path / "host.jsonl", **options)
    assert on_phone.failures == on_host.failures == []
    assert on_phone.results[0]["tokens"] == on_host.results[0]["tokens"]
    assert on_phone.results[0]["tokens_agreed"] == on_phone.results[0]["tokens_checked"] == 3


def settings_of(phone) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in (phone.root / "standin/settings").iterdir()}


def test_nothing_is_left_running_or_changed(phone, run_bench):
    evidence = run_bench.log.with_name("phone.zip")
    (result,) = run_bench(phone.serial, evidence=evidence).results
    (facts,) = Evidence.read(evidence).devices.values()
    assert (facts["name"], facts["soc"]) == ("Stand-in Paper Phone", "SM8650")
    assert {record.serial for record in read_records(evidence)} == {"device-1"}
    assert result["model"] == NAME and not (phone.root / "pwned").exists()
    assert phone.read("/standin/fixed_performance").split()[-1] == "false"
    # The screen was on, and is allowed to go off as before, with what was never set unset.
    assert {record.screen_on for record in repetitions(run_bench.log)} == {True}
    assert settings_of(phone) == {"system.screen_off_timeout": "60000"}
    assert [line for line in phone.processes().values() if "edge-bench" in line] == []
    assert not (phone.tmp / "edge-transact/runs").exists()
    assert list((phone.tmp / "edge-transact/models").iterdir())
    run_bench(phone.serial, resume=True, repetitions=3, clean=True)
    assert not (phone.tmp / "edge-transact").exists()


def test_only_what_changed_is_pushed(phone, tmp_path):
    device = AndroidDevice(adb_client(), phone.serial)
    files = {name: tmp_path / name for name in ("a", "b; rm -rf *", "c'd\"$(id)")}
    for name, path in files.items():
        path.write_bytes(os.urandom(1000) + name.encode())
    directory = '/data/local/tmp/it\'s "here"'
    assert sync_files(device, directory, files) == list(files)
    assert sync_files(device, directory, files) == []
    (phone.tmp / 'it\'s "here"' / "b; rm -rf *").write_bytes(b"damaged")
    assert sync_files(device, directory, files) == ["b; rm -rf *"]
    for name, path in files.items():
        assert (phone.tmp / 'it\'s "here"' / name).read_bytes() == path.read_bytes()


def test_a_device_describes_itself(phone):
    info = describe(AndroidDevice(adb_client(), phone.serial))
    assert (info.name, info.soc, info.sdk, info.android) == ("Stand-in Paper Phone", "SM8650", 34, "14")
    assert info.abis == ("arm64-v8a",) and info.opencl is None and info.on_battery is False
    assert info.memory_mib > info.available_mib > 0
    assert info.bandwidth_gb_s == 76.8
    phone.write("/vendor/lib64/libOpenCL.so", "")
    assert describe(AndroidDevice(adb_client(), phone.serial)).opencl == "/vendor/lib64/libOpenCL.so"


def test_sensors_follow_the_phone(phone):
    device = AndroidDevice(adb_client(), phone.serial)
    phone.set_temperature(41.5)
    phone.write("/standin/thermal_status", 2)
    phone.write("/sys/class/power_supply/battery/status", "Discharging")
    reading = read_sensors(device)
    assert (reading.temp_c, reading.cpu_c, reading.thermal_status, reading.on_battery) == (41.5, 41.5, 2, True)
    assert (reading.battery_percent, reading.battery_v, reading.charge_uah) == (84, 4.1, 4000000)


def test_two_models_on_two_phones_of_one_name_at_once(make_phone, run_bench, tiny_dist, tmp_path):
    phones = [make_phone(), make_phone()]
    other = tmp_path / "other"
    copy_dist(tiny_dist, other)
    outcome = run_bench("all", dists=[tiny_dist, other], repetitions=1)
    assert outcome.failures == []
    measured = [(result["serial"], result["model"]) for result in outcome.results]
    assert sorted(measured) == sorted((phone.serial, name) for phone in phones for name in (NAME, "other"))
    names = {f"Stand-in Paper Phone ({phone.serial})" for phone in phones}
    assert {result["device"] for result in outcome.results} == names


def test_a_phone_that_adb_lists_twice_is_used_once(phone, adb_server):
    again = phone.serial.replace("10.", "0xa.", 1)
    assert "connected to" in adb_server.adb("connect", again).stdout
    (device,) = find_devices("all")
    assert device.serial in (phone.serial, again)
    with pytest.raises(UsageError, match="are one phone"):
        find_devices(f"{phone.serial},{again}")


def test_a_phone_at_another_computer(phone, run_bench, monkeypatch):
    # That computer's adb does not know the phone yet.
    with adb_server_beside(phone) as (address, serial), monkeypatch.context() as patch:
        patch.setenv("ADB_SERVER_SOCKET", f"tcp:{address}")
        outcome = run_bench(serial, repetitions=1)
    assert outcome.failures == [] and outcome.results[0]["serial"] == serial


def test_energy_is_reported_only_on_battery(phone, run_bench):
    phone.write("/sys/class/power_supply/battery/status", "Discharging")
    drained = threading.Event()

    def drain():
        charge = 4_000_000
        while not drained.wait(0.1):
            charge -= 500
            phone.write("/sys/class/power_supply/battery/charge_counter", charge)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        outcome = run_bench(phone.serial, lengths=(Lengths(16, 112),), sample_s=0.1)
    finally:
        drained.set()
        thread.join(HANG_S)
    assert outcome.results[0]["energy_per_token_j"] > 0


def test_the_command_prints_json_and_resumes(phone, tiny_dist, runner, tmp_path):
    command = [
        sys.executable, "-m", "edge_transact", "bench", str(tiny_dist), "--device", phone.serial,
        "--runner", str(runner),
        "--lengths", "8+4", "--repetitions", "1", "--warmups", "0", "-o", str(tmp_path / "log.jsonl"), "--json",
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    (result,) = json.loads(first.stdout.splitlines()[-1])["results"]
    assert result["target"] == "android-cpu" and result["prefill_tokens"] == 8 and len(result["samples"]) == 1
    more = ["--format", "sqlite", "--report", str(tmp_path / "report")]
    again = subprocess.run([*command, *more], capture_output=True, text=True)
    assert again.returncode == 0 and json.loads(again.stdout.splitlines()[-1])["results"] == [result]
    assert len(repetitions(tmp_path / "log.jsonl")) == 1
    names = ("log.sqlite", "report/index.html", "report/1-latency.svg", "report/1-temperature.svg")
    assert all((tmp_path / name).stat().st_size for name in names)
