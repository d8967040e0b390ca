"""Generated parts of pages say what the code says."""

import re
from xml.etree import ElementTree

import pytest

from tools import structure
from tools.__main__ import DOCS, outputs


@pytest.fixture(scope="module")
def generated():
    return outputs()


@pytest.mark.parametrize("name", ["structure.svg", "architecture.md", "api.md", "cli.md", "lab/phone-gpu.md"])
def test_what_is_generated_is_current(generated, name):
    assert (DOCS / name).read_text() == generated[DOCS / name], "run `make docs`"


def test_the_table_lists_every_folder_and_module(generated):
    page = generated[DOCS / "architecture.md"].partition("<!-- table edge_transact -->")[2].partition("<!-- end -->")[0]
    listed = re.findall(r"^\| `(\w+)(?:/|\.py)`", page, re.MULTILINE)
    package = structure.ROOT / structure.PACKAGE
    there = [path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert sorted(listed) == sorted(set(there) - {"__init__"})


def test_everything_listed_says_what_it_holds():
    assert [name for layer in structure.layers() for name in layer if not structure.holds(name).strip()] == []


def test_texts_of_the_drawing_fit_their_boxes():
    from matplotlib.font_manager import FontProperties

    tags = ElementTree.fromstring((DOCS / "structure.svg").read_text())
    texts, box = 0, None
    for tag in tags:
        if tag.get("class") == "box":
            box = {name: float(tag.get(name)) for name in ("x", "y", "width", "height")}
        elif tag.tag.endswith("text") and box:
            bold = tag.get("class") == "b"
            size = structure.NAME_SIZE if bold else structure.TEXT_SIZE
            font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
            right = float(tag.get("x")) + structure.text_width(tag.text, font)
            assert box["x"] < float(tag.get("x")) and right < box["x"] + box["width"], tag.text
            assert box["y"] < float(tag.get("y")) < box["y"] + box["height"], tag.text
            texts += 1
    assert texts >= 2 * sum(map(len, structure.layers()))
