"""Writes names that users choose into Gradle files, Android's resources and paths."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from xml.sax.saxutils import escape

from edge_transact.errors import UsageError

_KEYWORDS = """
    abstract assert boolean break byte case catch char class const continue default do double else enum extends false
    final finally float for goto if implements import instanceof int interface long native new null package private
    protected public return short static strictfp super switch synchronized this throw throws transient true try void
    volatile while
"""
JAVA_KEYWORDS = frozenset(_KEYWORDS.split())
"""Words that can't be part of a Java package's name (Java Language Specification, 3.9)."""

MAX_ID = 64
"""The longest model id, so that paths on a phone stay short."""


def groovy_string(text: str) -> str:
    """The text as a string literal for Groovy and Kotlin, in ASCII; a `UsageError` if it isn't valid Unicode."""
    escapes = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(character) or _ascii(character) for character in _checked(text)) + '"'


def android_string(text: str) -> str:
    """The text as the content of a ``<string>`` of Android's resources, in XML; a `UsageError` for invalid Unicode.

    Quotes, backslashes, runs of spaces, and ``@`` and ``?`` at the beginning are special to Android. Without
    ``formatted="false"`` on the element, aapt2 refuses a text with several ``%``.
    """
    escapes = {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    written = [escapes.get(character) or _in_xml(character) for character in _checked(text)]
    for index, character in enumerate(text):
        at_an_end = index in (0, len(text) - 1)
        if character == " " and (at_an_end or text[index - 1].isspace()):
            written[index] = "\\u0020"
    if text[:1] in ("@", "?"):
        written[0] = "\\" + text[0]
    return escape("".join(written))


def check_application_id(text: str) -> str:
    """The text, if it is an Android application id; otherwise a `UsageError` that names the wrong part."""
    fix = "Write it as org.example.chat: at least two names of letters, digits and _, each beginning with a letter."
    parts = text.split(".")
    if len(parts) < 2:
        raise UsageError(f"--application-id {text!r} has no dot", fix=fix)
    for part in parts:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", part):
            raise UsageError(f"--application-id {text!r}: {part!r} can't be part of a Java package", fix=fix)
        if part in JAVA_KEYWORDS:
            raise UsageError(f"--application-id {text!r}: {part!r} is a keyword of Java", fix=fix)
    return text


def check_app_name(text: str) -> str:
    """The text, if it can be an app's name; a `UsageError` if it is empty, or isn't valid Unicode."""
    if not _checked(text).strip():
        raise UsageError("--app-name is empty", fix="Give the app a name.")
    return text


def model_ids(names: Sequence[str]) -> list[str]:
    """An id for each name: a file name of letters, digits, ``.``, ``_`` and ``-``, unique regardless of case.

    Accents are removed, other characters become hyphens, and equal ids get a number.
    """
    ids: list[str] = []
    for name in names:
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        stem = re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", plain).strip("-._")[:MAX_ID].rstrip("-._") or "model"
        taken = {other.lower() for other in ids}
        numbered = (f"{stem}-{number}" if number > 1 else stem for number in range(1, len(names) + 2))
        ids.append(next(candidate for candidate in numbered if candidate.lower() not in taken))
    return ids


def _checked(text: str) -> str:
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise UsageError(f"{text!r} is not valid Unicode", fix="Remove the surrogates (U+D800 to U+DFFF).")
    return text


def _ascii(character: str) -> str:
    if " " <= character <= "~":
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[index : index + 2].hex()}" for index in range(0, len(units), 2))


def _in_xml(character: str) -> str:
    """The character, or Android's escape if XML can't hold it or aapt2 could read it as a space."""
    is_space = character.isspace() and character != " "
    is_odd = is_space or unicodedata.category(character) == "Cc" or character in "\ufffe\uffff"
    return f"\\u{ord(character):04x}" if is_odd else character
