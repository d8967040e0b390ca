"""Summaries of results: text on a console, HTML in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import count

from edge_transact.artifacts.report import Section
from edge_transact.artifacts.width_picture import width_section
from edge_transact.widths import WidthPlan, describe

_numbers = count(1)
"""A picture's ids are unique in a document, and a notebook can show a picture twice."""


@dataclass(frozen=True)
class Summary:
    """A result in a few lines.

    Attributes:
        title: What it is.
        facts: Names and values.
        header: Columns of a table; the first has names, the others figures.
        rows: Its rows.
        picture: A picture, which a console leaves out; the table with its figures is folded.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    picture: Section | None = None

    def text(self) -> str:
        """Lines for a console."""
        table = [self.header, *self.rows] if self.rows else []
        return "\n".join([self.title, *_aligned(list(self.facts.items())), *_aligned(table)])

    def html(self) -> str:
        """A fragment for a notebook."""
        parts = [f"<p><strong>{escape(self.title)}</strong></p>"]
        if self.facts:
            parts.append(_table((), list(self.facts.items())))
        if self.rows:
            parts.append(_table(self.header, self.rows))
        if self.picture:
            picture = replace(self.picture, name=f"{self.picture.name}-{next(_numbers)}")
            parts.append(f"{picture._repr_html_()}<p>{escape(picture.text)}</p>")
            folded = _table(picture.header, picture.rows)
            parts.append(f"<details><summary>{escape(picture.title)}, as a table</summary>{folded}</details>")
        return "".join(parts)


class Summarized:
    """A result whose `summary` is its representation on a console and in a notebook."""

    def summary(self) -> Summary:
        """What to show."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.summary().text()

    def _repr_html_(self) -> str:
        return self.summary().html()


def summary_of_widths(
    title: str, plan: WidthPlan, source: WidthPlan | None = None, facts: Mapping[str, str] | None = None
) -> Summary:
    """The summary of a model by its widths, with a picture if layers differ or some were cut.

    Args:
        title: What the model is.
        plan: Its widths.
        source: The widths before pruning, if they are known.
        facts: What comes before the widths.
    """
    widths = dict(line.split(": ") for line in describe(plan))
    shown = {**(facts or {}), "layers": f"{plan.num_hidden_layers}", **widths}
    # Columns of one height say no more than the figure.
    picture = width_section(plan, source) if source or len(set(plan.layers)) > 1 else None
    return Summary(title, shown, picture=picture)


def left(new: float, old: float) -> str:
    """A figure beside the one that it takes the place of: ``1,200 of 1,500 (-20%)``."""
    return f"{new:,} of {old:,} ({new / old - 1:+.0%})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines: names to the left, and figures to the right where a row has several."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust, *[str.rjust if len(widths) > 2 else str.ljust] * (len(widths) - 1)]
    cells = ([side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)] for row in rows)
    return [f"  {'  '.join(row)}".rstrip() for row in cells]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th>'
        + "".join(f'<td style="text-align: {"right" if header else "left"}">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
