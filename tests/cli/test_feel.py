"""The command line as people meet it: quick to start, names guessed, words for every failure, 80 columns."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import resource
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edge_transact import cache, progress
from edge_transact.cache.resume import RESUME_HINT, resume_hint
from edge_transact.cli import COMMANDS, app, common, load_command, logs
from edge_transact.cli.command import pasteable
from edge_transact.errors import EdgeTransactError, did_you_mean
from tests.support.examples import EXAMPLES
from tests.support.patience import HANG_S

HEAVY = ("torch", "transformers", "tvm", "numpy", "huggingface_hub", "jinja2", "safetensors")


def edge_transact(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "edge_transact", *arguments], capture_output=True, text=True, timeout=HANG_S, **options
    )


def cpu_seconds(*command: str) -> float:
    """The CPU time that the command takes, the least of several runs: other work on the machine adds to wall time."""
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def test_help_lists_the_first_sentence_of_each_command():
    assert {name: load_command(name).help.partition("\n\n")[0] for name in COMMANDS} == COMMANDS


def test_help_costs_less_than_three_times_the_help_of_an_empty_program():
    """typer and rich take most of it. Importing torch alone would make it ten times as much."""
    empty = "import typer\napp = typer.Typer()\napp.command()(lambda: None)\napp(['--help'])"
    assert cpu_seconds("-m", "edge_transact", "--help") < 3 * cpu_seconds("-c", empty)


ONE_AFTER_ANOTHER = """
import contextlib, io, json, os, sys
sys.argv[0] = "edge-transact"
from edge_transact.cli import app
for arguments, environment in json.loads(sys.stdin.read()):
    os.environ.update(environment)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            app(arguments, prog_name="edge-transact")
        except SystemExit as ended:
            assert not ended.code
    print(json.dumps([out.getvalue(), list(sys.modules)]))
"""


def one_after_another(*calls: tuple[list[str], dict[str, str]]) -> list[tuple[str, list[str]]]:
    """What calls with these arguments and variables print, in one process, and all modules that it then has."""
    command, environment = [sys.executable, "-c", ONE_AFTER_ANOTHER], {**os.environ, "COLUMNS": "80"}
    options = {"capture_output": True, "text": True, "timeout": 120, "check": True, "env": environment}
    done = subprocess.run(command, input=json.dumps(calls), **options)
    assert not done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[str, list[str]]]:
    """The help of every command, the program's own first."""
    names = ["", *COMMANDS]
    return dict(zip(names, one_after_another(*(([*name.split(), "--help"], {}) for name in names)), strict=True))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy_and_fits_80_columns_with_examples(command, helps):
    out, modules = helps[command]
    assert not {*HEAVY, *(() if command else ("pydantic",))} & set(modules)
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "…" not in out, "the name of an option is cut off"
    assert "<bool>" not in out, "a flag has no value"
    assert all(flag in out for flag in ("--debug", "--quiet", "--verbose", "--no-cache"))
    assert not re.search(r"\\ +$", out, re.MULTILINE), "a shell would read a space, not the next line"
    if command:
        assert out.index(f"\n edge-transact {command}") < out.index("Usage:")
        assert "--json" in out


COMPLETIONS = [
    ("bui", {"build"}),
    ("doc", {"doctor"}),
    ("ca", {"cache"}),
    ("build --ta", {"--target", "--target-params"}),
    ("build --device-profile adreno-7", {"adreno-7xx", "adreno-750"}),
    ("build --target host,andr", {"host,android", "host,android-cpu", "host,android-x86_64"}),
    ("prune --method fl", {"flap"}),
    ("build --rounding gp", {"gptq"}),
    ("prune --quant q4f3", {"q4f32_1"}),
    ("inspect --quant q0f1", {"q0f16"}),
    ("bench --target android-", {"android-cpu"}),
    ("cache --kind unf", {"unfinished"}),
    ("doctor --for android", {"android", "android-cpu", "android-x86_64"}),
]


def test_completion_offers_commands_options_and_their_values():
    def variables(typed: str) -> dict[str, str]:
        words = f"edge-transact {typed}"
        return {
            "_EDGE_TRANSACT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1),
        }  # fmt: skip

    typed = [typed for typed, _ in COMPLETIONS]
    printed = one_after_another(*(([], variables(each)) for each in typed))
    assert list(zip(typed, (set(out.split()) for out, _ in printed), strict=True)) == COMPLETIONS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bild",), "build"),
        (("build", "demo:tiny", "--taget", "host"), "Did you mean --target,"),
        (("prune", "demo:tiny", "--methd", "obs"), "Did you mean --method"),
        (("build", "demo:tiny", "--target", "hots"), "Did you mean 'host'?"),
        (("build", "demo:tiny", "--target", "host", "--quant", "q4f32"), "Did you mean 'q4f32_1'?"),
        (("build", "demo:tiny", "--context", "0"), "--context"),
        (("build", "demo:tiny", "--target", "host", "--ratio", "nan"), "--ratio nan"),
        (("doctor", "--for", "demos"), "Did you mean 'demo'?"),
        (("prune", "demo:tiny", "-o", "x", "--ratio", "0.3", "--method", "transakt"), "Did you mean 'transact'?"),
    ],
)
def test_wrong_usage_is_2_and_offers_what_was_meant(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["demo:smolm2", "demo:tinny", "smollm2"])
def test_demo_names_are_guessed(name):
    result = CliRunner().invoke(app, ["inspect", name])
    assert result.exit_code == 1
    assert "Did you mean demo:" in result.stderr


def test_a_context_above_the_models_is_refused_before_any_work(tmp_path):
    result = CliRunner().invoke(app, ["build", "demo:tiny", "--context", "4096", "-o", str(tmp_path / "dist")])
    assert result.exit_code == 2
    assert "a context of 4096 tokens is more than the model's 128" in result.stderr


@pytest.mark.parametrize(
    ("words", "message", "fix"),
    [
        ("run demo:tiny --prompt hi", "demo:tiny is a model, not a DIST", "build demo:tiny --target host -o dist"),
        ("bundle org/name -o app", "org/name is a model, not a DIST", "build org/name --target android -o dist"),
        ("heal demo:tiny -o h", "demo:tiny is not a pruned model", "prune demo:tiny --ratio 0.2 -o pruned"),
        ("prune demo:tiny --ratio 30 -o p", "30 is not between 0 and 1", "write 0.3 or 30%"),
    ],
)
def test_a_value_of_another_kind_is_named_with_the_next_command(words, message, fix):
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code in (1, 2) and message in result.stderr and fix in result.stderr


def test_help_is_a_command_too():
    runner = CliRunner()
    assert runner.invoke(app, ["help"]).stdout == runner.invoke(app, ["--help"]).stdout
    assert "Write a model as a GGUF file" in runner.invoke(app, ["help", "export"]).stdout


def test_suggestions_are_close_or_not_made():
    assert did_you_mean("hots", ["host", "android"]).startswith("Did you mean 'host'?")
    assert did_you_mean("windows", ["host", "android"]) == "There are: host, android."


@pytest.mark.parametrize("where", [where for where in EXAMPLES if where.endswith("--help")])
def test_examples_of_the_help_mean_the_same_when_they_are_pasted(where):
    for line in EXAMPLES[where]:
        shown = pasteable(line, 80)
        assert max(map(len, shown.splitlines())) <= 80
        assert shlex.split(shown.replace("\\\n", "")) == shlex.split(line)


def test_models_are_compared_side_by_side_also_at_40_columns():
    shown = on_a_terminal("inspect", "demo:tiny", "demo:tiny", columns=40, term="xterm")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert max(map(len, shown.splitlines())) <= 40
    assert shown.count("852,608") == 2 and "(+0%)" in shown


def test_global_flags_stand_anywhere_but_after_a_double_dash(tmp_path):
    missing = str(tmp_path / "missing")
    assert "Traceback" not in edge_transact("inspect", missing).stderr
    assert "Traceback" in edge_transact("inspect", missing, "--debug").stderr
    assert "Traceback" in edge_transact("--debug", "inspect", missing).stderr
    assert "--debug does not exist" in edge_transact("inspect", "--", "--debug").stderr


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch):
    """What the progress of a run says on stderr, by its flags."""

    @common.guarded
    def talk() -> None:
        logger = logging.getLogger("edge_transact.somewhere")
        logger.info("a step")
        logger.debug("a detail")
        logger.warning("a warning")
        with progress.bar("a bar", 2) as advance:
            advance(1)

    def run(*flags: str) -> str:
        monkeypatch.setattr(cache, "enabled", True)
        talking = typer.Typer()
        talking.callback()(app.registered_callback.callback)
        talking.command("talk")(talk)
        return CliRunner().invoke(talking, [*flags, "talk"]).stderr

    return run


def test_quiet_leaves_warnings_and_verbose_adds_details(said):
    assert said().splitlines() == ["a step", "warning: a warning", "a bar"]
    assert said("--quiet").splitlines() == ["warning: a warning"]
    assert said("--verbose").splitlines() == ["a step", "a detail", "warning: a warning", "a bar"]


def test_bars_of_other_libraries_stay_out_of_logs():
    program = (
        "from edge_transact.cli.common import guarded\n"
        "guarded(lambda: list(__import__('tqdm').tqdm(range(3))) and None)()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("surfaces_as", [KeyboardInterrupt, RuntimeError, ImportError, EdgeTransactError])
def test_interrupts_end_alike_whatever_they_surface_as(capsys, number, surfaces_as):
    """TVM makes a RuntimeError of a KeyboardInterrupt, an extension's import an ImportError, programs fail."""
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    @common.guarded
    def interrupted() -> None:
        with resume_hint():
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            except KeyboardInterrupt:
                raise surfaces_as("stopped") from None

    with pytest.raises(SystemExit) as ended:
        interrupted()
    assert ended.value.code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert capsys.readouterr().err.splitlines() == ["edge-transact: interrupted", f"  {RESUME_HINT}"]
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("package", "fix"),
    [("no_such_package", "edge-transact doctor"), ("adbutils", "pip install 'edge-transact[bench]'")],
)
def test_a_package_that_is_missing_is_no_bug(capsys, package, fix):
    @common.guarded
    def lacking() -> None:
        raise ModuleNotFoundError(name=f"{package}.part")

    with pytest.raises(SystemExit) as ended:
        lacking()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"{package} is not installed" in said and fix in said


def test_a_bug_is_said_in_a_line_and_its_traceback_is_for_debug(monkeypatch, capsys):
    @common.guarded
    def broken() -> None:
        raise ZeroDivisionError("by zero")

    for debugging in (False, True):
        monkeypatch.setattr(logs, "show_tracebacks", debugging)
        with pytest.raises(SystemExit) as ended:
            broken()
        assert ended.value.code == 1
        assert ("Traceback" in capsys.readouterr().err) is debugging


def on_a_terminal(*arguments: str, columns: int = 80, term: str = "dumb") -> str:
    """What a terminal of that width is sent."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": term}
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_transact", *arguments], stdout=slave, stderr=slave, stdin=slave, env=environment
    )
    os.close(slave)
    chunks = []
    while select.select([master], [], [], HANG_S)[0]:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    else:
        process.kill()
    os.close(master)
    assert process.wait(timeout=HANG_S) >= 0, f"{arguments} hangs"
    return b"".join(chunks).decode().replace("\r\n", "\n")


def test_failures_are_wrapped_at_words_on_a_terminal_and_one_line_elsewhere(tmp_path):
    (tmp_path / "edge-transact.toml").write_text('model = "m"\n[prune]\nration = 1\n')
    command = ["build"]
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        lines = on_a_terminal(*command, columns=60).splitlines()
        elsewhere = edge_transact(*command).stderr.splitlines()
    finally:
        os.chdir(here)
    assert max(map(len, lines)) <= 60 and len(lines) > 2
    assert len(elsewhere) == 2 and "calibration_tokens" in elsewhere[1]


def test_json_is_the_last_line_of_stdout_and_the_only_one(tmp_path):
    done = edge_transact("inspect", "demo:tiny", "--json")
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout)["parameters"] == 852608
