"""The edge module of apps on this machine: compiled, described to itself in ``models.json``, and driven."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edge_transact.runtime.host import HostModel
from edge_transact.runtime.text import TextCodec
from tests.support.byte_model import byte_model
from tests.support.patience import HANG_S
from tests.support.phone.runner import CACHE, REPOSITORY, one_at_a_time

CORE = REPOSITORY / "templates/android/edge/src/main/java/edgetransact/edge"
TESTS = REPOSITORY / "tests/bundling/java"
NULLABLE = REPOSITORY / "tests/bundling/stubs/org/jetbrains/annotations/Nullable.java"
ORG_JSON = Path("/usr/share/java/com.android.json.jar")
"""Android's own org.json, from Debian's libandroid-json-java."""

WINDOW = 128
"""The context window of ``demo:tiny``."""
ENOUGH = 10**9
"""More memory than these models take, in bytes."""
SHARD = "params_shard_0.bin"
"""The only file of weights of these models."""
BOTH = {"android": "tiny", "android-cpu": "tiny-cpu"}
"""Names of the libraries for the GPU and the CPU of a phone."""


@one_at_a_time
def build_edge() -> Path:
    """The core and the tests' Java as classes; cached under a hash of the sources.

    They are compiled against Java 8, whose library Android 8.0, the oldest that apps run on, has.
    """
    sources = [*sorted(CORE.glob("*.java")), *sorted(TESTS.rglob("*.java")), NULLABLE]
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    target = CACHE / f"edge-{key.hexdigest()[:12]}"
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
    """An entry of ``models.json`` for the files of a directory, whose name is the model's id, but for some changes."""
    files = [
        {"path": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(directory.iterdir())
    ]
    config = json.loads((directory / "mlc-chat-config.json").read_text())
    return {
        "id": directory.name, "name": directory.name, "weights": "assets", "files": files,
        "digest": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "libraries": dict(libraries), "memory_bytes": dict.fromkeys(libraries, 1000), "tuned": {},
        **{size: config[size] for size in ("context_window_size", "prefill_chunk_size")}, **changes,
    }  # fmt: skip


def change(path: Path, offset: int = 1000) -> None:
    """Flip bits of one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def same(directory: Path, other: Path) -> bool:
    """Whether two directories hold the same files."""
    contents = [{path.name: path.read_bytes() for path in each.iterdir()} for each in (directory, other)]
    return contents[0] == contents[1]


def wait_until(condition) -> None:
    """Wait for another process."""
    end = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Failed(Exception):
    """An `EdgeException` of the core: its code, and ``detail``, ``needed``, ``available`` and ``message``."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields["message"])
        self.code: str = fields["code"]
        self.fields = fields


class Core:
    """The core in a process of its own, with the stand-in engine: ``core("send", text="Hi")``.

    The engine appends what it is called with to `log`, and has the host libraries that stand for an app's.
    """

    def __init__(self, libraries: Mapping[str, Path], log: Path) -> None:
        self.log, self._pace = log, log.with_suffix(".pace")
        names = {"JSON_FFI_LOG": str(log), "JSON_FFI_PACE": str(self._pace), "PYTHONPATH": str(REPOSITORY)}
        command, pipe = java("edgetransact.tests.Bridge", *engine(libraries)), subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, encoding="utf-8", cwd=REPOSITORY, env={**os.environ, **names}
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
        hangs = threading.Timer(HANG_S, self._process.kill)
        hangs.start()
        line = self._process.stdout.readline()
        hangs.cancel()
        result = json.loads(line)
        if "error" in result:
            raise Failed(result["error"])
        if "refused" in result:
            raise ValueError(result["refused"])
        return result

    @contextmanager
    def pace(self, **pace: int) -> Iterator[None]:
        """Have the engine ``hold`` or ``die`` at so many tokens meanwhile, or ``batch`` so many in one callback."""
        fresh = self._pace.with_suffix(".fresh")
        fresh.write_text(json.dumps(pace))
        fresh.rename(self._pace)
        try:
            yield
        finally:
            self._pace.unlink()

    def calls(self, function: str) -> list[Any]:
        """The first arguments of all calls of an engine's function so far, None if it has none; JSON is parsed."""
        calls = [json.loads(line) for line in self.log.read_text().splitlines()]
        first = [(*call["arguments"], None)[0] for call in calls if call["function"] == function]
        return [json.loads(argument) if argument and argument.startswith("{") else argument for argument in first]

    def ended(self) -> int:
        """How it ended, once it has: the number of a signal is negative."""
        return self._process.wait(HANG_S)

    def kill(self) -> None:
        """End it as a phone ends an app."""
        self._process.kill()
        self.ended()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def said(events: Sequence[Any]) -> str:
    """The text of an answer's events."""
    return "".join(text for kind, text in events[:-2] if kind == "text")


class App:
    """An app with models on a phone: its core and assets, and the model itself to compare with."""

    def __init__(self, dist: Path, directory: Path) -> None:
        (library,) = (dist / "lib").glob("*-host.so")
        self.assets, self._directory = directory / "assets", directory
        self.assets.mkdir(parents=True)
        byte_model(dist, self.assets / "short")
        byte_model(dist, self.assets / "long", stop_ids=[])
        self.core = Core({"tiny": library, "tiny-cpu": library}, directory / "calls.jsonl")
        self.library = library
        self._model: HostModel | None = None

    def entry(self, directory: str, /, **changes: Any) -> dict[str, Any]:
        """A model's entry in ``models.json``."""
        return entry(self.assets / directory, **{"libraries": BOTH} | changes)

    def read(self, *entries: dict[str, Any]) -> list[dict[str, str]]:
        """Have the core read ``models.json``."""
        return self.core("models", json=json.dumps({"models": entries}))["models"]

    def phone(self, name: str) -> dict[str, Path]:
        """The directories of a phone with this name, as arguments of a command."""
        home = self._directory / "phones" / name
        home.mkdir(parents=True, exist_ok=True)
        return {"assets": self.assets, "internal": home / "internal", "external": home / "external"}

    def load(self, name: str, **how: Any) -> dict[str, Any]:
        """Load a model straight from the assets, unless its weights are elsewhere."""
        self.read(self.entry(name))
        usual = {"id": name, "open_cl": True, "memory": ENOUGH, "weights": self.assets / name}
        return self.core("load", **usual | how)

    def send(self, text: str, **options: Any) -> list[Any]:
        """Send a message, and return all that is heard of the answer."""
        return self.core("send", text=text, **options)["events"]

    def answer(self, messages: list[list[str]], stop_ids: Sequence[int]) -> tuple[str, int, int]:
        """What the model says, as edge-transact runs it: text, tokens of the prompt, tokens of the answer."""
        codec = TextCodec(self.assets / "short")
        ids = codec.encode_chat([{"role": role, "content": text} for role, text in messages])
        tokens: list[int] = []
        for token in self._host.generate(ids, WINDOW - len(ids)):
            tokens.append(token)
            if token in stop_ids:
                break
        text = codec.tokenizer.decode([token for token in tokens if token not in stop_ids])
        return text, len(ids), len(tokens)

    def generate(self, ids: Sequence[int], tokens: int) -> str:
        """The text of so many tokens after a prompt of token ids."""
        tokenizer = Tokenizer.from_file(str(self.assets / "short" / "tokenizer.json"))
        return tokenizer.decode(list(self._host.generate(ids, tokens)), skip_special_tokens=False)

    @property
    def _host(self) -> HostModel:
        """The model with nothing in its context."""
        self._model = self._model or HostModel(self.library, self.assets / "short")
        self._model.reset()
        return self._model
