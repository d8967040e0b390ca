"""What is refused before anything is pushed, and how a phone's sensors are read."""

import subprocess
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from edge_transact.benchmarking.drivers import host
from edge_transact.benchmarking.drivers.adb import client, devices
from edge_transact.benchmarking.drivers.adb.client import AndroidDevice, ShellOutput
from edge_transact.benchmarking.drivers.adb.devices import check
from edge_transact.benchmarking.drivers.adb.sensors import READ_SCRIPT, parse_sensors
from edge_transact.benchmarking.drivers.base import DeviceInfo
from edge_transact.benchmarking.records.readings import Reading, energy_j
from edge_transact.errors import EdgeTransactError, UsageError

PHONE = DeviceInfo(
    serial="s", name="Phone", abis=("arm64-v8a", "armeabi-v7a"), android="14", sdk=34, memory_mib=8000.0,
    available_mib=4000.0, opencl="/vendor/lib64/libOpenCL.so", battery_percent=50, on_battery=True,
)  # fmt: skip


PHONES = {
    "192.168.1.7:5555": "A1\nboot-a\n",
    "A1": "A1\nboot-a\n",
    "adb-A1-xyz._adb-tls-connect._tcp": "A1\nboot-a\n",
    "192.168.1.8:5555": "0123456789\nboot-b\n",
    "192.168.1.9:5555": "0123456789\nboot-c\n",
    "emulator-5554": "\nboot-d\n",
    "emulator-5556": "\nboot-d\n",
}
"""Serial number and boot of what adb lists: one phone three times, two of one number, and two without one."""


def serials(selector: str) -> list[str]:
    return [phone.serial for phone in devices.find_devices(selector)]


@pytest.fixture
def entries(monkeypatch) -> list[SimpleNamespace]:
    """What adb lists."""
    listed = [SimpleNamespace(serial=serial, state="device") for serial in PHONES]
    monkeypatch.setattr(devices, "adb_client", lambda: SimpleNamespace(list=lambda: listed))
    monkeypatch.setattr(AndroidDevice, "script", lambda phone, _: ShellOutput(0, PHONES[phone.serial], ""))
    return listed


def test_each_phone_is_found_once_and_over_usb_where_it_is_plugged_in(entries, caplog):
    caplog.set_level("INFO", "edge_transact")
    assert serials("all") == ["A1", "emulator-5554", "emulator-5556", "192.168.1.8:5555", "192.168.1.9:5555"]
    assert "192.168.1.7:5555 is the same phone as A1, which is used" in caplog.text
    assert serials("192.168.1.9:5555,192.168.1.8:5555") == ["192.168.1.9:5555", "192.168.1.8:5555"]
    assert serials("A1,A1") == ["A1"]
    with pytest.raises(UsageError, match=r"192.168.1.7:5555 and A1 are one phone"):
        serials("192.168.1.7:5555,A1")


@pytest.mark.parametrize("port", ["²", "99999", "65536", "-1", "", "9" * 5000])
@pytest.mark.parametrize(("variable", "value"), [("ANDROID_ADB_SERVER_PORT", ""), ("ADB_SERVER_SOCKET", "tcp:[::1]:")])
def test_a_server_at_no_port_is_refused(monkeypatch, variable, value, port):
    monkeypatch.setenv(variable, value + port)
    with pytest.raises(UsageError, match="the adb server's port is ") as error:
        client.adb_client()
    assert len(error.value.message) < 100


def test_a_phone_that_does_not_trust_this_computer(entries):
    entries[1].state = "unauthorized"
    with pytest.raises(EdgeTransactError, match="device A1 is unauthorized") as error:
        serials("A1")
    assert "allow USB debugging" in error.value.fix


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"abis": ("armeabi-v7a",)}, "not arm64-v8a"),
        ({"sdk": 27, "android": "8.1"}, "Android 8.1"),
        ({"opencl": None}, "no OpenCL"),
        ({"available_mib": 999.0}, "999 MiB of memory free, and 1000 MiB are needed"),
        ({"battery_percent": 9}, "9 % of its battery"),
    ],
)
def test_what_cannot_work_is_refused(changed, words):
    check(PHONE, "android", 1000)
    with pytest.raises(EdgeTransactError, match=words) as error:
        check(replace(PHONE, **changed), "android", 1000)
    assert error.value.fix


def test_an_unknown_value_is_no_reason_to_refuse():
    silent = {"android": None, "sdk": None, "available_mib": None, "battery_percent": None, "on_battery": None}
    check(replace(PHONE, **silent), "android", 1000)
    check(replace(PHONE, opencl=None), "android-cpu", 1000)
    check(replace(PHONE, battery_percent=9, on_battery=False), "android", 1000)


def test_sysfs_is_read_where_the_thermal_service_is_silent():
    text = """
== battery
  temperature: 301
== zones
cpu-0-0 45000
cpu-1-0 52500
gpuss-0 -274000
skin-therm 38100
pm8550_tz 99000
== clocks
1804800
3302400
== gpu
680000000
"""
    reading = parse_sensors(text, 1.0)
    assert (reading.temp_c, reading.cpu_c, reading.gpu_c, reading.thermal_status) == (38.1, 52.5, None, None)
    assert (reading.cpu_mhz, reading.gpu_mhz, reading.on_battery) == (3302.4, 680.0, None)
    assert (reading.temp_source, reading.warmth, reading.screen_on) == ("skin", "38.1 C", None)
    of_battery = parse_sensors(text.replace("skin-therm 38100", "") + "== screen\nfalse\n", 1.0)
    assert (of_battery.temp_c, of_battery.temp_source, of_battery.screen_on) == (30.1, "battery", False)
    assert of_battery.warmth == "30.1 C of the battery"
    assert parse_sensors("", 1.0) == Reading(at_s=1.0)


@pytest.mark.parametrize(
    ("files", "mhz"),
    [
        ({"class/kgsl/kgsl-3d0/gpuclk": 680_000_000, "class/kgsl/kgsl-3d0/devfreq/cur_freq": 1}, 680),  # Adreno
        ({"class/misc/mali0/device/cur_freq": 890_000}, 890),  # a Pixel
        ({"class/misc/mali0/device/clock": 754}, 754),  # a Galaxy with Exynos
        ({"class/misc/mali0/device/devfreq/13000000.mali/cur_freq": 1_000_000_000}, 1000),  # Mali's own driver
        ({"class/devfreq/13040000.mali/cur_freq": 390_000_000}, 390),
        ({"kernel/gpu/gpu_clock": 221}, 221),
        ({}, None),
    ],
)
def test_gpus_say_their_clock_where_their_drivers_have_it(tmp_path, files, mhz):
    """The script itself, on files where the makers' drivers have them, in their units."""
    for name, value in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(f"{value}\n")
    script = READ_SCRIPT.replace("/sys/", f"{tmp_path}/sys/")
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=20).stdout
    assert parse_sensors(said, 1.0).gpu_mhz == mhz


def test_the_hosts_sensors_are_read(monkeypatch):
    def sensor(label: str, current: float) -> SimpleNamespace:
        return SimpleNamespace(label=label, current=current)

    temperatures = {
        "cpu_thermal": [sensor("", 50.0), sensor("", 61.5)],
        "tz": [sensor("skin", 33.0)],
        "nvme": [sensor("Composite", 80.0)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: temperatures)
    monkeypatch.setattr(psutil, "cpu_freq", lambda percpu: [SimpleNamespace(current=mhz) for mhz in (800.0, 2400.0)])
    monkeypatch.setattr(psutil, "sensors_battery", lambda: SimpleNamespace(percent=79.6, power_plugged=False))
    reading = host.read_sensors()
    assert (reading.temp_c, reading.cpu_c, reading.gpu_c, reading.cpu_mhz) == (33.0, 61.5, None, 2400.0)
    assert (reading.battery_percent, reading.on_battery) == (80, True)
    for name, value in (("sensors_temperatures", {}), ("sensors_battery", None), ("cpu_freq", [])):
        monkeypatch.setattr(psutil, name, lambda value=value, **_: value)
    assert replace(host.read_sensors(), at_s=0.0) == Reading(at_s=0.0)


def test_energy_is_the_charge_that_left_the_battery():
    def reading(at_s: float, charge_uah: int | None, on_battery: bool | None = True) -> Reading:
        return Reading(at_s=at_s, charge_uah=charge_uah, battery_v=4.0, on_battery=on_battery)

    start, end = reading(0, 3_000_000), reading(10, 2_990_000)
    # 10 mAh in 10 s are 3.6 A, or 14.4 W at 4 V. The repetition took half of the time.
    assert energy_j([start, end], 5) == pytest.approx(72)
    plugged = [reading(5, 2_995_000, on_battery=False), reading(5, 2_995_000, on_battery=None)]
    unknown = [[start], *([start, reading(10, charge)] for charge in (3_000_000, 3_001_000, None))]
    for readings in (*unknown, *([start, between, end] for between in plugged)):
        assert energy_j(readings, 5) is None
