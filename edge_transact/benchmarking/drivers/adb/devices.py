"""Finds Android devices, and asks each about itself before anything is measured on it."""

from __future__ import annotations

import logging
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from edge_transact.benchmarking.drivers.adb.client import AndroidDevice, adb_client
from edge_transact.benchmarking.drivers.adb.clusters import CPUS, parse_clusters
from edge_transact.benchmarking.drivers.adb.sensors import integer
from edge_transact.benchmarking.drivers.base import DeviceInfo
from edge_transact.errors import EdgeTransactError, UsageError

if TYPE_CHECKING:
    import adbutils

logger = logging.getLogger(__name__)

MINIMUM_SDK = 28
"""Android 9, the oldest that the runner is built for."""

SETTLE_S = 10
"""How long a device may take to accept or refuse adb."""

LOW_BATTERY_PERCENT = 15
"""Below this level Android saves power, unless the phone is plugged in."""

WORK_DIRECTORY = "/data/local/tmp/edge-transact"

_OPENCL_PATHS = (
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
    "/vendor/lib64/libOpenCL-pixel.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/vendor/lib64/libPVROCL.so",
)

# One round trip: properties, memory, OpenCL, battery, cores.
_DESCRIBE = f"""
getprop
cat /proc/meminfo
for path in "$@"; do [ -e "$path" ] && echo "opencl: $path"; done
dumpsys battery 2>/dev/null
{CPUS}
exit 0
"""


def find_devices(selector: str) -> list[AndroidDevice]:
    """The devices that ``--device`` names: a serial, several joined by commas, or ``all``.

    An address that adb does not know is connected to. A phone that adb knows by several serials is one of ``all``, over
    USB where it is plugged in. An `EdgeTransactError` if there is none, or one is unknown, named twice or offline.
    """
    client = adb_client()
    import adbutils

    named = None if selector == "all" else list(dict.fromkeys(part for part in selector.split(",") if part))
    states = _states(client)
    if new := [serial for serial in named or [] if ":" in serial and serial not in states]:
        for address in new:
            # If this fails, adb still doesn't know the device, which is reported below.
            with suppress(adbutils.AdbError, EOFError, OSError, ValueError):
                client.connect(address, timeout=5)
        states = _states(client)
    # Those over a network last.
    wanted = named if named is not None else sorted(states, key=lambda name: (":" in name or "._tcp" in name, name))
    if not wanted:
        raise EdgeTransactError(
            "adb sees no device",
            fix="Turn on USB debugging and plug a phone in, or `adb connect ADDRESS`; `--device host` needs none.",
        )
    for serial in wanted:
        _check_state(serial, states)
    phones: dict[str, AndroidDevice] = {}
    for device in (AndroidDevice(client, serial) for serial in wanted):
        first = phones.setdefault(_identity(device) if len(wanted) > 1 else device.serial, device)
        if first is not device:
            if named is not None:
                raise UsageError(f"{first.serial} and {device.serial} are one phone", fix="Name one of them.")
            logger.info(f"{device.serial} is the same phone as {first.serial}, which is used")
    return list(phones.values())


def _identity(device: AndroidDevice) -> str:
    """What a phone says of itself however adb reaches it. A boot has an id, since some phones share a serial number."""
    said = device.script("getprop ro.serialno; cat /proc/sys/kernel/random/boot_id").stdout
    return said if said.partition("\n")[0].strip() else device.serial


def _states(client: adbutils.AdbClient) -> dict[str, str]:
    """State of each device, by serial, once no device is in a transient state."""
    import adbutils

    deadline = time.monotonic() + SETTLE_S
    try:
        while True:
            states = {entry.serial: entry.state for entry in client.list()}
            if not {"authorizing", "connecting"} & set(states.values()) or time.monotonic() > deadline:
                return states
            time.sleep(0.2)
    except (adbutils.AdbError, EOFError, OSError, ValueError) as error:
        raise EdgeTransactError(
            f"no adb server at {client.host}:{client.port}: {str(error)[:200]}",
            fix="Install Android's platform tools and run `adb start-server`, or check ADB_SERVER_SOCKET.",
        ) from error


def _check_state(serial: str, states: dict[str, str]) -> None:
    state = states.get(serial)
    if state == "device":
        return
    if state is None:
        known = ", ".join(sorted(states)) or "none"
        raise UsageError(f"adb knows no device {serial[:80]!r}", fix=f"It knows: {known}. See `adb devices`.")
    fix = {
        "authorizing": "Unlock the phone and allow USB debugging from this computer.",
        "unauthorized": "Unlock the phone and allow USB debugging from this computer.",
        "offline": f"Plug it in again, or `adb disconnect {serial}` and `adb connect {serial}`.",
    }.get(state, "Boot it into Android.")
    raise EdgeTransactError(f"device {serial} is {state}", fix=fix)


def describe(device: AndroidDevice) -> DeviceInfo:
    result = device.script(_DESCRIBE, *_OPENCL_PATHS)
    values: dict[str, str] = {}
    for line in result.stdout.splitlines():
        # getprop puts names and values in brackets.
        match = re.fullmatch(r"\s*\[?([\w. ]+?)\]?: *\[?(.*?)\]?\s*", line)
        if match and match[2]:
            values.setdefault(match[1], match[2])
    powered = [values.get(f"{source} powered") for source in ("AC", "USB", "Wireless", "Dock")]
    name = " ".join(values[key] for key in ("ro.product.manufacturer", "ro.product.model") if key in values)
    return DeviceInfo(
        serial=device.serial,
        name=name or device.serial,
        soc=values.get("ro.soc.model"),
        abis=tuple(values.get("ro.product.cpu.abilist", "").split(",")),
        android=values.get("ro.build.version.release"),
        sdk=integer(values.get("ro.build.version.sdk")),
        fingerprint=values.get("ro.build.fingerprint"),
        memory_mib=_kib_as_mib(values.get("MemTotal")),
        available_mib=_kib_as_mib(values.get("MemAvailable")),
        opencl=values.get("opencl"),
        battery_percent=integer(values.get("level")),
        on_battery=None if set(powered) == {None} else "true" not in powered,
        clusters=parse_clusters(result.stdout),
    )


def check(info: DeviceInfo, target: str, needed_mib: float) -> None:
    """Raise an `EdgeTransactError` for what cannot work, before anything is pushed."""
    if "arm64-v8a" not in info.abis:
        raise EdgeTransactError(
            f"{info.serial} runs {', '.join(info.abis) or 'an unknown ABI'}, not arm64-v8a",
            fix="The libraries are built for 64-bit ARM: use another device.",
        )
    if info.sdk is not None and info.sdk < MINIMUM_SDK:
        raise EdgeTransactError(
            f"{info.serial} has Android {info.android} (API {info.sdk})",
            fix=f"API {MINIMUM_SDK} (Android 9) or newer is needed.",
        )
    if target == "android" and info.opencl is None:
        raise EdgeTransactError(
            f"{info.serial} has no OpenCL library", fix="Build with `--target android-cpu`, and bench that."
        )
    if info.available_mib is not None and needed_mib > info.available_mib:
        raise EdgeTransactError(
            f"{info.serial} has {info.available_mib:.0f} MiB of memory free, and {needed_mib:.0f} MiB are needed",
            fix="Close apps on the device, build with a smaller --context, or try with --ignore-memory.",
        )
    if info.on_battery and info.battery_percent is not None and info.battery_percent <= LOW_BATTERY_PERCENT:
        raise EdgeTransactError(
            f"{info.serial} has {info.battery_percent} % of its battery left",
            fix="A phone that saves power is slow: charge it.",
        )


def _kib_as_mib(text: str | None) -> float | None:
    match = re.match(r"\d+", text or "")
    return int(match[0]) / 1024 if match else None
