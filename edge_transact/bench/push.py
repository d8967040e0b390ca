"""Files on a device: pushed when their checksums differ, and complete or absent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_transact.bench.adb import AndroidDevice, DeviceRefused
from edge_transact.errors import EdgeTransactError

_CHECKSUMS = """
cd "$1" 2>/dev/null || exit 0
for name in *; do [ -f "$name" ] && sha256sum < "$name" && echo "$name"; done
exit 0
"""
_ACCEPT = """
[ "$(sha256sum < "$1" | cut -c 1-64)" = "$3" ] && mv -f "$1" "$2"
"""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_files(
    device: AndroidDevice,
    directory: str,
    files: Mapping[str, Path],
    *,
    executable: bool = False,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """Make a directory on the device hold these files.

    A file whose sha256 is right stays. Others are pushed beside, checked on the device, and renamed; so a push that is
    cut off leaves the old file or none. Other files in the directory stay too.

    Args:
        device: Where to.
        directory: An absolute path on the device.
        files: Plain file name to local path.
        executable: Set the x bits.
        on_bytes: Told the bytes of each piece sent.

    Returns:
        The names that had to be pushed.

    Raises:
        DeviceRefused: Not enough storage, or the bytes did not arrive intact twice.
        DeviceLost: The device went away.
    """
    device.checked("mkdir", "-p", directory)
    digests = {name: sha256(path) for name, path in files.items()}
    present = _checksums(device, directory)
    changed = [name for name in files if present.get(name) != digests[name]]
    device.shell("sh", "-c", 'rm -f "$1"/*.partial', "sh", directory)
    _check_storage(device, directory, sum(files[name].stat().st_size for name in changed))
    for name in changed:
        partial, target = f"{directory}/{name}.partial", f"{directory}/{name}"
        for _attempt in range(2):
            device.push(files[name], partial, mode=0o755 if executable else 0o644, on_bytes=on_bytes)
            if device.script(_ACCEPT, partial, target, digests[name], timeout_s=300).code == 0:
                break
        else:
            raise DeviceRefused(
                f"{device.serial}: {target} arrived with another checksum, twice",
                fix="Check the cable, and the device's storage.",
            )
    return changed


def _checksums(device: AndroidDevice, directory: str) -> dict[str, str]:
    # Names come from `echo` on a line of their own after the digest, so that sha256sum's escaping plays no part.
    lines = device.script(_CHECKSUMS, directory, timeout_s=600).stdout.splitlines()
    return {name: line[:64] for line, name in zip(lines[::2], lines[1::2], strict=False)}


def _check_storage(device: AndroidDevice, directory: str, needed: int) -> None:
    columns = device.checked("df", "-k", directory).splitlines()[-1].split()
    free = int(columns[3]) * 1024 if len(columns) > 3 and columns[3].isdigit() else None
    if free is not None and needed > free:
        raise EdgeTransactError(
            f"{device.serial} has {free / 2**20:.0f} MiB of storage free, and {needed / 2**20:.0f} MiB must be pushed",
            fix="Free space on the device, or remove what earlier runs left with --clean.",
        )
