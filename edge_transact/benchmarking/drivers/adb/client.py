"""One Android device over adb: shell, push and pull with timeouts, and with adb's own words when they fail.

adbutils talks to the adb server. Here every argument is quoted, every socket has a timeout, an exit code counts only if
the device sent it, and a device that goes away is distinguished from one that answers with an error.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import socket
import struct
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.benchmarking.drivers.base import CommandTimeout, DeviceLost, DeviceRefused
from edge_transact.errors import EdgeTransactError, UsageError

if TYPE_CHECKING:
    import adbutils

logger = logging.getLogger(__name__)

STDOUT, STDERR, EXIT = 1, 2, 3
"""Packet ids of the shell_v2 protocol (AOSP ``adb/shell_protocol.h``)."""

MOST_IN_PACKET, MOST_OUTPUT = 1 << 20, 1 << 26
"""Bytes of a packet (AOSP's ``MAX_PAYLOAD``) and of what a script prints."""

SHOWN = 200
"""Number of characters of a script that ``--verbose`` shows."""

SYNC_CHUNK = 64 * 1024
"""The most bytes that a DATA packet of the sync protocol may carry."""


@dataclass(frozen=True)
class ShellOutput:
    code: int
    stdout: str
    stderr: str


def adb_client() -> adbutils.AdbClient:
    """Connect to the server that adb's environment variables name; an `EdgeTransactError` without adbutils."""
    try:
        import adbutils
    except ModuleNotFoundError as error:
        raise EdgeTransactError(
            f"{error.name} is not installed", fix="Install it: pip install 'edge-transact[bench]'"
        ) from error
    server = os.environ.get("ADB_SERVER_SOCKET", "")
    host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS", "127.0.0.1")
    port = os.environ.get("ANDROID_ADB_SERVER_PORT", "5037")
    if server.startswith("tcp:"):
        host, _, port = server.removeprefix("tcp:").rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(f"the adb server's port is {port[:50]!r}", fix="Correct ADB_SERVER_SOCKET: tcp:HOST:PORT.")
    return adbutils.AdbClient(host=host or "127.0.0.1", port=int(port), socket_timeout=10)


def quote(arguments: Sequence[str]) -> str:
    """One line that a shell splits into these arguments; a `UsageError` for a NUL or what isn't valid Unicode."""
    for argument in arguments:
        if "\0" in argument or any(0xD800 <= ord(character) <= 0xDFFF for character in argument):
            raise UsageError(f"{argument!r} cannot be sent to a device", fix="Rename it: no NUL, and valid Unicode.")
    return shlex.join(arguments)


class AndroidDevice:
    """A device of adb. Every method raises `DeviceLost` if it or the adb server goes away or stops answering."""

    def __init__(self, client: adbutils.AdbClient, serial: str) -> None:
        self.serial = serial
        self._client = client

    def state(self) -> str:
        """``device``, ``offline``, ``unauthorized`` ..., or ``absent``."""
        with _translated(self.serial):
            return next((each.state for each in self._client.list() if each.serial == self.serial), "absent")

    def shell(self, *arguments: str, timeout_s: float = 30) -> ShellOutput:
        """Run a command and wait for its exit code. Arguments are quoted."""
        return self.script(quote(arguments), timeout_s=timeout_s)

    def script(self, script: str, *arguments: str, timeout_s: float = 30) -> ShellOutput:
        """Run a shell script with `arguments` as ``$1``, ``$2`` ..."""
        output: dict[int, bytearray] = {STDOUT: bytearray(), STDERR: bytearray()}
        with self.open(script, *arguments) as stream:
            deadline = time.monotonic() + timeout_s
            for kind, data in stream.packets(deadline):
                output[kind] += data
                if len(output[kind]) > MOST_OUTPUT:
                    raise DeviceLost(
                        f"{self.serial}: the output of {script[:40]!r} doesn't end", fix="Restart the phone."
                    )
        assert stream.code is not None
        return ShellOutput(stream.code, *(output[kind].decode(errors="replace") for kind in (STDOUT, STDERR)))

    def checked(self, *arguments: str, timeout_s: float = 30) -> str:
        """Run a command, and return its stdout; `DeviceRefused`, with the device's words, if it fails."""
        result = self.shell(*arguments, timeout_s=timeout_s)
        if result.code:
            words = (result.stderr or result.stdout).strip() or f"exit code {result.code}"
            raise DeviceRefused(f"{self.serial}: {arguments[0]}: {words}", fix="Read what the device says.")
        return result.stdout

    @contextmanager
    def open(self, script: str, *arguments: str) -> Iterator[ShellStream]:
        """Start a script and stream its output. Its stdin is closed at the end of the ``with`` body."""
        line = f"set -- {quote(arguments)}\n{script}" if arguments else script
        shown = textwrap.shorten(line, SHOWN, placeholder=" ...")
        logger.debug("$ adb -s %s shell %s", self.serial, shlex.quote(shown))
        with _translated(self.serial):
            connection = self._transport()
        try:
            with _translated(self.serial):
                connection.send_command(f"shell,v2,raw:{line}")
                connection.check_okay()
            yield ShellStream(self.serial, connection.conn)
        finally:
            connection.close()

    def push(self, source: Path | bytes, target: str, *, mode: int = 0o644, timeout_s: float = 60,
             on_bytes: Callable[[int], None] = lambda n: None) -> None:  # fmt: skip
        """Write a file on the device; `DeviceRefused` if that fails, for example because its storage is full.

        This speaks the sync protocol (AOSP ``adb/SYNC.TXT``) itself: adbutils' push waits forever for a device that is
        gone, and sends only 4 KiB at a time.
        """
        request = f"{target},{0o100000 | mode}".encode()
        shown = shlex.quote(str(source)) if isinstance(source, Path) else "-"
        logger.debug("$ adb -s %s push %s %s", self.serial, shown, shlex.quote(target))
        with _translated(self.serial):
            connection = self._transport(timeout_s)
            try:
                connection.send_command("sync:")
                connection.check_okay()
                connection.conn.sendall(b"SEND" + struct.pack("<I", len(request)) + request)
                for chunk in _chunks(source):
                    connection.conn.sendall(b"DATA" + struct.pack("<I", len(chunk)) + chunk)
                    on_bytes(len(chunk))
                connection.conn.sendall(b"DONE" + struct.pack("<I", int(time.time()) & 0xFFFFFFFF))
                answer = connection.read_exact(8)
                if answer[:4] != b"OKAY":
                    words = connection.read_exact(struct.unpack("<I", answer[4:])[0]).decode(errors="replace")
                    raise DeviceRefused(
                        f"{self.serial} cannot write {target}: {words}",
                        fix="Free space on the device; `edge-transact bench --clean` removes what benches left.",
                    )
            finally:
                connection.close()

    def pull(self, source: str) -> bytes:
        """Read a small file on the device; `DeviceRefused` if there is none."""
        import adbutils

        logger.debug("$ adb -s %s pull %s", self.serial, shlex.quote(source))
        with _translated(self.serial):
            try:
                return self._client.device(serial=self.serial).sync.read_bytes(source)
            except adbutils.AdbError as error:
                if self.state() != "device":
                    raise
                raise DeviceRefused(f"{self.serial} cannot read {source}: {error.args[0]}") from error

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        """Wait for a lost device; returns whether it is back. A device on the network is connected again."""
        deadline = time.monotonic() + timeout_s
        while not stop.is_set():
            try:
                if self.state() == "device" and self.script("exit 0", timeout_s=5).code == 0:
                    return True
                if ":" in self.serial:
                    with _translated(self.serial):
                        # A transport that died with its device stays `offline` until it is disconnected.
                        self._client.disconnect(self.serial)
                        self._client.connect(self.serial, timeout=5)
            except (DeviceLost, CommandTimeout):
                pass
            if time.monotonic() > deadline:
                return False
            stop.wait(0.5)
        return False

    def _transport(self, timeout_s: float = 30) -> adbutils.AdbConnection:
        return self._client.device(serial=self.serial).open_transport(timeout=timeout_s)


class ShellStream:
    """The output of a running command, and its exit code once it has ended."""

    def __init__(self, serial: str, connection: socket.socket) -> None:
        self.code: int | None = None
        self._serial = serial
        self._socket = connection
        self._buffer = bytearray()

    def packets(self, deadline: float, stop: threading.Event | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield ``(STDOUT or STDERR, bytes)`` until the command ends, or `stop` is set: then `code` is None.

        Raises:
            DeviceLost: The connection ended without an exit code: adb itself would have returned 0.
            CommandTimeout: The command is still running at the deadline, on `time.monotonic`'s clock.
        """
        while self.code is None:
            if stop is not None and stop.is_set():
                return
            if len(self._buffer) >= 5:
                length = int.from_bytes(self._buffer[1:5], "little")
                if length > MOST_IN_PACKET or (self._buffer[0] == EXIT and not length):
                    raise DeviceLost(f"{self._serial} doesn't answer as a shell does", fix="Restart adb and the phone.")
                if len(self._buffer) >= 5 + length:
                    kind, data = self._buffer[0], bytes(self._buffer[5 : 5 + length])
                    del self._buffer[: 5 + length]
                    if kind == EXIT:
                        self.code = data[0]
                    elif kind in (STDOUT, STDERR) and data:
                        yield kind, data
                    continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise CommandTimeout(f"{self._serial}: a command took longer than it was given")
            # Waits are short, so that an interrupt is noticed while the device is silent.
            self._socket.settimeout(min(left, 0.2))
            try:
                received = self._socket.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                raise DeviceLost(f"{self._serial}: {error}", fix="Check the cable or the network.") from error
            if not received:
                raise DeviceLost(f"{self._serial} went away during a command", fix="Check the cable or the network.")
            self._buffer += received

    def lines(self, deadline: float, stop: threading.Event | None = None) -> Iterator[tuple[int, str]]:
        """Like `packets`, but yields lines. What follows the last newline comes at the end."""
        rest = {STDOUT: b"", STDERR: b""}
        for kind, data in self.packets(deadline, stop):
            *complete, rest[kind] = (rest[kind] + data).split(b"\n")
            for line in complete:
                yield kind, line.decode(errors="replace")
        for kind, line in rest.items():
            if line:
                yield kind, line.decode(errors="replace")


@contextmanager
def _translated(serial: str) -> Iterator[None]:
    """Turn failures of adb and of the network into `DeviceLost`, with their own words."""
    import adbutils

    try:
        yield
    except (adbutils.AdbError, EOFError, ConnectionError, TimeoutError, ValueError) as error:
        words = str(error) or type(error).__name__
        if "No adb exe" in words:
            raise EdgeTransactError("adb is not installed", fix="Install Android's platform tools.") from error
        raise DeviceLost(f"{serial}: {words}", fix="Check `adb devices`, the cable or the network.") from error


def _chunks(source: Path | bytes) -> Iterator[bytes]:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        while chunk := file.read(SYNC_CHUNK):
            yield chunk
