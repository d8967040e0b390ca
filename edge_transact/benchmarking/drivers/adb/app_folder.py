"""An app's folder on shared storage, ``/sdcard/Android/data/PACKAGE/files``, as Android 11 and later let adb use it.

- adb's sync protocol fails there, after it has sent a file, with ``fchown failed`` (AOSP's ``file_sync_service.cpp``;
  ecmdroid#7). So files go to ``/data/local/tmp``, and the phone's shell copies them.
- The shell may not make the folder itself (bundletool#196, #243). An app that is started makes it, and gives itself
  access to whatever is put there later (the default ACL in vold's ``PrepareAppDirFromRoot``).
- The shell may be refused to remove files (bundletool#298), and so to rename them, but writes over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from edge_transact.benchmarking.drivers.adb.client import AndroidDevice
from edge_transact.benchmarking.drivers.adb.devices import WORK_DIRECTORY
from edge_transact.benchmarking.drivers.base import DeviceRefused

STAGING = f"{WORK_DIRECTORY}/staging"

DAMAGED = 3

# $1: the app's folder, $2: a directory in it, $3: the app. Without a umask, what is made is the app's to read too.
_MAKE = """
umask 0
[ -d "$1" ] || am start -W -a android.intent.action.MAIN -c android.intent.category.LAUNCHER -p "$3" >/dev/null 2>&1
mkdir -p "$1/$2"
"""
# $1: a file that was pushed, $2: where it goes, $3: its sha256, $4: the code of one that isn't right.
_PLACE = """
umask 0
right() { [ -f "$1" ] && [ "$(sha256sum < "$1" | cut -c 1-64)" = "$2" ]; }
right "$1" "$3" || exit $4
cp "$1" "$2" || { rm -f "$2" && cp "$1" "$2"; } || exit 1
right "$2" "$3" || exit $4
rm -f "$1"
"""
# Removes files, or else what is in them.
_REMOVE = """
for file in "$@"; do
    [ ! -e "$file" ] || rm -rf "$file" || : > "$file"
done 2>/dev/null
exit 0
"""
_NAMES = 'cd "$1" && for file in * .[!.]*; do [ ! -e "$file" ] || echo "$file"; done'


class AppFolder:
    def __init__(self, device: AndroidDevice, package: str) -> None:
        self.path = f"/sdcard/Android/data/{package}/files"
        self._device, self._package = device, package

    def make(self, name: str) -> str:
        """The path of a directory in the folder, made by the shell or the app; `DeviceRefused` if neither can."""
        made = self._device.script(_MAKE, self.path, name, self._package, timeout_s=60)
        if made.code:
            raise DeviceRefused(
                f"{self._device.serial}: {made.stderr.strip()}",
                fix=f"Open {self._package} on the phone, and try again.",
            )
        return f"{self.path}/{name}"

    def put(
        self, source: Path | bytes, target: str, digest: str, *, on_bytes: Callable[[int], None] = lambda n: None
    ) -> None:
        """Writes a file at a path in the folder; `DeviceRefused` if that fails, or it arrived damaged twice."""
        staged = f"{STAGING}/{digest}"
        self._device.checked("mkdir", "-p", STAGING)
        # An interrupted call may have left it there.
        for attempt in range(3):
            if attempt:
                self._device.push(source, staged, on_bytes=on_bytes)
            placed = self._device.script(_PLACE, staged, target, digest, str(DAMAGED), timeout_s=600)
            if placed.code == 0:
                return
            if placed.code != DAMAGED:
                raise DeviceRefused(
                    f"{self._device.serial} cannot write {target}: {placed.stderr.strip()}",
                    fix="Free space on the phone; if it isn't full, delete the app's data there.",
                )
        raise DeviceRefused(
            f"{self._device.serial}: {target} arrived with another checksum, twice",
            fix="Check the cable, and the device's storage.",
        )

    def remove(self, *paths: str) -> None:
        """Removes files in the folder. Where Android forbids that, they become empty."""
        self._device.script(_REMOVE, *paths, timeout_s=60)

    def keep_only(self, directory: str, digests: Mapping[str, str]) -> None:
        """Removes all files of a directory in the folder but these, and what calls that ended have left of these."""
        there = self._device.script(_NAMES, directory).stdout.splitlines()
        strays = [f"{directory}/{name}" for name in set(there) - set(digests)]
        self.remove(*strays, *(f"{STAGING}/{digest}" for digest in digests.values()))
