"""Every example in the documentation and in the help is a command that exists; the tutorial's are run, in order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edge_transact.cli import app
from edge_transact.inputs import resolve_model
from tests import hub as small_hub

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
GROUP = typer.main.get_command(app)
GLOBAL_FLAGS = {"--debug", "--quiet", "--verbose", "--no-cache", "--version", "--help", "--install-completion"}


def commands_in(line: str) -> Iterator[list[str]]:
    """The ``edge-transact`` calls of a shell line, as argument lists without the program's name."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    call: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("|&;<>"):
            call.append(word)
            continue
        if call[:1] == ["edge-transact"]:
            yield call[1:]
        call = []


def examples_in(text: str) -> list[list[str]]:
    """Lines of their own, and what stands in backticks with more than a command's name."""
    lines = re.findall(r"^(?:\$ )?(edge-transact .*)$", text, re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`([^`]*\bedge-transact [^`]+)`", re.sub(r"\n *", " ", prose))
    return [words for line in lines for words in commands_in(line)]


DOCUMENTED = [(page.name, words) for page in PAGES for words in examples_in(page.read_text())]
HELPED = [(name, words) for name, command in GROUP.commands.items() for words in examples_in(command.help or "")]


@pytest.mark.parametrize(("where", "words"), DOCUMENTED + HELPED, ids=lambda value: str(value)[:60])
def test_an_example_is_a_command_with_these_options(where, words):
    arguments = [word for word in words if word not in GLOBAL_FLAGS]
    if "COMMAND" in arguments or not arguments:
        return
    assert arguments[0] in GROUP.commands, where
    command = GROUP.commands[arguments[0]]
    if len(arguments) > 1:
        try:
            command.make_context(arguments[0], arguments[1:], parent=GROUP.make_context("edge-transact", arguments))
        except Exception as error:
            # In a sentence, what a command always takes may go unsaid.
            assert type(error).__name__ == "MissingParameter", error


def test_every_command_is_documented_with_an_example():
    documented = {words[0] for page, words in DOCUMENTED if words and page != "CHANGELOG.md"}
    assert set(GROUP.commands) <= documented
    assert set(GROUP.commands) <= {words[0] for _, words in HELPED}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.slow
def test_the_tutorial_works_in_order_and_then_helps_examples(tmp_path, monkeypatch):
    """On a hub on loopback, where the tutorial's model is a smaller one."""
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    files = {path.name: path.read_bytes() for path in resolve_model("demo:tiny").iterdir()}
    with small_hub.serve() as hub:
        hub.add("HuggingFaceTB/SmolLM2-135M-Instruct", files)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "EDGE_TRANSACT_CACHE": str(tmp_path / "cache"),
        }
        directory = tmp_path / "work"
        directory.mkdir()
        for line in re.findall(r"^\$ (.*)$", tutorial, re.MULTILINE):
            if "--device all" in line:
                continue  # that one needs a phone: tests/bench has a stand-in
            for words in commands_in(line):
                done = subprocess.run(
                    [sys.executable, "-m", "edge_transact", *words],
                    cwd=directory,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=600,
                )
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
                assert done.stdout.strip(), line
    assert {path.name for path in directory.iterdir()} == {"edge-transact.toml", "dist", "dist-android"}
    assert list((directory / "dist-android" / "lib").glob("*-android.tar"))
    run_examples(directory, monkeypatch)


def run_examples(directory, monkeypatch):
    """Those of the help that take no build; a project of their own, with the tutorial's DIST and a checkpoint."""
    project = directory / "project"
    project.mkdir()
    (project / "dist").symlink_to(directory / "dist")
    (project / "pruned").symlink_to(resolve_model("demo:tiny"))
    monkeypatch.chdir(project)
    for name, words in HELPED:
        if name == words[0] and name in ("init", "inspect", "run", "cache"):
            arguments = [word.replace("demo:smollm2", "demo:tiny") for word in words]
            if "--clear" in arguments:
                monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(directory / "empty"))
            result = CliRunner().invoke(app, arguments, input="Once upon a time")
            assert result.exit_code == 0 and result.stdout.strip(), (arguments, result.stderr)
    assert (project / "flops.png").stat().st_size


def test_tests_that_a_page_names_exist():
    known = {"test_time"}  # a field of a bench's results
    for path in (ROOT / "tests").rglob("test_*.py"):
        known |= set(re.findall(r"def (test_\w+)", path.read_text()))
    for page in PAGES:
        assert set(re.findall(r"`(test_\w+)`", page.read_text())) <= known, page.name
