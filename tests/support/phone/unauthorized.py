"""A device that never accepts adb: it answers every CNXN with AUTH, as a phone does until its owner agrees."""

import contextlib
import os
import socket
import struct
import threading


class UnauthorizedDevice:
    """Listens on a port of this machine; `serial` is what adb calls it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._refuse, args=(connection,), daemon=True).start()

    def _refuse(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while len(header := connection.recv(24, socket.MSG_WAITALL)) == 24:
                length = struct.unpack("<6I", header)[3]
                connection.recv(length, socket.MSG_WAITALL)
                token = os.urandom(20)
                command = int.from_bytes(b"AUTH", "little")
                message = (command, 1, 0, len(token), sum(token), command ^ 0xFFFFFFFF)
                connection.sendall(struct.pack("<6I", *message) + token)
