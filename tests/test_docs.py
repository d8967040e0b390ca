"""Every example in the documentation and in the help is a command that exists, and what pages point to is there."""

import re
import tomllib
from xml.etree import ElementTree

import pytest

from edge_transact.compiler.targets import TARGETS
from edge_transact.project import Project
from edge_transact.quantization import QUANTIZATIONS
from tests.support.examples import GROUP, GUIDES, LAB, PAGES, ROOT, calls_in, joined

GLOBAL_FLAGS = {"--debug", "--quiet", "--verbose", "--no-cache", "--version", "--help", "--install-completion"}


def examples_in(text: str) -> list[list[str]]:
    """Lines of their own, and what stands in backticks with more than a command's name."""
    text = joined(text)
    lines = re.findall(r"^(?:\$ )?(edge-transact .*)$", text, re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [span for _, span in re.findall(r"(`+)([^`]+)\1", re.sub(r"\n *", " ", prose))]
    lines += [span for span in spans if re.search(r"\bedge-transact \S", span)]
    calls = [words for line in lines for words in calls_in(line)]
    return [words for words in calls if "COMMAND" not in words and not set(words) <= GLOBAL_FLAGS]


DOCUMENTED = [(page.name, words) for page in PAGES for words in examples_in(page.read_text())]
HELPED = [(name, words) for name, command in GROUP.commands.items() for words in examples_in(command.help or "")]


@pytest.mark.parametrize(("where", "words"), DOCUMENTED + HELPED, ids=lambda value: str(value)[:60])
def test_an_example_is_a_command_with_these_options(where, words):
    arguments = [word for word in words if word not in GLOBAL_FLAGS]
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


def test_projects_on_pages_are_valid():
    blocks = [block for page in PAGES for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S)]
    assert blocks
    for block in blocks:
        Project.model_validate(tomllib.loads(block))


def test_tests_that_a_page_names_exist():
    known = {"test_time"}  # a field of a bench's results
    for path in (ROOT / "tests").rglob("test_*.py"):
        known |= set(re.findall(r"def (test_\w+)", path.read_text()))
    for page in PAGES:
        assert set(re.findall(r"`(test_\w+)`", page.read_text())) <= known, page.name


def test_programs_that_a_page_names_exist():
    for page in PAGES:
        for module in re.findall(r"python -m ((?:benchmarks|tools)[\w.]*)", page.read_text()):
            path = ROOT.joinpath(*module.split("."))
            assert path.is_dir() or path.with_suffix(".py").exists(), f"{page.name}: {module}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_have_at_most_120_characters(page):
    """Except in tables and where an address is longer."""
    lines = [line for line in page.read_text().splitlines() if not line.startswith("|") and "http" not in line]
    assert [line for line in lines if len(line) > 120] == []


def test_pictures_are_shown_with_words_for_what_they_show():
    shown = set()
    for page in PAGES:
        for words, file in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text()):
            assert len(words.split()) > 5, file
            shown.add((page.parent / file).resolve())
    assert shown == {path for pattern in ("*.svg", "*.png") for path in (ROOT / "docs").rglob(pattern)}


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name)
def test_a_picture_is_readable_on_a_dark_page(picture):
    """It brings its own light background, and is small."""
    root = ElementTree.parse(picture).getroot()
    assert root.get("viewBox")
    assert re.search(r"fill(=\"|: )#ffffff", picture.read_text()[:2500])
    assert picture.stat().st_size < 300_000


def test_every_page_is_listed():
    """Pages are found from the list of them, each under one kind."""
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "README.md").read_text())
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(listed)
    assert {name for name in listed if listed.count(name) > 1} <= {"glossary.md"}
    in_lab = re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "lab" / "README.md").read_text())
    assert sorted(in_lab) == sorted({path.name for path in LAB} - {"README.md"})


def test_the_readme_says_what_runs_where():
    text = (ROOT / "README.md").read_text()
    assert "## Status" in text and "pip install" in text
    for name in (*TARGETS, *QUANTIZATIONS):
        assert f"`{name}`" in text, name
    assert len(text.splitlines()) <= 110


GENERATED = {"api.md", "cli.md"}
MACHINES = re.compile(
    r"\b(?:EPYC|Xeon|Zen \d|Ice Lake|Sapphire Rapids|Alder Lake|Neoverse|family \d+|20\d\d-\d\d-\d\d)\b", re.IGNORECASE
)


def test_pages_are_short():
    """All that a user may want to read, together; one person keeps it true."""
    counted = [page for page in GUIDES if page.name not in GENERATED]
    assert sum(len(page.read_text().split()) for page in counted) <= 25_000
    assert len((ROOT / "CHANGELOG.md").read_text().splitlines()) <= 60


@pytest.mark.parametrize("page", [page for page in GUIDES if page.name not in GENERATED], ids=lambda page: page.name)
def test_only_the_lab_names_machines_and_dates(page):
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert MACHINES.findall(prose) == []


REFERENCES = {"architecture.md", "bench-reference.md", "formats.md", "glossary.md", "phones.md"} | GENERATED


@pytest.mark.parametrize("page", [page for page in GUIDES if page.name not in REFERENCES], ids=lambda page: page.name)
def test_a_guide_has_one_table_at_most(page):
    assert len(re.findall(r"^\| ?:?---?[-:| ]*$", page.read_text(), re.MULTILINE)) <= 1


@pytest.mark.parametrize("page", [page for page in LAB if page.name != "README.md"], ids=lambda page: page.name)
def test_a_lab_page_answers_first(page):
    assert "**In short:**" in page.read_text().partition("\n## ")[0]
