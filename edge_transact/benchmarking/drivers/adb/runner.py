"""Runs visits on a phone with the C++ runner: pushes it and the models, and starts it through adb's shell."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_transact.artifacts.dist_files import SHARDS, TENSOR_CACHE
from edge_transact.benchmarking.drivers.adb.client import STDERR, quote
from edge_transact.benchmarking.drivers.adb.devices import WORK_DIRECTORY
from edge_transact.benchmarking.drivers.adb.phone import GRACE_S, PhoneDriver
from edge_transact.benchmarking.drivers.adb.push import sync_files
from edge_transact.benchmarking.drivers.base import CommandTimeout, DeviceRefused, RunFailed
from edge_transact.benchmarking.drivers.host import parse_cores
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.portable import LOADER, RUNNER
from edge_transact.benchmarking.records.lines import ErrorLine, FinalLine, Line, RepetitionLine, parse_line
from edge_transact.benchmarking.records.llama_bench import lines_of
from edge_transact.benchmarking.records.plan import Visit
from edge_transact.compiler.targets import system_lib_prefix
from edge_transact.errors import EdgeTransactError
from edge_transact.progress import bar

logger = logging.getLogger(__name__)

LLAMA_BENCH, GGUF = "llama-bench", "model.gguf"

# A prompt, then an answer after a context as long.
_LLAMA_BENCH = f"""
bin=$1 file=$3 prompt=$4 answer=$5
ln -sf "$2" "$3"
shift 5
export LD_LIBRARY_PATH="$bin"
echo 1000 > /proc/$$/oom_score_adj
"$bin/{LLAMA_BENCH}" -m "$file" -p "$prompt" -n 0 "$@" &&
"$bin/{LLAMA_BENCH}" -m "$file" -p 0 -n "$answer" -d "$prompt" "$@"
"""

TVM_DEVICE = {"android": "opencl", "android-cpu": "cpu"}


@dataclass
class RunnerDriver(PhoneDriver):
    """Implements `Driver` with the runner, NDK's or portable, in a directory.

    Attributes:
        clean: Removes models at the end.
        otherwise: Makes the runner that measures CPUs where `runner` fails before it has measured anything.
    """

    runner: Path
    clean: bool = False
    otherwise: Callable[[], Path] | None = None

    def __post_init__(self) -> None:
        self._runners = dict.fromkeys(TVM_DEVICE, self.runner)
        self._run: str | None = None
        self._threads: int | None = None
        self._peer_bin = f"{WORK_DIRECTORY}/llama.cpp"
        self._seen: set[str] = set()
        self._runs = f"{WORK_DIRECTORY}/runs"

    def prepare(self, models: Sequence[BenchModel], stop: threading.Event) -> bool:
        self.check(models)
        self._end_run()
        self.device.checked("mkdir", "-p", self._runs)
        targets = {model.target_on(self.target) for model in models} & {*TVM_DEVICE}
        pushed = [name for each in {self._runners[target] for target in targets} for name in self._put(each, stop)]
        # Candidates of one target have the same files.
        for model in {(model.path, model.target_on(self.target)): model for model in models}.values():
            if model.peer:
                program = {LLAMA_BENCH: model.peer.program}
                beside = {path.name: path for path in sorted(model.peer.program.parent.glob("*.so"))}
                pushed += self._push(self._peer_bin, {**program, **beside}, stop, mode=0o755)
                pushed += self._push(self._directory(model), {GGUF: model.peer.gguf}, stop)
                continue
            model.manifest.verify(model.path, TENSOR_CACHE, SHARDS)
            weights = [model.path / TENSOR_CACHE, *sorted(model.path.glob(SHARDS))]
            files = {path.name: path for path in weights} | {
                self._library(model): model.library(model.target_on(self.target))
            }
            pushed += self._push(self._directory(model), files, stop)
        self.settle()
        return bool(pushed)

    def lines(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[Line, None, None]:
        if model.peer:
            yield from self._in_llama_cpp(model, visit, stop)
            return
        try:
            yield from self._in_runner(model, visit, stop)
        except RunFailed as failure:
            if model.target_on(self.target) != "android-cpu" or not self._takes_the_other(failure, stop):
                raise
            yield from self._in_runner(model, visit, stop)

    def _takes_the_other(self, failure: RunFailed, stop: threading.Event) -> bool:
        """Whether another runner is there for CPUs now, because the one from the NDK has measured nothing yet."""
        make, self.otherwise = self.otherwise, None
        if make is None:
            return False
        try:
            portable = make()
        except EdgeTransactError as error:
            logger.info(f"{self.label}: no portable runner takes the NDK's place: {error.message}")
            return False
        logger.warning(f"{failure.message}: instead of the NDK's runner, the portable one measures the CPU")
        self._put(portable, stop)
        self._runners["android-cpu"] = portable
        return True

    def _put(self, runner: Path, stop: threading.Event) -> list[str]:
        libraries = {path.name: path for path in sorted(runner.glob("*.so*"))}
        return self._push(directory_of(runner), {RUNNER: runner / RUNNER, **libraries}, stop, mode=0o755)

    def _in_runner(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[Line, None, None]:
        run = f"run-{uuid.uuid4().hex}"
        self._run, self._seen = run, set()
        self.runner_kind = kind_of(self._runners[model.target_on(self.target)])
        command = self._command(model, visit, run)
        deadline = time.monotonic() + self.conditions.limit_s + GRACE_S
        noise: deque[str] = deque(maxlen=5)
        last: Line | None = None
        try:
            with self.device.open(f"exec {quote(command)}") as stream:
                for kind, text in stream.lines(deadline, stop):
                    line = None if kind == STDERR else parse_line(text, run)
                    if line is None:
                        noise.append(text.strip()[:200])
                    else:
                        last = line
                        self._threads = getattr(line, "threads", None) or self._threads
                        self._seen.add(text)
                        if self.otherwise and isinstance(line, RepetitionLine):
                            logger.info(f"{self.label}: the NDK's runner measures here")
                            self.otherwise = None
                        yield line
                code = stream.code
        except (GeneratorExit, CommandTimeout):
            self._end_run()
            raise
        if stop.is_set():
            self._end_run()
        elif not isinstance(last, FinalLine):
            raise RunFailed(f"{self.label}, {model.name} {visit.lengths}: {_why(code, last, noise)}")
        else:
            self._forget_run()

    def _in_llama_cpp(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Iterator[Line]:
        """The lines of a visit by ``llama-bench``, once it has ended."""
        self._run = run = f"run-{uuid.uuid4().hex}"
        cores = parse_cores(self.conditions.cores)
        # Without --threads, as many as our runner has chosen.
        threads = self.conditions.threads or len(cores) or self._threads
        options = ["-o", "jsonl", "-r", str(visit.repetitions), *["--no-warmup"] * (not self.conditions.warmups)]
        options += ["-t", str(threads)] if threads else []
        options += ["-C", hex(sum(1 << core for core in cores))] if cores else []
        rows: list[str] = []
        noise: deque[str] = deque(maxlen=5)
        # Its name is in the command line, by which it is ended.
        files = self._peer_bin, f"{self._directory(model)}/{GGUF}", f"{self._runs}/{run}.gguf"
        lengths = str(visit.lengths.prefill_tokens), str(visit.lengths.decode_tokens)
        deadline = time.monotonic() + self.conditions.limit_s + GRACE_S
        try:
            with self.device.open(_LLAMA_BENCH, *files, *lengths, *options) as stream:
                for kind, text in stream.lines(deadline, stop):
                    noise.append(text.strip()[:200])
                    if kind != STDERR and text.startswith("{"):
                        rows.append(text)
        except CommandTimeout:
            self._end_run()
            raise
        if stop.is_set():
            self._end_run()
            return
        self._forget_run()
        try:
            lines = lines_of(rows, run)
        except (ValueError, EdgeTransactError) as error:
            raise RunFailed(f"{self.label}, {model.name} {visit.lengths}: {_why(stream.code, None, noise)}") from error
        yield from lines

    def recover(self) -> list[Line]:
        run = self._run
        if run is None:
            return []
        self._kill(run)
        try:
            text = self.device.pull(f"{self._runs}/{run}.jsonl").decode(errors="replace")
        except DeviceRefused:
            text = ""
        seen = self._seen
        self._forget_run()
        lines = [parse_line(line, run) for line in text.splitlines() if line not in seen]
        return [line for line in lines if line is not None]

    def close(self) -> None:
        self._end_run()
        self.restore()
        if self.clean:
            self.device.script(f"rm -rf {quote([WORK_DIRECTORY])}", timeout_s=120)
        else:
            self.device.script(f"rm -rf {quote([self._runs])}")

    def _command(self, model: BenchModel, visit: Visit, run: str) -> list[str]:
        """The runner's command line. The token ids that it needs are pushed as files."""
        prompt = f"{self._runs}/{run}.prompt"
        self.device.push(_id_lines(model.prompt(visit.lengths.prefill_tokens)), prompt)
        directory = self._directory(model)
        # Compiled OpenCL programs are kept for this library and this build of Android.
        system = hashlib.sha256((self.info.fingerprint or "").encode()).hexdigest()
        target = model.target_on(self.target)
        options: dict[str, str | int] = {
            "--model": directory,
            "--library": f"{directory}/{self._library(model)}",
            "--device": TVM_DEVICE[target],
            "--prompt": prompt,
            "--decode": visit.lengths.decode_tokens,
            "--repetitions": visit.repetitions,
            "--warmups": self.conditions.warmups,
            "--timeout": round(self.conditions.limit_s),
            "--run": run,
            "--output": f"{self._runs}/{run}.jsonl",
            "--programs": f"{directory}/{self._library(model)}.{system[:16]}.programs",
        }
        if model.manifest.libraries[target].endswith(".tar"):
            options["--system-lib-prefix"] = system_lib_prefix(model.library_name(target))
        if self.conditions.threads:
            options["--threads"] = self.conditions.threads
        if cores := model.cores or self.conditions.cores:
            options["--cores"] = cores
        parity = model.manifest.answer()
        if parity is not None:
            record = f"{self._runs}/{run}.check"
            self.device.push(_id_lines(*parity), record)
            options["--check"] = record
        words = [str(word) for pair in options.items() for word in pair]
        words += ["--ignore-memory"] if self.conditions.ignore_memory else []
        runner = self._runners[target]
        return [*start_of(directory_of(runner), kind_of(runner) == "portable"), *words, "--watch-stdin"]

    def _directory(self, model: BenchModel) -> str:
        """The directory of a DIST on the phone. No character of the DIST's name reaches the phone."""
        return f"{WORK_DIRECTORY}/models/{hashlib.sha256(str(model.path.resolve()).encode()).hexdigest()[:16]}"

    def _library(self, model: BenchModel) -> str:
        """File name of the library. It names the content, so that another build's library is another file."""
        target = model.target_on(self.target)
        digest = model.manifest.files[model.manifest.libraries[target]]
        return f"{target}-{digest[:16]}.so"

    def _push(self, directory: str, files: dict[str, Path], stop: threading.Event, *, mode: int = 0o644) -> list[str]:
        total = sum(path.stat().st_size for path in files.values())
        with bar(f"{self.label}: files to {directory}", total) as advance:

            def on_bytes(count: int) -> None:
                if stop.is_set():
                    raise RunFailed(f"{self.label}: a push was interrupted")
                advance(count)

            return sync_files(self.device, directory, files, mode=mode, on_bytes=on_bytes)

    def _end_run(self) -> None:
        if self._run is not None:
            self._kill(self._run)
            self._forget_run()

    def _kill(self, run: str) -> None:
        """Kill a run by its name, which is unique. The brackets keep pkill's own shell from matching."""
        self.device.shell("pkill", "-9", "-f", f"{run[:-1]}[{run[-1]}]")

    def _forget_run(self) -> None:
        run, self._run = self._run, None
        self._seen = set()
        self.device.script(f"rm -f {quote([self._runs])}/{run}.*")


def kind_of(runner: Path) -> str:
    return "portable" if (runner / LOADER).is_file() else "ndk"


def directory_of(runner: Path) -> str:
    """Where a runner is put on phones."""
    return f"{WORK_DIRECTORY}/{'portable' if kind_of(runner) == 'portable' else 'bin'}"


def start_of(directory: str, portable: bool) -> list[str]:
    """The first words of a command that starts the runner in a directory of the phone."""
    if not portable:
        return ["env", f"LD_LIBRARY_PATH={directory}", f"{directory}/{RUNNER}"]
    return [f"{directory}/{LOADER}", "--inhibit-cache", "--library-path", directory, f"{directory}/{RUNNER}"]


def _id_lines(*rows: Sequence[int]) -> bytes:
    """Token ids in the format that the runner reads: one line for each row."""
    return "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()


def _why(code: int | None, last: Line | None, noise: Sequence[str]) -> str:
    if isinstance(last, ErrorLine):
        return last.message
    words = f": {' | '.join(noise)}" if noise else ""
    if code == 137:
        return f"the runner was killed, as a phone does when memory runs out{words}"
    if code is not None and code > 128:
        return f"the runner died of signal {code - 128}{words}"
    return f"the runner ended with code {code} and without its final line{words}"
