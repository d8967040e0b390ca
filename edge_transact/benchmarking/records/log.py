"""The log of a bench: a JSONL file that grows by one record as each repetition ends, and from which a plan resumes.

Its first line has the conditions that all its repetitions have in common.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import stat
import threading
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from edge_transact.benchmarking.records.lines import integer_of
from edge_transact.benchmarking.records.record import Key, Record, RepetitionRecord, VisitRecord
from edge_transact.benchmarking.records.series import done
from edge_transact.cache.resume import Start
from edge_transact.errors import EdgeTransactError, UsageError, first_problem
from edge_transact.reading import opened, read_bytes, without_home, zip_member

logger = logging.getLogger(__name__)

SCHEMA = 2

A_LOG, MOST_BYTES = "Name a log that `bench` wrote, or a new file.", 1 << 29

LOG_MEMBER = "log.jsonl"
"""The log in a file of evidence, which is read like a log."""

CONDITIONS = "conditions"

_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[RepetitionRecord | VisitRecord, Field(discriminator="kind")])


@dataclass
class _Contents:
    """The lines of a log, sorted: conditions, records with their lines, and others with number, reason and content."""

    conditions: dict[str, Any] | None = None
    records: list[Record] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    others: list[tuple[int, str, bytes]] = field(default_factory=list)
    versions: set[object] = field(default_factory=set)
    ended: bool = True

    @property
    def ours(self) -> bool:
        return self.conditions is not None or bool(self.records)


class Log:
    """An append-only JSONL file that several threads may write. All its repetitions have `conditions` in common.

    What is no record of this version moves to ``NAME.aside.jsonl``; a log of another version is kept aside whole.

    Raises:
        UsageError: There is no log to resume, or it was measured under other conditions.
        EdgeTransactError: The file isn't a log, or another process is writing it.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any], start: Start = Start.CONTINUE) -> None:
        if start is Start.RESUME and not path.exists():
            raise UsageError(f"--resume: there is no log {path}", fix="Leave out --resume, or name it with --output.")
        self.path = path
        self.session = uuid.uuid4().hex[:12]
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            opened(path, A_LOG).close()
        self._file = _locked(path)
        try:
            if start is Start.FRESH and os.fstat(self._file).st_size:
                earlier = _parse(_content(path), path)
                if not earlier.ours and not earlier.versions:
                    raise _no_log(path)
                logger.info(f"the earlier log is now {self._set_aside()}")
            self.records = self._take_over(conditions)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, record: Record) -> None:
        """Add a record to `records` and to the disk; an `EdgeTransactError`, and nothing there, if that is full."""
        line = without_home(to_line(record)).encode()
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
                    f"{self.path} cannot be written: {error}", fix="Make room, then run the same command again."
                ) from error

    def done(self, key: Key) -> int:
        with self._lock:
            return done(self.records)[key]

    def close(self) -> None:
        os.close(self._file)

    def _take_over(self, conditions: Mapping[str, Any]) -> list[Record]:
        """The records of the file, which is a clean log afterwards."""
        header = json.dumps({"schema": SCHEMA, "kind": CONDITIONS, **conditions}).encode() + b"\n"
        contents = _parse(_content(self.path), self.path)
        if contents.versions and not contents.ours:
            logger.warning(f"{self.path} is of another version of edge-transact: it is now {self._set_aside()}")
            contents = _Contents()
        elif contents.others and not contents.ours:
            raise _no_log(self.path)
        if not contents.ours:
            os.write(self._file, header)
            return []
        _check_conditions(self.path, contents.conditions or {}, conditions)
        if contents.others:
            self._put_aside(contents, header)
        elif not contents.ended:
            os.write(self._file, b"\n")
        if contents.records:
            count = sum(record.kind == "repetition" for record in contents.records)
            latest = max(record.time for record in contents.records)
            logger.info(f"{self.path} has {count} repetitions, the last of {latest}: what it lacks is measured")
        return contents.records

    def _put_aside(self, contents: _Contents, header: bytes) -> None:
        aside = self.path.with_name(f"{self.path.stem}.aside{self.path.suffix}")
        with aside.open("ab") as file:
            file.writelines(line + b"\n" for _, _, line in contents.others)
        _warn_of_others(self.path, contents, f"is now in {aside}")
        clean = self.path.with_name(f"{self.path.name}.{self.session}")
        clean.write_bytes(header + b"".join(line + b"\n" for line in contents.lines))
        locked = _locked(clean)
        os.fsync(locked)
        clean.rename(self.path)
        os.close(self._file)
        self._file = locked

    def _set_aside(self) -> Path:
        """Rename the file, and begin an empty one. Returns the new name."""
        aside = self.path.rename(
            next(
                aside
                for number in itertools.count(1)
                if not (aside := self.path.with_name(f"{self.path.stem}.{number}{self.path.suffix}")).exists()
            )
        )
        os.close(self._file)
        self._file = _locked(self.path)
        return aside


def to_line(record: Record) -> str:
    """A record as a line of the log. Readings leave out what the device didn't report."""
    fields: dict[str, Any] = {"schema": SCHEMA, "kind": record.kind, **asdict(record)}
    if "trace" in fields:
        fields["trace"] = [
            {name: value for name, value in reading.items() if value is not None} for reading in fields["trace"]
        ]
    return json.dumps(fields) + "\n"


def read_records(path: Path) -> list[Record]:
    """The records of a log or a file of evidence, without others; an `EdgeTransactError` if it is something else."""
    try:
        with opened(path, A_LOG) as file:
            zipped = file.read(4) == b"PK\3\4"
        contents = _parse(zip_member(path, LOG_MEMBER, A_LOG) if zipped else _content(path), path)
    except OSError as error:
        raise EdgeTransactError(f"{path}: {error.strerror}", fix=A_LOG) from error
    if contents.versions and not contents.ours:
        schemas = " and ".join(sorted(map(str, contents.versions)))
        raise EdgeTransactError(
            f"{path} has schema {schemas}, and this version writes {SCHEMA}", fix="Measure again, into a new log."
        )
    if contents.others and not contents.ours:
        raise _no_log(path)
    if contents.others:
        _warn_of_others(path, contents, "is left out")
    return contents.records


def _content(path: Path) -> bytes:
    return read_bytes(path, A_LOG, MOST_BYTES)


def _locked(path: Path) -> int:
    """Open a file that no other process may open so."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise EdgeTransactError(
                f"{path} cannot be written: {error.strerror}", fix="Name another log with --output."
            ) from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise EdgeTransactError(f"{path} is not a file", fix="Name another log with --output.")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one that had it may have put another file in its place just before it ended.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BlockingIOError as error:
            os.close(file)
            raise EdgeTransactError(
                f"another bench is writing {path}", fix="Wait for it, or write another log with --output."
            ) from error
        os.close(file)


def _parse(data: bytes, path: Path) -> _Contents:
    contents = _Contents(ended=not data or data.endswith(b"\n"))
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_int=integer_of)
        except (ValueError, RecursionError):
            contents.others.append((number, "no JSON, perhaps cut off", line))
            continue
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind not in ("repetition", "visit", CONDITIONS):
            contents.others.append((number, "no record of a bench", line))
        elif value.get("schema") != SCHEMA:
            contents.versions.add(str(value.get("schema")))
            contents.others.append((number, f"schema {value.get('schema')}", line))
        elif kind == CONDITIONS:
            contents.conditions = contents.conditions or value
        else:
            try:
                contents.records.append(_ADAPTER.validate_python(value))
                contents.lines.append(line)
            except (ValidationError, OverflowError) as error:
                problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
                contents.others.append((number, problem, line))
    return contents


def _warn_of_others(path: Path, contents: _Contents, fate: str) -> None:
    for number, reason, _ in contents.others:
        logger.warning(f"{path}: line {number} is no record ({reason}) and {fate}")


def _no_log(path: Path) -> EdgeTransactError:
    return EdgeTransactError(f"{path} holds no bench records", fix=A_LOG)


def _check_conditions(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, value in now.items():
        if before.get(name, value) != value:
            raise UsageError(
                f"{path} was measured with --{name} {before[name]}, now it is {value}",
                fix="Use the same, write another log with --output, or start over with --fresh, which keeps it aside.",
            )
