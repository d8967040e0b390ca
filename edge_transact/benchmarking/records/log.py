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
    """The lines of a log, sorted: conditions, records, and others by number and reason."""

    conditions: dict[str, Any] | None = None
    records: list[Record] = field(default_factory=list)
    others: list[tuple[int, str]] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)

    @property
    def ours(self) -> bool:
        return self.conditions is not None or bool(self.records)


class Log:
    """An append-only JSONL file that several threads may write. All its repetitions have `conditions` in common.

    What is no record of this version stays in the file and is left out.

    Raises:
        UsageError: There is no log to resume, or it was measured under other conditions.
        EdgeTransactError: The file isn't a log or of another version, or another process is writing it.
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
                earlier = _parse(_content(path))
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
        """The records of the file, which has conditions and whole lines afterwards."""
        data = _content(self.path)
        contents = _checked(self.path, _parse(data))
        _check_conditions(self.path, contents.conditions or {}, conditions)
        if data and not data.endswith(b"\n"):
            os.write(self._file, b"\n")
        if contents.conditions is None:
            os.write(self._file, header(conditions).encode())
        if contents.records:
            count = sum(record.kind == "repetition" for record in contents.records)
            latest = max(record.time for record in contents.records)
            logger.info(f"{self.path} has {count} repetitions, the last of {latest}: what it lacks is measured")
        return contents.records

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


def header(conditions: Mapping[str, Any]) -> str:
    """The first line of a log."""
    return json.dumps({"schema": SCHEMA, "kind": CONDITIONS, **conditions}) + "\n"


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
        contents = _parse(zip_member(path, LOG_MEMBER, A_LOG) if zipped else _content(path))
    except OSError as error:
        raise EdgeTransactError(f"{path}: {error.strerror}", fix=A_LOG) from error
    return _checked(path, contents).records


def _checked(path: Path, contents: _Contents) -> _Contents:
    """The contents, if they are those of an empty log or of this version's, with a warning for each other line."""
    if contents.others and not contents.ours:
        if not contents.versions:
            raise _no_log(path)
        raise EdgeTransactError(
            f"{path} has schema {' and '.join(sorted(contents.versions))}, and this version writes {SCHEMA}",
            fix="Measure again, into a new log: with --output, or with --fresh, which keeps this one aside.",
        )
    for number, reason in contents.others:
        logger.warning(f"{path}: line {number} is no record ({reason}) and is left out")
    return contents


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


def _parse(data: bytes) -> _Contents:
    contents = _Contents()
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_int=integer_of)
        except (ValueError, RecursionError):
            contents.others.append((number, "no JSON, perhaps cut off"))
            continue
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind not in ("repetition", "visit", CONDITIONS):
            contents.others.append((number, "no record of a bench"))
        elif value.get("schema") != SCHEMA:
            contents.versions.add(str(value.get("schema")))
            contents.others.append((number, f"schema {value.get('schema')}"))
        elif kind == CONDITIONS:
            contents.conditions = contents.conditions or value
        else:
            try:
                contents.records.append(_ADAPTER.validate_python(value))
            except (ValidationError, OverflowError) as error:
                problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
                contents.others.append((number, problem))
    return contents


def _no_log(path: Path) -> EdgeTransactError:
    return EdgeTransactError(f"{path} holds no bench records", fix=A_LOG)


def _check_conditions(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, value in now.items():
        if before.get(name, value) != value:
            raise UsageError(
                f"{path} was measured with --{name} {before[name]}, now it is {value}",
                fix="Use the same, write another log with --output, or start over with --fresh, which keeps it aside.",
            )
