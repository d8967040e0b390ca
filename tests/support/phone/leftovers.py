"""What a stand-in phone registers outside its own processes, and whether any of it was left behind."""

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout

from tests.support.phone.runner import CACHE

BINFMT = Path("/proc/sys/fs/binfmt_misc")
BINFMT_RULE = Path("/usr/share/qemu/binfmt.d/qemu-aarch64.conf")
BINFMT_NAME = "qemu-aarch64"
LINKS = 256
USERS, REGISTERED = CACHE / ".binfmt-users", CACHE / ".binfmt-registered"
"""What each run that needs the format has a lock on, and what was done here, so that this is undone and no more."""


@contextmanager
def binfmt() -> Iterator[None]:
    """Let the kernel run aarch64 binaries, in chroots too, until the last test run that needs it has ended."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with USERS.open("a+") as users:
        with _binfmt_lock():
            fcntl.flock(users, fcntl.LOCK_SH)
            _register()
        try:
            yield
        finally:
            with _binfmt_lock():
                fcntl.flock(users, fcntl.LOCK_UN)
                if _is_last(users):
                    _unregister()


def free_link() -> tuple[int, FileLock]:
    """The number of a network link that no phone has, and the lock that reserves it, even while the phone is off."""
    for number in range(LINKS):
        lock = _link_lock(number)
        with suppress(Timeout):
            lock.acquire(blocking=False)
            if not _link_exists(number):
                return number, lock
            lock.release()
    raise RuntimeError("no free network link for another phone")


def phone_leftovers() -> list[str]:
    """Network links of phones that are gone, and a binary format that a test run registered and no run uses."""
    found = []
    for number in range(LINKS):
        if _link_exists(number):
            lock = _link_lock(number)
            with suppress(Timeout):
                lock.acquire(blocking=False)
                if _link_exists(number):
                    found.append(f"network link phone{number}")
                lock.release()
    if REGISTERED.exists():
        with USERS.open("a+") as users, _binfmt_lock():
            if REGISTERED.exists() and _is_last(users):
                found.append(f"binfmt_misc registration {BINFMT_NAME}")
    return found


def _register() -> None:
    done = REGISTERED.read_text().split() if REGISTERED.exists() else []
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
        done.append("mounted")
    if not (BINFMT / BINFMT_NAME).exists():
        (BINFMT / "register").write_text(BINFMT_RULE.read_text().strip())
        done.append("registered")
    if done:
        REGISTERED.write_text(" ".join(done))


def _unregister() -> None:
    done = REGISTERED.read_text().split() if REGISTERED.exists() else []
    if "registered" in done and (BINFMT / BINFMT_NAME).exists():
        (BINFMT / BINFMT_NAME).write_text("-1")
    if "mounted" in done:
        subprocess.run(["umount", str(BINFMT)], check=True)
    REGISTERED.unlink(missing_ok=True)


def _is_last(users: TextIO) -> bool:
    """Whether no other test run holds the lock; this one then no longer does either."""
    with suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(users, fcntl.LOCK_UN)
        return True
    return False


def _binfmt_lock() -> FileLock:
    return FileLock(CACHE / ".binfmt.lock")


def _link_lock(number: int) -> FileLock:
    return FileLock(CACHE / f".phone{number}.lock")


def _link_exists(number: int) -> bool:
    return Path(f"/sys/class/net/phone{number}").exists()
