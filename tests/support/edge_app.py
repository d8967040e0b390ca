"""The edge module of apps on this machine: compiled, described to itself in ``models.json``, and driven."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.phone.runner import REPOSITORY, cache_directory, one_at_a_time

CORE = REPOSITORY / "templates/android/edge/src/main/java/edgetransact/edge"
TESTS = REPOSITORY / "tests/bundle/java"
ORG_JSON = Path("/usr/share/java/com.android.json.jar")
"""Android's own org.json, from Debian's libandroid-json-java."""

TIMEOUT_S = 120


@one_at_a_time
def build_edge() -> Path:
    """The core and the tests' Java as classes; cached under a hash of the sources.

    They are compiled against Java 8, whose library Android 8.0, the oldest that apps run on, has.
    """
    sources = [*sorted(CORE.glob("*.java")), *sorted(TESTS.rglob("*.java"))]
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    target = cache_directory() / f"edge-{key.hexdigest()[:12]}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
            classes = Path(fresh) / "classes"
            options = ["--release", "8", "-Xlint:all,-options", "-Werror", "-cp", str(ORG_JSON), "-d", str(classes)]
            subprocess.run(["javac", *options, *map(str, sources)], check=True)
            classes.rename(target)
    return target


def java(main: str, *arguments: str) -> list[str]:
    """The command that runs a main class of the tests' Java. It starts quickly and takes little memory."""
    classpath = f"{build_edge()}:{ORG_JSON}"
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-cp", classpath, main, *arguments]


def engine(libraries: Mapping[str, Path]) -> list[str]:
    """The command that runs the stand-in engine, with the host libraries that stand for an app's."""
    return [sys.executable, "-m", "tests.support.json_ffi", *(f"{name}={path}" for name, path in libraries.items())]


def entry(directory: Path, /, libraries: Mapping[str, str], **changes: Any) -> dict[str, Any]:
    """An entry of ``models.json`` for the files of a directory, whose name is the model's id.

    Args:
        directory: Weights, tokenizer and ``mlc-chat-config.json``.
        libraries: Target to the library's name.
        changes: Other fields than these.
    """
    files = [
        {"path": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(directory.iterdir())
    ]
    config = json.loads((directory / "mlc-chat-config.json").read_text())
    return {
        "id": directory.name,
        "name": directory.name,
        "digest": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "libraries": dict(libraries),
        "memory_bytes": dict.fromkeys(libraries, 1000),
        "context_window_size": config["context_window_size"],
        "prefill_chunk_size": config["prefill_chunk_size"],
        "weights": "assets",
        "files": files,
        **changes,
    }


class Failed(Exception):
    """An `EdgeException` of the core.

    Attributes:
        code: Its code.
        fields: ``detail``, ``needed``, ``available`` and ``message``.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields["message"])
        self.code: str = fields["code"]
        self.fields = fields


class Core:
    """The core in a process of its own, with the stand-in engine: ``core("send", text="Hi")``.

    Args:
        libraries: Library name to the host library that stands for it.
        log: Where the engine appends what it is called with.
    """

    def __init__(self, libraries: Mapping[str, Path], log: Path) -> None:
        self.log = log
        self._process = subprocess.Popen(
            java("edgetransact.tests.Bridge", *engine(libraries)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=REPOSITORY,
            env={**os.environ, "JSON_FFI_LOG": str(log), "PYTHONPATH": str(REPOSITORY)},
        )

    def __call__(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Run a command of ``Bridge.java``.

        Raises:
            Failed: The core threw an `EdgeException`.
            ValueError: It refused the call.
        """
        values = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **values}) + "\n")
        self._process.stdin.flush()
        hangs = threading.Timer(TIMEOUT_S, self._process.kill)
        hangs.start()
        line = self._process.stdout.readline()
        hangs.cancel()
        result = json.loads(line)
        if "error" in result:
            raise Failed(result["error"])
        if "refused" in result:
            raise ValueError(result["refused"])
        return result

    def calls(self, function: str) -> list[Any]:
        """The arguments of all calls of an engine's function so far; JSON in them is parsed."""
        calls = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [
            json.loads(call["arguments"][0]) if call["arguments"][0].startswith("{") else call["arguments"][0]
            for call in calls
            if call["function"] == function
        ]

    def kill(self) -> None:
        """End it as a phone ends an app."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def said(events: Sequence[Any]) -> str:
    """The text of an answer's events."""
    return "".join(text for kind, text in events[:-2] if kind == "text")
