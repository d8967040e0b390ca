"""One file of evidence of a bench, which can be given to others: its log, its report, and what was measured on what.

It has no serial number, account, address or path. `records.log.read_records` reads its log like any other.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from edge_transact.artifacts.outputs import new_file, scratch_directory
from edge_transact.benchmarking.analysis.report import write_report
from edge_transact.benchmarking.drivers.base import DeviceInfo
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.records.log import LOG_MEMBER, header, to_line
from edge_transact.benchmarking.records.record import Record, RepetitionRecord
from edge_transact.errors import UsageError
from edge_transact.reading import checked, parsed, without_home, zip_member
from edge_transact.version import __version__

FACTS = "evidence.json"
REPORT = "report/"
SCHEMA = 1
MOST_FACTS_BYTES = 4 << 20

_BEGINS = b"PK\3\4"
# IP addresses with or without a port, and paths below the directories that hold people's own.
_PRIVATE = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|(?<![\w/])/(?:home|Users|root|tmp|private|var|mnt|media|Volumes)/[^\s:'\",]*"
)
_ABOUT_DEVICE = ("name", "soc", "android", "sdk", "fingerprint", "abis", "memory_mib", "opencl")
_ABOUT_DIST = ("model_type", "quantization", "parameters", "weights_bytes", "libraries", "versions", "files")


@dataclass(frozen=True)
class Evidence:
    """The facts in a file of evidence.

    Attributes:
        edge_transact: The version that measured.
        devices: What each device said of itself, by the name that stands for its serial in the log.
        dists: By the sha256 of a DIST's manifest, its model, versions and the sha256 of every file.
    """

    schema: int
    edge_transact: str
    devices: Mapping[str, dict[str, Any]]
    dists: Mapping[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Evidence:
        """The facts in a file. Raises the errors of `reading.zip_member` and `reading.checked`."""
        content = zip_member(path, FACTS, at_most=MOST_FACTS_BYTES)
        return checked(cls, parsed(content, path), path, what="evidence of a bench")


def refuse(path: Path) -> None:
    """Raises an `EdgeTransactError` for what isn't ``.zip``, or is there and no evidence, before measuring."""
    if path.suffix != ".zip":
        raise UsageError(f"--evidence {path} is not the name of a ZIP file", fix="Name it FILE.zip.")
    if path.exists():
        Evidence.read(path)


def write_evidence(
    path: Path,
    records: Sequence[Record],
    conditions: Mapping[str, Any],
    infos: Sequence[DeviceInfo],
    models: Sequence[BenchModel],
) -> None:
    """Writes the file, of the conditions and the records of a log; an earlier one is replaced."""
    serials = list(dict.fromkeys([record.serial for record in records] + [info.serial for info in infos]))
    names = {serial: f"device-{number}" if serial != "host" else serial for number, serial in enumerate(serials, 1)}
    facts = Evidence(
        SCHEMA,
        __version__,
        {names[info.serial]: {name: getattr(info, name) for name in _ABOUT_DEVICE} for info in infos},
        {model.digest: {name: getattr(model.manifest, name) for name in _ABOUT_DIST} for model in models},
    )
    with scratch_directory() as scratch, new_file(path, _BEGINS, force=path.exists()) as fresh:
        report = scratch / "report"
        cleaned = [TypeAdapter(type(record)).validate_python(_without(asdict(record), names)) for record in records]
        if any(isinstance(record, RepetitionRecord) for record in cleaned):
            write_report(cleaned, report, command="edge-transact bench DIST --device SERIAL")
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as archive:
            # Not compressed: that we wrote the file is then seen from its first bytes.
            archive.writestr(FACTS, json.dumps(_without(asdict(facts), names), indent=1), zipfile.ZIP_STORED)
            archive.writestr(LOG_MEMBER, header(_without(conditions, names)) + "".join(map(to_line, cleaned)))
            for file in sorted(report.glob("*")):
                archive.write(file, REPORT + file.name)


def _without(value: Any, names: Mapping[str, str]) -> Any:
    """A value without serials, addresses and paths in its texts."""
    if isinstance(value, str):
        for serial, name in names.items():
            value = re.sub(rf"(?<!\w){re.escape(serial)}(?!\w)", name, value)
        return _PRIVATE.sub("...", without_home(value))
    if isinstance(value, Mapping):
        return {str(_without(key, names)): _without(each, names) for key, each in value.items()}
    return [_without(each, names) for each in value] if isinstance(value, list | tuple) else value
