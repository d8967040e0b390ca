"""Models to time, each in a process of its own that runs one repetition on request and sleeps otherwise.

This lets repetitions of different programs alternate, so that a disturbance affects all of them alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from edge_transact.errors import EdgeTransactError

PAUSE_S = 0.5
"""Pause before each repetition: threads of the program measured before spin for a while before they sleep."""


class Durations(TypedDict):
    """Seconds of one repetition: until the first token is chosen, and the rest."""

    prefill_s: float
    decode_s: float


class Subject:
    """A process that answers ``{"prompt": ids, "decode_tokens": n}`` with the fields of `Durations`.

    Args:
        command: Command line. The first JSON line of its output says that it is ready, and describes it.
        cwd: Working directory.
        environment: Changes to this process's environment.

    Attributes:
        about: That first line.
    """

    about: dict[str, str]

    def __init__(
        self, command: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = " ".join(map(str, command))
        self._open = partial(
            subprocess.Popen[str],
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._start()

    def restart(self) -> None:
        """End the process, and start another one."""
        self.close()
        self._start()

    def _start(self) -> None:
        self._process = self._open()
        try:
            self.about = json.loads(self._read())
        except EdgeTransactError:
            self.close()
            raise

    def repetition(self, prompt: Sequence[int], decode_tokens: int) -> Durations:
        """Run one repetition."""
        time.sleep(PAUSE_S)
        answer = self.ask(prompt=list(prompt), decode_tokens=decode_tokens)
        return {"prefill_s": answer["prefill_s"], "decode_s": answer["decode_s"]}

    def ask(self, **request: object) -> dict[str, Any]:
        """Send a request, and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def _read(self) -> str:
        """The next JSON line."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return line
        raise EdgeTransactError(f"{self._command} ended", fix="See its output above.")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def host(library: Path, weights: Path, threads: int) -> Subject:
    """Start a library for this host with its weights."""
    command = [sys.executable, "-m", "benchmarks.subjects", str(library), str(weights)]
    return Subject(command, environment={"TVM_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)})


def main() -> None:
    """Entry point of the process that `host` starts."""
    from edge_transact.benchmarking.drivers.host_runner import run_once
    from edge_transact.runtime.host import HostModel

    model = HostModel(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"cpu": model.metadata["cpu"]["name"]}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        result = run_once(model, request["prompt"], request["decode_tokens"])
        print(json.dumps({"prefill_s": result.prefill_s, "decode_s": result.decode_s}), flush=True)


if __name__ == "__main__":
    main()
