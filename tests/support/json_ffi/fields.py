"""The fields of MLC's JSON FFI protocol, as ``tests.mlc.record_json_ffi`` found them in its C++."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[2] / "data" / "mlc_json_ffi.json"

TYPES = {
    "string": str, "integer": int, "number": int | float, "boolean": bool, "array": list, "object": dict, "any": object,
}  # fmt: skip


class ProtocolError(Exception):
    """A message that MLC's engine would refuse, or would read otherwise than it was meant."""


class Fields:
    """Checks messages against the fields that the engine reads and writes."""

    def __init__(self) -> None:
        golden = json.loads(GOLDEN.read_text())
        self._read: dict[str, dict[str, dict[str, Any]]] = golden["read"]
        self._written: dict[str, list[str]] = golden["written"]

    def check_read(self, struct: str, message: Mapping[str, Any], strict: bool = True) -> None:
        """Raise a `ProtocolError` unless the engine reads a message, all of it if that is `strict`."""
        known = self._read[struct]
        for name, value in message.items():
            if name not in known:
                if strict:
                    raise ProtocolError(f"{struct} has no field {name}")
                continue
            field = known[name]
            if value is None and (not field["required"] or field["type"] == "any"):
                continue
            right = isinstance(value, TYPES[field["type"]])
            # To Python, a bool is an int.
            if not right or (isinstance(value, bool) and field["type"] in ("integer", "number")):
                raise ProtocolError(f"{struct}.{name} is {value!r}, not of type {field['type']}")
        for name, field in known.items():
            if field["required"] and name not in message:
                raise ProtocolError(f"{struct} lacks {name}")

    def check_written(self, struct: str, message: Mapping[str, Any]) -> None:
        """Raise a `ProtocolError` unless the engine writes such a message."""
        for name in message:
            if name not in self._written[struct]:
                raise ProtocolError(f"MLC writes no {name} in {struct}")
