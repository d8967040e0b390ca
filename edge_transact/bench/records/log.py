"""The log of a bench: a JSONL file that grows by a line as each repetition ends, and from which a plan resumes.

Two kinds of lines. ``repetition``: one measured repetition with everything that is known about it. ``visit``: a visit
has ended, well or not (``error``), with the sensor readings that were taken beside it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_transact.errors import EdgeTransactError

SCHEMA = 2

Key = tuple[str, str, str, str, int]
"""What names a visit across runs: serial, model digest, target, lengths, round."""


def record_key(record: Mapping[str, Any]) -> Key:
    """The visit that a record belongs to."""
    lengths = f"{record['prefill_tokens']}+{record['decode_tokens']}"
    return record["serial"], record["model_digest"], record["target"], lengths, record["round"]


class Log:
    """An append-only JSONL file, written by several threads.

    Args:
        path: Made when missing.
        resume: Go on with what is there; otherwise an existing file is refused.

    Raises:
        EdgeTransactError: The file exists and `resume` is off, or it is of another schema.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        if path.exists() and not resume:
            raise EdgeTransactError(
                f"{path} exists", fix="Go on with it by --resume, or write another file with --output."
            )
        self.path = path
        self.records = read_records(path) if path.exists() else []
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.lseek(self._file, 0, os.SEEK_END)
        # A line that an earlier run could not finish stays, and is closed so that the next one starts afresh.
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; it is on the disk when this returns.

        The record is kept in `records` in any case, so that results can be shown even when the disk is full.

        Raises:
            EdgeTransactError: It could not be written whole; nothing of it stays in the file.
        """
        record = {"schema": SCHEMA, **record}
        line = (json.dumps(record) + "\n").encode()
        with self._lock:
            self.records.append(record)
            end = os.lseek(self._file, 0, os.SEEK_END)
            try:
                if os.write(self._file, line) != len(line):
                    raise OSError("the disk is full")
                os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, end)
                raise EdgeTransactError(
                    f"{self.path} cannot be written: {error}", fix="Make room, then run the same command with --resume."
                ) from error

    def done(self, key: Key) -> int:
        """Repetitions of a visit that are in the log."""
        with self._lock:
            return sum(1 for record in self.records if record["kind"] == "repetition" and record_key(record) == key)

    def close(self) -> None:
        os.close(self._file)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a log; lines that were cut off are passed over.

    Raises:
        EdgeTransactError: It isn't such a log, or of another schema.
    """
    records = []
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise EdgeTransactError(f"{path}: {error.strerror}", fix="Give a log that `bench` wrote.") from error
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("kind") in ("repetition", "visit"):
            if record.get("schema") != SCHEMA:
                raise EdgeTransactError(
                    f"{path} has schema {record.get('schema')}, this version writes {SCHEMA}", fix="Start a new log."
                )
            records.append(record)
    if text.strip() and not records:
        raise EdgeTransactError(f"{path} holds no bench records", fix="Give a log that `bench` wrote.")
    return records
