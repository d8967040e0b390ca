"""``python -m tests.mlc.record_json_ffi``: writes which fields MLC-LLM's JSON FFI engine reads and writes.

They are read from the C++ of MLC_LLM_SOURCE_DIR: each ``json::Lookup`` of a function that parses, and each ``Set`` of
one that writes.
"""

import json
import os
import re
import subprocess
from pathlib import Path

from tests.support.json_ffi.fields import GOLDEN

TYPES = {"std::string": "string", "int64_t": "integer", "double": "number", "bool": "boolean"}
READ = {
    "ChatCompletionRequest": [("json_ffi/openai_api_protocol.cc", "ChatCompletionRequest::FromJSON")],
    "ChatCompletionMessage": [("json_ffi/openai_api_protocol.cc", "ChatCompletionMessage::FromJSON")],
    "ResponseFormat": [("serve/config.cc", "ResponseFormat::FromJSON")],
    "Conversation": [("json_ffi/conv_template.cc", "Conversation::FromJSON")],
    "DebugConfig": [("serve/config.cc", "DebugConfig::FromJSON")],
    "EngineConfig": [
        ("serve/config.cc", "EngineConfig::FromJSONAndInferredConfig"),
        ("serve/engine.cc", "AutoDecideEngineConfig"),
    ],
}
WRITTEN = {
    "ChatCompletionStreamResponse": ("json_ffi/openai_api_protocol.cc", "ChatCompletionStreamResponse::AsJSON"),
    "choices": ("json_ffi/openai_api_protocol.cc", "ChatCompletionStreamResponseChoice::AsJSON"),
    "delta": ("json_ffi/openai_api_protocol.cc", "ChatCompletionMessage::AsJSON"),
    "usage": ("serve/metrics.cc", "RequestMetrics::AsUsageJSONStr"),
    "extra": ("serve/metrics.cc", "RequestMetrics::AsJSON"),
}
LOOKUP = re.compile(r'json::Lookup(\w*)<([\w:]+)>\(\s*(?:json|json_obj|config),\s*"(\w+)"')
PRESENT = re.compile(r'json_obj\.count\("(\w+)"\) == 0')


def body(source: Path, function: str) -> str:
    """A function's definition, whose last line is a brace at its first line's indentation."""
    text = source.read_text()
    signature = rf"^( *)[^\n;]*\b{function}\([^;{{]*\) (?:const )?{{\n"
    found = re.search(rf"{signature}.*?^\1}}$", text, re.MULTILINE | re.DOTALL)
    assert found, f"{source} has no {function}"
    return found[0]


def read_fields(text: str) -> dict[str, dict[str, object]]:
    """Name to type and whether it must be there. Those that needn't be may be null."""
    fields: dict[str, dict[str, object]] = {name: {"type": "any", "required": True} for name in PRESENT.findall(text)}
    for kind, cpp, name in LOOKUP.findall(text):
        required = not kind.startswith("Opt") and not kind.startswith("OrDefault")
        if name not in fields:
            fields[name] = {"type": TYPES.get(cpp, cpp.rpartition("::")[2].lower()), "required": required}
    return fields


def main() -> None:
    """Write the golden file."""
    source = Path(os.environ["MLC_LLM_SOURCE_DIR"])
    cpp = source / "cpp"
    choice = body(cpp / WRITTEN["choices"][0], WRITTEN["choices"][1])
    head = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    golden = {
        "mlc_llm": head.stdout.strip(),
        "functions": re.findall(r'VTABLE_ENTRY\("(\w+)"', (cpp / "json_ffi/json_ffi_engine.cc").read_text()),
        "read": {
            name: read_fields("\n".join(body(cpp / file, function) for file, function in places))
            for name, places in READ.items()
        },
        "written": {
            name: list(dict.fromkeys(re.findall(r'\.Set\("(\w+)"', body(cpp / file, function))))
            for name, (file, function) in WRITTEN.items()
        },
        "finish_reasons": re.findall(r'Set\("finish_reason", "(\w+)"\)', choice),
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
