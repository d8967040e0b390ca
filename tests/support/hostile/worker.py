"""Runs cases, each in a fork of a process that has imported everything, and prints a line of JSON for each.

``python -m tests.support.hostile.worker BASE NUMBER ...``. A fork has its own memory limit, working directory and
cache, so that a case can end by a signal, hang or fill memory, and all that it leaves behind is found.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import re
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.hostile.case import Case, lay_out

SECONDS = 30
MOST_BYTES = 2 << 30
MOST_WORDS = 4000
NO_MEMORY = re.compile("MemoryError|bad_alloc|[Cc]annot allocate|[Uu]nable to allocate|can't allocate memory")


@dataclass(frozen=True)
class Outcome:
    """What a case did. `wrong` is empty if that is right."""

    number: int
    wrong: str
    code: int
    seconds: float
    mib: float
    stderr: str


def _import_everything() -> None:
    import edge_transact

    for module in pkgutil.walk_packages(edge_transact.__path__, "edge_transact."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                importlib.import_module(module.name)
    for name in ("adbutils", "gguf", "jinja2.sandbox", "rich.table", "rich.console", "scipy.stats", "tokenizers"):
        importlib.import_module(name)
    from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401


def _warm_up(base: Path) -> None:
    """Calls each command once, which imports and builds what it first needs then."""
    from tests.support.command import run
    from tests.support.hostile.of_calls import ALL, CALLS

    where = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.environ["EDGE_TRANSACT_CACHE"] = place
        lay_out(base, ALL, Path(place))
        os.chdir(place)
        for name, call in CALLS.items():
            if name not in ("install", "init"):
                run(*call)
        os.chdir(where)


def _nothing(peer: socket.socket) -> None:
    time.sleep(120)


def _repeat(content: bytes, times: int) -> Callable[[socket.socket], None]:
    def answer(peer: socket.socket) -> None:
        peer.recv(4096)
        for _ in range(times):
            peer.sendall(content)

    return answer


ANSWERS: dict[str, Callable[[socket.socket], None]] = {
    "silence": _nothing,
    "an end": lambda peer: None,
    "rubbish": _repeat(bytes(range(256)), 4),
    "OKAY and an end": _repeat(b"OKAY", 1),
    "OKAY and a false length": _repeat(b"OKAYzzzzlist", 1),
    "OKAY and a cut list": _repeat(b"OKAY0100phone\tdevice", 1),
    "FAIL without words": _repeat(b"FAIL", 1),
    "FAIL with bytes": _repeat(b"FAIL0004\xff\xfe\x00\x1b", 1),
    "a list without tabs": _repeat(b"OKAY0006phone\n", 1),
    "a list of nothing": _repeat(b"OKAY0000", 1),
    "a list of odd states": _repeat(b"OKAY0012$(id)\tunauthorized\n", 1),
    "a version in words": _repeat(b"OKAY0004word", 1),
    "text without end": _repeat(b"x" * 65536, 20_000),
    "lists without end": _repeat(b"OKAYffff" + b"phone\tdevice\n" * 5042, 20_000),
    "a phone that says OKAY only": _repeat(b"OKAY000dphone\tdevice\n" + b"OKAY" * 8, 1),
}


def _serve(answer: str) -> tuple[int, int]:
    """A false adb server in a process of its own: its id and its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    if child := os.fork():
        port = listening.getsockname()[1]
        listening.close()
        return child, port
    while True:
        peer, _ = listening.accept()
        if not os.fork():
            with suppress(OSError):
                ANSWERS[answer](peer)
            os._exit(0)
        peer.close()


def _snapshot(work: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for root, directories, files in os.walk(work):
        for name in (*directories, *files):
            path = os.path.join(root, name)
            state = os.lstat(path)
            is_directory = name in directories and not os.path.islink(path)
            found[os.path.relpath(path, work)] = (
                (state.st_mode,) if is_directory else (state.st_mode, state.st_size, state.st_mtime_ns)
            )
    return found


def _child(case: Case, place: Path, port: int) -> None:
    """The fork: runs the command as the console script does, and ends."""
    os.setpgid(0, 0)
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        opened = os.open(place / name, flags | (os.O_CREAT if number else 0))
        os.dup2(opened, number)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_BYTES + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ |= {"TMPDIR": str(place / "tmp"), "EDGE_TRANSACT_CACHE": str(place / "cache")}
    os.environ |= {"HF_HUB_OFFLINE": "1", "ANDROID_ADB_SERVER_PORT": str(port)}
    tempfile.tempdir = None
    os.chdir(place / "work")
    code = 70
    try:
        from edge_transact.cli import main

        sys.argv = ["edge-transact", *case.command]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code)


def run_case(number: int, case: Case, base: Path, base_rss: float, without_phones: int) -> Outcome:
    """Runs a case in a directory of its own; `without_phones` is the port of an adb server that has none."""
    place = Path(tempfile.mkdtemp(prefix="hostile-"))
    for name in ("work", "tmp", "cache"):
        (place / name).mkdir()
    server, port = _serve(case.answers) if case.answers else (None, without_phones)
    try:
        lay_out(base, case.needs, place / "work")
        case.harm(place / "work")
        before = _snapshot(place / "work")
        began = time.monotonic()
        child = os.fork()
        if not child:
            _child(case, place, port)
        status, usage, hung = _wait(child)
        seconds = time.monotonic() - began
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        said = (place / "stderr").read_bytes().decode(errors="replace") if (place / "stderr").exists() else ""
        mib = usage.ru_maxrss / 1024 - base_rss
        after = _snapshot(place / "work")
        wrong = _wrong(case, status, hung, mib, said, before, after, sorted(os.listdir(place / "tmp")))
        code = os.waitstatus_to_exitcode(status)
        return Outcome(number, wrong, code, round(seconds, 3), round(mib, 1), said[-1500:])
    finally:
        if server:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
        shutil.rmtree(place, ignore_errors=True)


def _wait(child: int) -> tuple[int, resource.struct_rusage, bool]:
    ended = select.poll()
    handle = os.pidfd_open(child)
    ended.register(handle, select.POLLIN)
    hung = not ended.poll(SECONDS * 1000)
    if hung:
        os.kill(child, signal.SIGABRT)  # faulthandler says where it is
        ended.poll(2000)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    os.close(handle)
    return status, usage, hung


def _wrong(
    case: Case,
    status: int,
    hung: bool,
    mib: float,
    said: str,
    before: dict[str, tuple[int, ...]],
    after: dict[str, tuple[int, ...]],
    scratch: list[str],
) -> str:
    code = os.waitstatus_to_exitcode(status)
    lost = [name for name, state in before.items() if after.get(name) != state and name not in case.replaces]
    new = [name for name in after if name not in before]
    hidden = [name for name in new if ".edge-transact" in name]
    strays = hidden if code == 0 else [name for name in new if not name.startswith(case.replaces or ("\0",))]
    if hung:
        return "hangs"
    if code < 0:
        return f"ends by {signal.Signals(-code).name}"
    # Chat templates have a process of their own, and much less memory.
    if mib > MOST_BYTES / (1 << 20) or NO_MEMORY.search(said.replace("template fails: MemoryError", "")):
        return "fills memory"
    if "looks like a bug" in said:
        return "says that it looks like a bug"
    if "Traceback" in said or "Exception ignored" in said:
        return "prints a traceback"
    if lost:
        return f"changes {lost[0]}"
    if strays or scratch:
        return f"leaves {(strays or scratch)[0]}"
    if code not in (0, 1, 2):
        return f"ends with {code}"
    if code == 0:
        return "" if case.may_work or not case.says else "works"
    if not case.says:
        return "refuses what is right"
    if len(said) > MOST_WORDS:
        return f"says {len(said)} characters"
    return "" if re.search(case.says, said) else "says something else"


def main() -> None:
    """Runs the cases with these numbers."""
    from tests.support.hostile.table import make_table

    faulthandler.enable()
    base, numbers = Path(sys.argv[1]), list(map(int, sys.argv[2:]))
    cases = make_table(base)
    _import_everything()
    _warm_up(base)
    gc.freeze()
    child = os.fork()
    if not child:
        os._exit(0)
    base_rss = os.wait4(child, 0)[2].ru_maxrss / 1024
    server, port = _serve("a list of nothing")  # where nothing listens, adb would start a server of its own
    try:
        for number in numbers:
            print(json.dumps(asdict(run_case(number, cases[number], base, base_rss, port))), flush=True)
    finally:
        os.kill(server, signal.SIGKILL)


if __name__ == "__main__":
    main()
