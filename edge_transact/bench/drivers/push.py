"""Files on a device: pushed when their checksums differ, and complete or absent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_transact.artifacts.cache import sha256
from edge_transact.bench.drivers.adb import AndroidDevice, DeviceRefused

# Free KiB, then the place among the arguments of each file that is there, then their checksums in the same order.
_LOOK = """
mkdir -p "$1" && cd "$1" || exit 1
rm -f ./*.partial
df -k .
shift
left=$#
place=0
while [ $left -gt 0 ]; do
    name=$1
    shift
    [ -f "$name" ] && echo "there $place" && set -- "$@" "./$name"
    place=$((place + 1))
    left=$((left - 1))
done
[ $# -eq 0 ] || sha256sum "$@"
"""
_ACCEPT = """
[ "$(sha256sum < "$1" | cut -c 1-64)" = "$3" ] && mv -f "$1" "$2"
"""


def sync_files(
    device: AndroidDevice,
    directory: str,
    files: Mapping[str, Path],
    *,
    mode: int = 0o644,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """Make a directory on the device hold these files.

    A file whose sha256 is right stays. Others are pushed beside, checked on the device, and renamed; so a push that is
    cut off leaves the old file or none. Other files in the directory stay too.

    Args:
        device: Where to.
        directory: An absolute path on the device.
        files: Plain file name to local path.
        mode: Permissions of what is pushed.
        on_bytes: Told the bytes of each piece sent.

    Returns:
        The names that had to be pushed.

    Raises:
        DeviceRefused: Not enough storage, or the bytes did not arrive intact twice.
        DeviceLost: The device went away.
    """
    digests = {name: sha256(path) for name, path in files.items()}
    present, free = _look(device, directory, list(files))
    changed = [name for name in files if present.get(name) != digests[name]]
    _check_storage(device, free, sum(files[name].stat().st_size for name in changed))
    for name in changed:
        partial, target = f"{directory}/{name}.partial", f"{directory}/{name}"
        for _attempt in range(2):
            device.push(files[name], partial, mode=mode, on_bytes=on_bytes)
            if device.script(_ACCEPT, partial, target, digests[name], timeout_s=300).code == 0:
                break
        else:
            raise DeviceRefused(
                f"{device.serial}: {target} arrived with another checksum, twice",
                fix="Check the cable, and the device's storage.",
            )
    return changed


def _look(device: AndroidDevice, directory: str, names: Sequence[str]) -> tuple[dict[str, str], int | None]:
    """Checksums of those files that a directory on the device holds, and the bytes free there, where it says."""
    result = device.script(_LOOK, directory, *names, timeout_s=600)
    if result.code:
        raise DeviceRefused(f"{device.serial}: {directory}: {result.stderr.strip()}", fix="Read what the device says.")
    there = [names[int(place)] for place in re.findall(r"^there (\d+)$", result.stdout, re.MULTILINE)]
    checksums = re.findall(r"^([0-9a-f]{64}) ", result.stdout, re.MULTILINE)
    # Filesystem, size, used, available, use%, mount point: Android 9's toybox breaks no line, however long a name.
    free = re.search(r"\s(\d+)\s+\d+%\s", result.stdout)
    return dict(zip(there, checksums, strict=False)), int(free[1]) * 1024 if free else None


def _check_storage(device: AndroidDevice, free: int | None, needed: int) -> None:
    if free is not None and needed > free:
        raise DeviceRefused(
            f"{device.serial} has {free / 2**20:.0f} MiB of storage free, and {needed / 2**20:.0f} MiB must be pushed",
            fix="Free space on the device, or remove what earlier runs left with --clean.",
        )
