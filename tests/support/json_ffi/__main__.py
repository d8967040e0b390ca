"""``python -m tests.support.json_ffi NAME=LIBRARY.so...``: the engine behind a pipe, one JSON object a line.

In: ``{"call": NUMBER, "function": NAME, "arguments": [...]}``. Out: ``{"call": NUMBER, "error": text or null}`` when it
returns, ``{"responses": "[...]"}`` for each callback, and ``{"died": reason}``. ``init_background_engine`` begins with
a new engine. ``JSON_FFI_LOG`` names a file to which calls are appended, ``JSON_FFI_PACE`` the engine's pace.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

# TVM imports torch if it is installed, which takes seconds, and nothing here needs it.
sys.modules["torch"] = None  # type: ignore[assignment]

from tests.support.json_ffi.engine import Engine  # noqa: E402


def main() -> None:
    """Serve calls until stdin ends."""
    libraries = {name: Path(path) for name, _, path in (word.partition("=") for word in sys.argv[1:])}
    lock = threading.Lock()
    log = os.environ.get("JSON_FFI_LOG")
    pace = Path(os.environ["JSON_FFI_PACE"]) if "JSON_FFI_PACE" in os.environ else None

    def write(**message: object) -> None:
        with lock:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    def call(number: int, function: str, arguments: list[Any]) -> None:
        try:
            getattr(engine, function)(*arguments)
        except Exception as error:
            write(call=number, error=f"{type(error).__name__}: {error}")
        else:
            write(call=number, error=None)

    engine: Engine | None = None
    for line in sys.stdin.buffer:
        message = json.loads(line.decode("ascii"))  # JNI changes everything else
        if log:
            with Path(log).open("ab") as file:
                file.write(line)
        number, function, arguments = message["call"], message["function"], message["arguments"]
        if function == "init_background_engine":
            said, died = (lambda text: write(responses=text)), (lambda reason: write(died=reason))
            engine = Engine(libraries, said, died, pace)
            write(call=number, error=None)
        elif function in ("reload", "unload"):
            # Others are heard while these wait.
            threading.Thread(target=call, args=(number, function, arguments), daemon=True).start()
        else:
            call(number, function, arguments)


if __name__ == "__main__":
    main()
