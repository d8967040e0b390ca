"""Finding Android devices, and what each tells about itself before anything is measured on it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edge_transact.bench.drivers.adb import AndroidDevice, adb_client, quote
from edge_transact.errors import EdgeTransactError, UsageError

MINIMUM_SDK = 28
"""Android 9, which the runner is built for."""

SETTLE_S = 10
"""How long a device may take to let adb in, or not."""

LOW_BATTERY_PERCENT = 15
"""Here Android begins to save power, unless the phone is plugged in."""

WORK_DIRECTORY = "/data/local/tmp/edge-transact"

BANDWIDTH_GB_S = {"SM8550": 67.2, "SM8650": 76.8, "SM8750": 84.8}
"""Peak DRAM bandwidth by ``ro.soc.model``: Snapdragon 8 Gen 2, 8 Gen 3 and 8 Elite with 64-bit LPDDR5X."""

_OPENCL_PATHS = (
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/vendor/lib64/libPVROCL.so",
)

# One round trip: properties, memory, storage, cores, OpenCL, battery.
_DESCRIBE = """
getprop
cat /proc/meminfo
mkdir -p "$1" && echo "df: $(df -k "$1" | tail -n 1)"
shift
for path in "$@"; do [ -e "$path" ] && echo "opencl: $path"; done
set -- /sys/devices/system/cpu/cpu[0-9]*
echo "cores: $#"
dumpsys battery 2>/dev/null
exit 0
"""


@dataclass(frozen=True)
class DeviceInfo:
    """What a device says about itself; `None` where it doesn't say."""

    serial: str
    name: str
    soc: str | None
    abis: tuple[str, ...]
    android: str | None
    sdk: int | None
    fingerprint: str | None
    cores: int | None
    memory_mib: float | None
    available_mib: float | None
    storage_mib: float | None
    opencl: str | None
    battery_percent: int | None
    on_battery: bool | None
    wireless: bool

    @property
    def bandwidth_gb_s(self) -> float | None:
        """The chip's peak DRAM bandwidth, where it is known."""
        return BANDWIDTH_GB_S.get(self.soc or "")


def find_devices(selector: str) -> list[AndroidDevice]:
    """The devices that ``--device`` names: a serial, several joined by commas, or ``all``.

    An address that adb does not know, such as after its server has started anew, is connected to.

    Raises:
        EdgeTransactError: There is none, one is not known to adb, or one is offline or unauthorized.
    """
    client = adb_client()
    serials = None if selector == "all" else [part for part in selector.split(",") if part]
    states = _states(client)
    if new := [serial for serial in serials or [] if ":" in serial and serial not in states]:
        _connect(client, new)
        states = _states(client)
    wanted = serials if serials is not None else sorted(states)
    if not wanted:
        raise EdgeTransactError(
            "adb sees no device",
            fix="Turn on USB debugging and plug a phone in, or `adb connect ADDRESS`; `--device host` needs none.",
        )
    for serial in wanted:
        _check_state(serial, states)
    return [AndroidDevice(client, serial) for serial in wanted]


def _connect(client: Any, addresses: Sequence[str]) -> None:
    import adbutils

    for address in addresses:
        # Where it fails, adb still doesn't know the device, which is what will be said.
        with suppress(adbutils.AdbError, OSError):
            client.connect(address, timeout=5)


def _states(client: Any) -> dict[str, str]:
    """Serial to state, once no device is in a state that passes by itself."""
    import adbutils

    deadline = time.monotonic() + SETTLE_S
    try:
        while True:
            states = {entry.serial: entry.state for entry in client.list()}
            if not {"authorizing", "connecting"} & set(states.values()) or time.monotonic() > deadline:
                return states
            time.sleep(0.2)
    except (adbutils.AdbError, OSError) as error:
        raise EdgeTransactError(
            f"no adb server at {client.host}:{client.port}: {error}",
            fix="Install Android's platform tools and run `adb start-server`, or check ADB_SERVER_SOCKET.",
        ) from error


def _check_state(serial: str, states: dict[str, str]) -> None:
    state = states.get(serial)
    if state == "device":
        return
    if state is None:
        known = ", ".join(sorted(states)) or "none"
        raise UsageError(f"adb knows no device {serial!r}", fix=f"It knows: {known}. See `adb devices`.")
    fix = {
        "authorizing": "Unlock the phone and allow USB debugging from this computer.",
        "unauthorized": "Unlock the phone and allow USB debugging from this computer.",
        "offline": f"Plug it in again, or `adb disconnect {serial}` and `adb connect {serial}`.",
    }.get(state, "Boot it into Android.")
    raise EdgeTransactError(f"device {serial} is {state}", fix=fix)


def describe(device: AndroidDevice) -> DeviceInfo:
    """Ask a device about itself, once."""
    result = device.script(_DESCRIBE, WORK_DIRECTORY, *_OPENCL_PATHS)
    values: dict[str, str] = {}
    for line in result.stdout.splitlines():
        # getprop brackets names and values.
        match = re.fullmatch(r"\s*\[?([\w. ]+?)\]?: *\[?(.*?)\]?\s*", line)
        if match and match[2]:
            values.setdefault(match[1], match[2])
    df = values.get("df", "").split()
    powered = [values.get(f"{source} powered") for source in ("AC", "USB", "Wireless", "Dock")]
    name = " ".join(values[key] for key in ("ro.product.manufacturer", "ro.product.model") if key in values)
    return DeviceInfo(
        serial=device.serial,
        name=name or device.serial,
        soc=values.get("ro.soc.model"),
        abis=tuple(values.get("ro.product.cpu.abilist", "").split(",")),
        android=values.get("ro.build.version.release"),
        sdk=_number(values.get("ro.build.version.sdk")),
        fingerprint=values.get("ro.build.fingerprint"),
        cores=_number(values.get("cores")) or None,
        memory_mib=_kib_as_mib(values.get("MemTotal")),
        available_mib=_kib_as_mib(values.get("MemAvailable")),
        storage_mib=_kib_as_mib(df[3] if len(df) > 3 else None),
        opencl=values.get("opencl"),
        battery_percent=_number(values.get("level")),
        on_battery=None if set(powered) == {None} else "true" not in powered,
        wireless=":" in device.serial or "._tcp" in device.serial,
    )


def check(info: DeviceInfo, target: str, needed_mib: float) -> None:
    """Refuse what cannot work, before anything is pushed.

    Args:
        info: The device.
        target: ``android`` or ``android-cpu``.
        needed_mib: Memory that the largest model needs.

    Raises:
        EdgeTransactError: Wrong ABI, an Android that is too old, no OpenCL where it is needed, too little memory, or a
            battery so low that the phone saves power.
    """
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
            fix="Close apps on the device, or build with a smaller --context.",
        )
    if info.on_battery and info.battery_percent is not None and info.battery_percent <= LOW_BATTERY_PERCENT:
        raise EdgeTransactError(
            f"{info.serial} has {info.battery_percent} % of its battery left",
            fix="A phone that saves power is slow: charge it.",
        )


def labels(infos: Sequence[DeviceInfo]) -> dict[str, str]:
    """A label for each serial: the device's name, with the serial where two devices share one."""
    names = Counter(info.name for info in infos)
    return {info.serial: info.name if names[info.name] == 1 else f"{info.name} ({info.serial})" for info in infos}


def remove_work_directory(device: AndroidDevice) -> None:
    """Everything that benches have put on a device."""
    device.script(f"rm -rf {quote([WORK_DIRECTORY])}", timeout_s=120)


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None


def _kib_as_mib(text: str | None) -> float | None:
    match = re.match(r"\d+", text or "")
    return int(match[0]) / 1024 if match else None
