"""Pushes files whose checksums differ. A file on the device is complete or absent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_transact.artifacts.digests import sha256
from edge_transact.benchmarking.drivers.adb.client import AndroidDevice
from edge_transact.benchmarking.drivers.base import DeviceRefused
from edge_transact.formatting import megabytes

# Prints free KiB, then the index among the arguments of each file that exists, then their checksums in that order.
_LOOK = """
mkdir -p "$1" && cd "$1" || exit 1
rm -f ./*.partial
df -k .
shift
left=$#
index=0
while [ $left -gt 0 ]; do
    name=$1
    shift
    [ -f "$name" ] && echo "there $index" && set -- "$@" "./$name"
    index=$((index + 1))
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
    """Make sure that a directory on the device holds these files, given by name. Returns the names of those pushed.

    A file whose sha256 is right stays. Any other is pushed under a temporary name, checked on the device, and renamed.
    `DeviceRefused` if there is no room, or a file arrived damaged twice.
    """
    digests = {name: sha256(path) for name, path in files.items()}
    changed = changed_files(device, directory, files, digests)
    for name in changed:
        target = f"{directory}/{name}"
        for _attempt in range(2):
            device.push(files[name], f"{target}.partial", mode=mode, on_bytes=on_bytes)
            if device.script(_ACCEPT, f"{target}.partial", target, digests[name], timeout_s=300).code == 0:
                break
        else:
            raise DeviceRefused(
                f"{device.serial}: {target} arrived with another checksum, twice",
                fix="Check the cable, and the device's storage.",
            )
    return changed


def changed_files(
    device: AndroidDevice, directory: str, files: Mapping[str, Path], digests: Mapping[str, str], copies: int = 1
) -> list[str]:
    """Names of the files that a directory on the device, which is made, lacks or has with another sha256.

    With two `copies`, files pass through another directory, one by one. `DeviceRefused` if there is no room for them.
    """
    present, free = _look(device, directory, list(files))
    changed = [name for name in files if present.get(name) != digests[name]]
    sizes = [files[name].stat().st_size for name in changed]
    needed = sum(sizes) + (copies - 1) * max(sizes, default=0)
    if free is not None and needed > free:
        raise DeviceRefused(
            f"{device.serial} has {megabytes(free)} of storage free, and {megabytes(needed)} are needed",
            fix="Free space on the device; `edge-transact bench --clean` removes what benches left.",
        )
    return changed


def _look(device: AndroidDevice, directory: str, names: Sequence[str]) -> tuple[dict[str, str], int | None]:
    """Checksums of the files that exist in a directory on the device, and the bytes free there, if it reports them."""
    result = device.script(_LOOK, directory, *names, timeout_s=600)
    if result.code:
        raise DeviceRefused(f"{device.serial}: {directory}: {result.stderr.strip()}", fix="Read what the device says.")
    there = [names[int(index)] for index in re.findall(r"^there (\d+)$", result.stdout, re.MULTILINE)]
    checksums = re.findall(r"^([0-9a-f]{64}) ", result.stdout, re.MULTILINE)
    # Filesystem, size, used, available, use%, mount point. Android 9's toybox never wraps lines.
    free = re.search(r"\s(\d+)\s+\d+%\s", result.stdout)
    return dict(zip(there, checksums, strict=False)), int(free[1]) * 1024 if free else None
