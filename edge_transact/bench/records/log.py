"""The log of a bench: a JSONL file that grows by one record as each repetition ends, and from which a plan resumes.

There are two kinds of records. A `RepetitionRecord` is one measured repetition with everything that is known about it.
A `VisitRecord` says that a visit has ended, well or not, and holds the sensor readings taken during it.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from edge_transact.artifacts.unfinished import Start
from edge_transact.bench.records.lines import Measurement
from edge_transact.bench.records.readings import Reading, ReadingSummary
from edge_transact.errors import EdgeTransactError, UsageError

logger = logging.getLogger(__name__)

SCHEMA = 2

CONDITIONS = "conditions"
"""The kind of a log's first line, which says what all its repetitions have in common."""


@dataclass(frozen=True)
class Key:
    """What identifies a visit across runs."""

    serial: str
    model_digest: str
    target: str
    prefill_tokens: int
    decode_tokens: int
    round: int


@dataclass(frozen=True, kw_only=True)
class VisitContext:
    """What both kinds of records say about their visit.

    Attributes:
        model: Name of the model.
        model_digest: sha256 of the DIST's manifest.
        model_type: ``model_type`` of its configuration.
        parameters: Number of parameters.
        quantization: Quantization of the weights.
        decode_read_bytes: Bytes that a decoded token must read: every weight, and the KV cache at its mean length.
        build: Versions that the DIST was built with.
        serial: What adb calls the device, or ``host``.
        device: Label of the device.
        soc: Model of the chip.
        android: Version of Android.
        device_fingerprint: Build of the operating system.
        bandwidth_gb_s: Peak DRAM bandwidth of the chip.
        fixed_performance: Whether Android's fixed-performance mode was on; None if it was not tried.
        target: Target of the library.
        prefill_tokens: Length of the prompt.
        decode_tokens: Length of the answer.
        warmups: Repetitions that don't count.
        round: 0 or 1.
        time: When the record was made, in ISO 8601.
    """

    model: str
    model_digest: str
    model_type: str
    parameters: int
    quantization: str
    decode_read_bytes: int
    build: dict[str, str]
    serial: str
    device: str
    soc: str | None
    android: str | None
    device_fingerprint: str | None
    bandwidth_gb_s: float | None
    fixed_performance: bool | None
    target: str
    prefill_tokens: int
    decode_tokens: int
    warmups: int
    round: int
    time: str

    @property
    def key(self) -> Key:
        """The visit that the record belongs to."""
        return Key(
            self.serial, self.model_digest, self.target, self.prefill_tokens, self.decode_tokens, self.round
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LoadFacts:
    """What a run said about itself before its first repetition; see `LoadLine` and `CheckLine`."""

    load_s: float | None
    kernel_build_s: float | None
    kernels_restored: bool
    threads: int | None
    kv_mib: float | None
    weights_mib: float
    tokens_checked: int | None
    tokens_agreed: int | None


# Fields of dataclasses follow the bases from the last to the first.
@dataclass(frozen=True, kw_only=True)
class RepetitionRecord(ReadingSummary, LoadFacts, Measurement, VisitContext):
    """One measured repetition."""

    kind: Literal["repetition"] = "repetition"


@dataclass(frozen=True, kw_only=True)
class VisitRecord(VisitContext):
    """The end of a visit.

    Attributes:
        error: Why it failed; None if it ended well.
        trace: Sensor readings taken during it.
    """

    error: str | None
    trace: tuple[Reading, ...]
    kind: Literal["visit"] = "visit"


Record = RepetitionRecord | VisitRecord

_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


class Log:
    """An append-only JSONL file that several threads may write.

    Args:
        path: The file; made if it is missing.
        conditions: What all repetitions of a log have in common, as JSON values by option.
        start: What to do with an existing file.

    Raises:
        UsageError: There is no log to resume, or it was measured under other conditions.
        EdgeTransactError: The file isn't a log of this schema, or another process is writing it.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any], start: Start = Start.GO_ON) -> None:
        if start is Start.FRESH and path.exists():
            logger.info(f"the earlier log is now {_set_aside(path)}")
        if start is Start.RESUME and not path.exists():
            raise UsageError(f"--resume: there is no log {path}", fix="Leave out --resume, or name it with --output.")
        self.path = path
        self.records = read_records(path) if path.exists() else []
        if self.records:
            _check_conditions(path, conditions)
            count = sum(record.kind == "repetition" for record in self.records)
            latest = max(record.time for record in self.records)
            logger.info(f"{path} has {count} repetitions, the last of {latest}: what it lacks is measured")
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise EdgeTransactError(
                f"another bench is writing {path}", fix="Wait for it, or write another log with --output."
            ) from error
        size = os.lseek(self._file, 0, os.SEEK_END)
        # A line that an earlier run could not finish stays. It is ended here, so that the next one begins a new line.
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")
        if not self.records:
            os.write(self._file, json.dumps({"schema": SCHEMA, "kind": CONDITIONS, **conditions}).encode() + b"\n")

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk when this returns.

        The record is added to `records` in any case, so that results can be shown even if the disk is full.

        Raises:
            EdgeTransactError: The record could not be written completely; nothing of it stays in the file.
        """
        line = to_line(record).encode()
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
        """Number of repetitions of a visit in the log."""
        with self._lock:
            return sum(record.kind == "repetition" and record.key == key for record in self.records)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def to_line(record: Record) -> str:
    """A record as a line of the log. Readings leave out what the device didn't report."""
    fields: dict[str, Any] = {"schema": SCHEMA, "kind": record.kind, **asdict(record)}
    if "trace" in fields:
        fields["trace"] = [
            {name: value for name, value in reading.items() if value is not None} for reading in fields["trace"]
        ]
    return json.dumps(fields) + "\n"


def read_records(path: Path) -> list[Record]:
    """Read the records of a log. Lines that were cut off, and lines that aren't records, are skipped with a warning.

    Raises:
        EdgeTransactError: The file isn't a log, or a record has another schema or lacks fields.
    """
    records: list[Record] = []
    foreign: list[int] = []
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise EdgeTransactError(f"{path}: {error.strerror}", fix="Name a log that `bench` wrote.") from error
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        kind = record.get("kind") if isinstance(record, dict) else None
        if kind in ("repetition", "visit"):
            records.append(_parse(record, f"{path}, line {number}"))
        elif line.strip() and kind != CONDITIONS:
            foreign.append(number)
    if text.strip() and not records:
        if any(json.loads(line).get("kind") == CONDITIONS for line in text.splitlines()[:1] if line.startswith("{")):
            return records  # interrupted before the first repetition
        raise EdgeTransactError(f"{path} holds no bench records", fix="Name a log that `bench` wrote.")
    if foreign:
        logger.warning(f"{path}: skipping what is no record of a bench in line {', '.join(map(str, foreign))}")
    return records


def _check_conditions(path: Path, conditions: Mapping[str, Any]) -> None:
    with path.open(errors="replace") as file:
        try:
            before = json.loads(file.readline())
        except ValueError:
            return
    if before.get("kind") != CONDITIONS:
        return
    for name, value in conditions.items():
        if before.get(name, value) != value:
            raise UsageError(
                f"{path} was measured with --{name} {before[name]}, now it is {value}",
                fix="Use the same, write another log with --output, or start over with --fresh, which keeps it aside.",
            )


def _set_aside(path: Path) -> Path:
    return path.rename(
        next(
            aside
            for number in itertools.count(1)
            if not (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists()
        )
    )


def _parse(record: dict[str, Any], where: str) -> Record:
    if record.get("schema") != SCHEMA:
        raise EdgeTransactError(
            f"{where} has schema {record.get('schema')}, and this version writes {SCHEMA}",
            fix="Start a new log with --output, or with --fresh, which keeps this one aside.",
        )
    try:
        return _ADAPTER.validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        raise EdgeTransactError(
            f"{where}: {field}: {first['msg']}", fix="Remove the line, or start a new log."
        ) from error
