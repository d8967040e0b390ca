"""What the sample app shows as bold, code, lists and headings, next to what markdown-it-py reads in the same text."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.kotlin_app import app_command

pytestmark = pytest.mark.needs("java", "npm")

Mark = tuple[str, int, int, int]
"""How a part of a text looks, where it begins and ends, and its level."""
Read = tuple[str, set[Mark]]

# The app leaves everything else as it was written.
UNKNOWN = ["link", "image", "autolink", "html_inline", "entity", "html_block", "blockquote", "code", "lheading"]
REFERENCE = MarkdownIt("commonmark").disable([*UNKNOWN, "reference"])


@pytest.fixture(scope="module")
def app() -> Iterator[Callable[[str], Read]]:
    """The app's reading of a text, in a process that stays for all tests."""
    command = app_command("MarkdownMainKt")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdin and process.stdout

        def read(source: str) -> Read:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps([source]) + "\n")
            process.stdin.flush()
            ((text, marks),) = json.loads(process.stdout.readline())
            characters = text.encode("utf-16-le")  # Java counts emoji twice

            def place(units: int) -> int:
                return len(characters[: 2 * units].decode("utf-16-le"))

            return text, {(look, place(start), place(end), level) for look, start, end, level in marks}

        yield read
        process.stdin.close()


def reference(source: str) -> Read:
    """The same of markdown-it's tokens."""
    text, marks = "", set[Mark]()
    lists: list[str] = []
    label, item, was_item = "", False, None
    tokens = REFERENCE.parse(source)
    for index, token in enumerate(tokens):
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                lists.append(token.type)
            case "bullet_list_close" | "ordered_list_close":
                lists.pop()
            case "list_item_open":
                label = "• " if lists[-1] == "bullet_list_open" else f"{token.info}{token.markup} "
                item = True
            case "fence" | "inline":
                if was_item is not None:
                    text += "\n" if item and was_item else "\n\n"
                start = len(text)
                look, level = ("CODE_BLOCK", 0) if token.type == "fence" else ("", 0)
                if item:
                    look, level = "ITEM", len(lists) - 1
                    text += label
                elif tokens[index - 1].type == "heading_open":
                    look, level = "HEADING", int(tokens[index - 1].tag[1])
                if token.type == "fence":
                    text += token.content.removesuffix("\n")
                else:
                    inside, styled = _inline(token.children or [])
                    marks |= {(kind, first + len(text), last + len(text), 0) for kind, first, last, _ in styled}
                    text += inside
                if look and len(text) > start:
                    marks.add((look, start, len(text), level))
                was_item, item = item, False
    return text, marks


def _inline(tokens: Sequence[Token]) -> Read:
    text, marks = "", set[Mark]()
    opened: list[int] = []
    for token in tokens:
        if token.type == "code_inline":
            marks.add(("CODE", len(text), len(text) + len(token.content), 0))
        if token.nesting == 1:
            opened.append(len(text))
        elif token.nesting == -1:
            marks.add(({"em": "ITALIC", "strong": "BOLD"}[token.tag], opened.pop(), len(text), 0))
        text += "\n" if token.type in ("softbreak", "hardbreak") else token.content
    return text, {mark for mark in marks if mark[1] < mark[2]}


INLINE = [
    "a", "b", "7", " ", "*", "_", "**", "***", "`", "``", "\\", "\\*", ".", " *", "* ", "é", "¿", "😀", "€", "^", "#",
]  # fmt: skip


@given(st.lists(st.sampled_from(INLINE), max_size=14).map("".join))
def test_bold_italic_and_code_are_where_markdown_it_finds_them(app, inside):
    source = f"x{inside}y"
    assert app(source) == reference(source)


def _indented(lines: list[str], width: int) -> list[str]:
    return [" " * width + line if line else line for line in lines]


def _items(ordered: bool, items: list[tuple[str, list[str]]], loose: bool) -> list[str]:
    """The lines of a list, whose items have a text and lines below it."""
    lines: list[str] = []
    for number, (words, below) in enumerate(items, 1):
        bullet = f"{number}. " if ordered else "- "
        lines += [bullet + words, *_indented(below, len(bullet)), *([""] if loose else [])]
    return lines


WORDS = st.sampled_from(["one", "*two* three", "`f(x)` and __four__", "a_b_c", "5 * 6 - 7", "x  ", "😀"])
PARAGRAPHS = st.lists(st.one_of(WORDS, st.sampled_from(["1985. A year", "#7"])), min_size=1, max_size=3)
CODE = st.lists(st.sampled_from(["", "x = *1*", "    indented", "- no item", "# no heading", "``"]), max_size=4)
FENCES = st.builds(
    lambda fence, info, code: [fence + info, *code, fence],
    st.sampled_from(["```", "~~~", "````"]),
    st.sampled_from(["", "python"]),
    CODE,
)
HEADINGS = st.builds(
    lambda level, words, end: [f"{'#' * level} {words}{end}"], st.integers(1, 6), WORDS, st.sampled_from(["", " ##"])
)
RULES = st.sampled_from([["---"], ["* * *"], ["___"]])


def _lists(inside: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    items = st.lists(st.tuples(WORDS, st.one_of(st.just([]), inside)), min_size=1, max_size=3)
    return st.builds(_items, st.booleans(), items, st.booleans())


BLOCKS = st.one_of(PARAGRAPHS, FENCES, HEADINGS, RULES, st.recursive(FENCES, _lists, max_leaves=4))


@given(st.lists(BLOCKS, max_size=5))
def test_blocks_are_those_that_markdown_it_reads(app, blocks):
    source = "\n\n".join("\n".join(block) for block in blocks)
    assert app(source) == reference(source)
