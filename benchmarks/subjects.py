"""What is timed: a model in a process of its own, which does a repetition whenever it is told to and sleeps otherwise.

So repetitions of different programs alternate, and what disturbs the machine disturbs all of them alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_transact.errors import EdgeTransactError

PAUSE_S = 0.5
"""Before each repetition: the threads of whoever was measured before wait busily for a while until they sleep."""


class Subject:
    """A process that answers ``{"prompt": ids, "decode_tokens": n}`` with ``{"prefill_s": ..., "decode_s": ...}``.

    Args:
        command: Starts it. Its first line says that it is ready, and what it is.
        cwd: Where it runs.
        environment: Changes to this process's environment.
    """

    def __init__(
        self, command: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.about = self._read()
        except EdgeTransactError:
            self.close()
            raise

    def repetition(self, prompt: Sequence[int], decode_tokens: int) -> dict[str, float]:
        """Seconds of one repetition: ``prefill_s`` to the choice of the first token, ``decode_s`` of those after it."""
        assert self._process.stdin is not None
        time.sleep(PAUSE_S)
        self._process.stdin.write(json.dumps({"prompt": list(prompt), "decode_tokens": decode_tokens}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise EdgeTransactError(
            f"{' '.join(map(str, self._process.args))} ended",
            fix="Look at what it wrote above.",  # type: ignore[union-attr]
        )

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def host(library: Path, weights: Path, threads: int) -> Subject:
    """A library for this host, with its weights."""
    command = [sys.executable, "-m", "benchmarks.subjects", str(library), str(weights)]
    return Subject(command, environment={"TVM_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)})


def main() -> None:
    """The process behind `host`."""
    from edge_transact.bench.drivers.host_runner import repetition
    from edge_transact.runtime.host import HostModel

    model = HostModel(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"cpu": model.metadata["cpu"]["name"]}), flush=True)
    for line in sys.stdin:
        result = repetition(model, **json.loads(line))
        print(json.dumps({key: result[key] for key in ("prefill_s", "decode_s")}), flush=True)


if __name__ == "__main__":
    main()
