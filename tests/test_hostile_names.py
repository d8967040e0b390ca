"""What others read or run shows hostile names as they are, and takes no part of them for its own language."""

import ast
import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from markdown_it import MarkdownIt

from edge_transact.artifacts.charts import Axis, Chart
from edge_transact.artifacts.report import Origin, Report, Section
from edge_transact.artifacts.templates import markdown, python_string, template
from edge_transact.benchmarking.drivers.adb.client import quote
from edge_transact.cache.sources import public
from edge_transact.errors import EdgeTransactError
from edge_transact.hub.publish import push_checkpoint
from tests.support.hostile_names import NAME, NAMES

ALL = pytest.mark.parametrize("name", [*NAMES, NAME])


class Shown(HTMLParser):
    """The text of a page, and its tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags = "", []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, sorted(key for key, _ in attributes)))


def report_page(name: str, directory: Path) -> tuple[str, str]:
    chart = Chart(name, f"1 is {name}", Axis(0, 1, name), Axis(0, 1, name))
    chart.words(0, 0, name)
    section = Section("s", name, [chart], text=name, legend={name: 0}, header=(name,), rows=[(name,)], note=name)
    directory.mkdir()
    origin = Origin(name, name, {name: name}, [(name, name, name)])
    Report(name, name, [section], origin, [name], [name]).write(directory, {name: name})
    assert json.loads((directory / "report.json").read_text()) == {name: name}
    return (directory / "index.html").read_text(), (directory / "s.svg").read_text()


def card(name: str) -> str:
    record = {"source": name, "license": name, name: {"texts": [name]}}
    values = {"parameters": 1, "source_parameters": 2, "cut_ratio": 0.5, "widths": ["a"]}
    return template("model_card.md.j2").render(name=name, provenance=record, **values)


@ALL
def test_pages(name, tmp_path):
    """A page has the tags and attributes of one with a harmless name, and the name among its text."""
    page, picture = report_page(name, tmp_path / "r")
    plain, _ = report_page("harmless", tmp_path / "plain")
    shown, other = Shown(page), Shown(plain)
    words = [tag for tag in shown.tags if tag[0] not in ("span", "code")]  # of commands, one for each word
    assert words == [tag for tag in other.tags if tag[0] not in ("span", "code")]
    assert "".join(name.replace("`", "").split()) in "".join(shown.text.split())
    assert ElementTree.fromstring(picture).find("{http://www.w3.org/2000/svg}title").text == name.replace("\r", "\n")


@ALL
def test_model_cards(name):
    text = card(name)
    _, matter, body = text.split("---\n", 2)
    assert list(yaml.safe_load(matter)) == ["license", "library_name", "pipeline_tag", "tags"]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    plain = MarkdownIt("commonmark").enable("table").parse(card("harmless").split("---\n", 2)[2])
    assert [token.type for token in tokens] == [token.type for token in plain]
    inline = [child.type for token in tokens for child in token.children or ()]
    assert set(inline) <= {"text", "text_special", "link_open", "link_close", "softbreak"}
    assert inline.count("link_open") == 1
    (code,) = [token.content for token in tokens if token.type == "fence"]
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert [call.args[0].value for call in calls] == [name, name]
    heading = next(token.content for token in tokens if token.type == "inline")
    assert heading.isprintable() and heading == markdown(name)
    assert python_string(name).isprintable()


def test_the_phones_shell_and_this_one(tmp_path):
    """Every name comes back from a shell's `printf`, and none ran."""
    names = [*NAMES, NAME]
    line = quote(["printf", "%s\\0", *names])
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == names and not list(tmp_path.iterdir())


def test_records_name_no_place_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/tiny").mkdir(parents=True)
    record = {"source": "models/tiny", "texts": ["~/private/a.txt", f"{tmp_path}/b.txt", "demo:sotu", "self"], "n": 1}
    assert public(record) == {"source": "tiny", "texts": ["a.txt", "b.txt", "demo:sotu", "self"], "n": 1}
    assert public(["org/name@v2", "../x/y", "."]) == ["org/name@v2", "y", tmp_path.name]


@pytest.mark.parametrize("to", ["/etc/passwd", "/etc", "/nonesuch"])
def test_push_follows_no_link_out_of_the_directory(make_llama, tmp_path, to):
    directory = make_llama()
    (directory / "README.md").write_text("a card")
    (directory / "notes.txt").symlink_to(to)
    with pytest.raises(EdgeTransactError, match=r"notes.txt is no file of this directory, but leads to"):
        push_checkpoint(directory, "acme/pushed")
