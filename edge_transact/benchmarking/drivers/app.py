"""Runs visits in a bundled app: the same visits, run by the app's benchmark activity.

The protocol, from the app's side:

- The app handles the intent action `ACTION`, which has a string extra ``run``.
- In the app's external files directory, ``bench/RUN.json`` is the request: an object with the fields of `AppRequest`.
- The app writes the lines of `benchmarking.records.lines` to ``bench/RUN.jsonl`` as they become known, ``final`` or
  ``error`` last. Where it can't write that one, it ends its process.
- The engine of the app tells the text of an answer but not its token ids, so ``check`` and ``repetition`` lines have
  ``text``. What else the engine doesn't tell is null.

Names and prompts travel in files, so that no part of a model's name ever reaches a shell.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace

from edge_transact.benchmarking.drivers.adb.app_folder import AppFolder
from edge_transact.benchmarking.drivers.adb.phone import GRACE_S, PhoneDriver
from edge_transact.benchmarking.drivers.base import CommandTimeout, RunFailed
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.records.lines import AppRequest, CheckLine, ErrorLine, FinalLine, Line, parse_line
from edge_transact.benchmarking.records.plan import Visit
from edge_transact.errors import EdgeTransactError, UsageError

ACTION = "edge_transact.action.BENCH"

POLL_S = 0.5

# Prints what the file holds from byte $2 on; succeeds if the app is still alive.
_POLL = """
if [ -e "$1" ]; then tail -c +$2 "$1"; fi
pidof "$3" >/dev/null
"""


@dataclass
class AppDriver(PhoneDriver):
    """Implements `Driver` with an installed app; a `UsageError` if `package` isn't an application id."""

    package: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", self.package, re.ASCII):
            raise UsageError(f"--app {self.package!r} is not an application id", fix="Write it as org.example.chat.")
        self.runner_kind = "app"
        self._folder = AppFolder(self.device, self.package)
        self._directory = f"{self._folder.path}/bench"
        self._run: str | None = None
        self._read_bytes = 0

    def prepare(self, models: Sequence[BenchModel], stop: threading.Event) -> bool:
        self.check(models)
        self._end_run()
        if self.device.shell("pm", "path", self.package).code:
            raise EdgeTransactError(
                f"{self.label} has no app {self.package}", fix="Install what `edge-transact bundle` made."
            )
        if "unable to resolve" in self._am_start():  # its benchmark ends at once, without a run
            fix = "Releases have none: install the debug build, `edge-transact bundle DIST -o APP --build --install`."
            raise EdgeTransactError(f"{self.label}: {self.package} has no benchmark", fix=fix)
        self._folder.make("bench")
        self.settle()
        return False

    def lines(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[Line, None, None]:
        run = f"run-{uuid.uuid4().hex}"
        self._run, self._read_bytes = run, 0
        request = AppRequest(
            run=run,
            model_lib=model.library_name(self.target),
            prompt=model.prompt(visit.lengths.prefill_tokens),
            decode_tokens=visit.lengths.decode_tokens,
            repetitions=visit.repetitions,
            warmups=self.conditions.warmups,
            check=model.manifest.answer(),
            timeout_s=self.conditions.limit_s,
        )
        deadline = time.monotonic() + self.conditions.limit_s + GRACE_S
        last: Line | None = None
        try:
            content = json.dumps(asdict(request)).encode()
            self._folder.put(content, f"{self._directory}/{run}.json", hashlib.sha256(content).hexdigest())
            if "Error" in (words := self._am_start("--es", "run", run)):
                raise RunFailed(f"{self.label}: {self.package} does not start: {words[-300:]}")
            while not stop.is_set() and not isinstance(last, FinalLine | ErrorLine):
                if time.monotonic() > deadline:
                    raise CommandTimeout(f"{self.label}: the app took longer than its timeout")
                lines, alive = self._poll(run)
                for line in lines:
                    last = line
                    yield _checked(line, model) if isinstance(line, CheckLine) else line
                if not lines and not alive:
                    raise RunFailed(f"{self.label}: the app ended without its final line", fix="See `adb logcat`.")
                stop.wait(POLL_S)
        except (GeneratorExit, CommandTimeout, RunFailed):
            self._end_run()
            raise
        self._end_run()
        if isinstance(last, ErrorLine):
            raise RunFailed(f"{self.label}, {model.name} {visit.lengths}: {last.message}")

    def recover(self) -> list[Line]:
        if self._run is None:
            return []
        lines, _ = self._poll(self._run)
        self._end_run()
        return lines

    def close(self) -> None:
        self._end_run()
        self.restore()

    def _am_start(self, *extra: str) -> str:
        """What Android says when the app's benchmark starts."""
        result = self.device.shell("am", "start", "-W", "-S", "-a", ACTION, "-p", self.package, *extra)
        return (result.stdout + result.stderr).strip() + ("\nError" if result.code else "")

    def _poll(self, run: str) -> tuple[list[Line], bool]:
        """New complete lines, and whether the app was alive after they were read."""
        path = f"{self._directory}/{run}.jsonl"
        result = self.device.script(_POLL, path, str(self._read_bytes + 1), self.package)
        complete = result.stdout[: result.stdout.rfind("\n") + 1]
        self._read_bytes += len(complete.encode())
        lines = [parse_line(line, run) for line in complete.splitlines()]
        return [line for line in lines if line is not None], result.code == 0

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            self.device.shell("am", "force-stop", self.package)
            self._folder.remove(f"{self._directory}/{run}.json", f"{self._directory}/{run}.jsonl")


def _checked(line: CheckLine, model: BenchModel) -> CheckLine:
    """The line with the number of tokens of the parity record whose text the app's answer begins with."""
    record = model.manifest.answer()
    if record is None or line.text is None:
        return line
    from edge_transact.runtime.text import TextCodec

    tokenizer = TextCodec(model.path).tokenizer.backend_tokenizer
    _, known = record
    # As MLC decodes: special tokens too. A character that the next token would complete doesn't count against this one.
    texts = [tokenizer.decode(known[:count], skip_special_tokens=False) for count in range(1, len(known) + 1)]
    agreed = sum(line.text.startswith(text.rstrip("\ufffd")) for text in texts[:-1]) + (line.text == texts[-1])
    return replace(line, tokens_checked=len(known), tokens_agreed=agreed)
