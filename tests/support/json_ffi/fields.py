"""The fields of MLC's JSON FFI protocol, as ``tests.mlc.record_json_ffi`` found them in its C++."""

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[2] / "data" / "mlc_json_ffi.json"

TYPES = {
    "string": str, "integer": int, "number": int | float, "boolean": bool, "array": list, "object": dict, "any": object,
}  # fmt: skip


class ProtocolError(Exception):
    """A message that MLC's engine would refuse, or would read otherwise than it was meant."""


def refusal(request: Mapping[str, Any]) -> str | None:
    """What `GenerationConfig::Validate` says of a request, which the engine streams back."""
    if request.get("n", 1) <= 0:
        return '"n" should be at least 1'
    if request.get("temperature", 0) < 0:
        return '"temperature" should be non-negative'
    if not 0 <= request.get("top_p", 1) <= 1:
        return '"top_p" should be in range [0, 1]'
    if abs(request.get("frequency_penalty", 0)) > 2:
        return "frequency_penalty must be in [-2, 2]!"
    return None


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

    def check_request(self, request: Mapping[str, Any], roles: Container[str]) -> None:
        """Raise a `ProtocolError` unless the engine reads a request, whose template has these roles."""
        self.check_read("ChatCompletionRequest", request)
        for message in request["messages"]:
            self.check_read("ChatCompletionMessage", message)
            if message["role"] != "system" and message["role"] not in roles:
                raise ProtocolError(f'Role "{message["role"]}" is not supported')
            if message.get("tool_calls"):
                raise ProtocolError("Cannot unwrap result on an okay value.")  # of a call's id: MLC reads none
        if not all(isinstance(stop, str) for stop in request.get("stop") or []):
            raise ProtocolError('One given value in field "stop" is not a string.')
        self.check_read("DebugConfig", request.get("debug_config") or {})
        self.check_read("ResponseFormat", request.get("response_format") or {})
        kind, schema = ((request.get("response_format") or {}).get(name) for name in ("type", "schema"))
        if kind not in (None, "text", "function", "json_object"):
            raise ProtocolError(f"Uknonwn response_format type {kind}")
        if schema is not None and not isinstance(json.loads(schema), dict):
            raise ProtocolError(f"no JSON schema: {schema}")

    def check_written(self, struct: str, message: Mapping[str, Any]) -> None:
        """Raise a `ProtocolError` unless the engine writes such a message."""
        for name in message:
            if name not in self._written[struct]:
                raise ProtocolError(f"MLC writes no {name} in {struct}")
