"""The text of HTML pages."""

from __future__ import annotations

from html.parser import HTMLParser


class _Stripper(HTMLParser):
    """Collects the text of a page: no scripts, styles or title, and a line break around each block."""

    SKIPPED = frozenset({"script", "style", "title", "template", "noscript"})
    INLINE = frozenset(("a", "abbr", "b", "cite", "code", "em", "i", "kbd", "q", "s", "samp", "small", "span"))
    INLINE |= frozenset(("strong", "sub", "sup", "tt", "u", "var"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skipping = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.SKIPPED:
            self._skipping += 1
        elif tag not in self.INLINE:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.SKIPPED:
            self._skipping = max(0, self._skipping - 1)
        elif tag not in self.INLINE:
            self.parts.append("\n")

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        # What begins with `<![` ends at the next `>`, as in browsers; the parser would look through all the rest.
        return self.parse_bogus_comment(i, report)

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.parts.append(data)


def strip_html(page: str) -> str:
    """The text of an HTML page, one line per block, without blank lines and indentation."""
    stripper = _Stripper()
    # For each comment and tag without an end, the parser would read all the rest.
    if (unclosed := page.find("<!--", page.rfind("-->") + 1)) >= 0:
        page = page[:unclosed]
    end = page.rfind(">") + 1
    page = page[:end] + page[end:].replace("<", "&lt;")
    stripper.feed(page)
    stripper.close()
    lines = (" ".join(line.split()) for line in "".join(stripper.parts).splitlines())
    return "\n".join(line for line in lines if line)
