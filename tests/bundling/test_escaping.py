"""What users name freely reaches Gradle, Android's resources and paths as data."""

import json
import re
import subprocess
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_transact.bundling import escaping
from edge_transact.bundling.escaping import android_string, check_application_id, groovy_string, model_ids
from edge_transact.errors import UsageError
from tests.support.android_project import aapt2
from tests.support.hostile_names import NAMES

NASTY = ["'", '"', "$", "$(reboot)", "${x}", "`id`", "\\", "\\u0041", "\n", "\r", "\t", " ", "  ", "<", ">", "&",
         "&amp;", "]]>", "@", "?", "%s %s", "%", "../", "/", ".", "\u2028", "\xa0", "\x00", "\x1b", "😀", "é",
         "\ufffe", *NAMES]  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.sampled_from(NASTY), max_size=6).map("".join),
)


def read_groovy(literal: str) -> str:
    """A double-quoted literal as Groovy and Kotlin read it; it fails on what either would interpolate."""
    assert re.fullmatch(r'"(?:[^"\\$\n]|\\[\\"$nrt]|\\u[0-9a-f]{4})*"', literal)
    return json.loads(literal.replace("\\$", "$"))


def read_android(content: str) -> str:
    """The content of a ``<string>`` as aapt2 reads it: XML, then spaces, then escapes."""
    text = ElementTree.fromstring(f"<string>{content}</string>").text or ""
    assert text[:1] not in ("@", "?")
    assert not re.search(r"""(?<!\\)(?:\\\\)*['"]""", text)
    text = re.sub(r"\s+", " ", text).strip()
    escapes = {"n": "\n", "t": "\t"}

    def unescaped(match: re.Match[str]) -> str:
        return chr(int(match[1][1:], 16)) if len(match[1]) == 5 else escapes.get(match[1], match[1])

    return re.sub(r"\\(u[0-9a-f]{4}|.)", unescaped, text, flags=re.DOTALL)


@given(text=TEXTS)
def test_gradle_and_android_read_the_text_as_it_was(text):
    assert groovy_string(text).isascii()
    assert read_groovy(groovy_string(text)) == text
    assert read_android(android_string(text)) == text


def test_aapt2_reads_the_texts_as_they_were(tmp_path):
    """Among its strings, each is a field of its own: a tag, the length, and the text."""
    texts = [*NASTY, "My 'App' & <Co>\n\"x\"", "@string/x", "?attr", "%d %d"]
    items = [f'<string name="n{i}" formatted="false">{android_string(text)}</string>' for i, text in enumerate(texts)]
    source = tmp_path / "values" / "strings.xml"
    source.parent.mkdir()
    source.write_text(f"<resources>{''.join(items)}</resources>", encoding="utf-8")
    subprocess.run([aapt2(), "compile", "-o", tmp_path, source], check=True)
    compiled = (tmp_path / "values_strings.arsc.flat").read_bytes()
    for text in texts:
        assert bytes([0x0A, len(text.encode())]) + text.encode() in compiled, text


@given(names=st.lists(TEXTS, min_size=1, max_size=5))
def test_ids_are_file_names_and_differ_without_case(names):
    ids = model_ids(names)
    assert len({name.lower() for name in ids}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and ".." not in name for name in ids)


def test_ids_are_what_people_would_choose():
    names = ["SmolLM2-135M", "smollm2-135m", "smollm2-135m-2", "café crème.v2", "../../etc", "$(reboot)", "😀"]
    assert model_ids(names) == [
        "SmolLM2-135M", "smollm2-135m-2", "smollm2-135m-2-2", "cafe-creme.v2", "etc", "reboot", "model"
    ]  # fmt: skip


def test_an_application_id():
    for text in ("org.example.chat", "a.b", "com.Example_1.x2"):
        assert check_application_id(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "chat", "org.", ".org", "org..chat", "org.1chat", "org._chat", "org.ch-at", "org.new.chat", "org.ex ample",
     "org.exämple", "org.x\n", "org.x;reboot", "org.$(reboot)", "org.x'",
     *[f"org.{word}" for word in sorted(escaping.JAVA_KEYWORDS)]],
)  # fmt: skip
def test_what_is_no_application_id(text):
    with pytest.raises(UsageError, match="--application-id") as no:
        check_application_id(text)
    assert "org.example.chat" in no.value.fix


@pytest.mark.parametrize("text", ["", "  \n", "\ud800"])
def test_what_is_no_name_for_an_app(text):
    with pytest.raises(UsageError):
        escaping.check_app_name(text)
