"""Summaries of results, and of a model's widths: text on a console, HTML in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import count

from edge_transact.artifacts.charts import Axis, by_layer, spread
from edge_transact.artifacts.report import Section
from edge_transact.artifacts.templates import template
from edge_transact.widths import WidthPlan, describe

_numbers = count(1)
"""A picture's ids are unique in a document, and a notebook can show a picture twice."""

LABELS: Mapping[str, str] = {
    "intermediate_size": "MLP dims",
    "num_key_value_heads": "KV heads",
    "num_attention_heads": "query heads",
    "qk_head_dim": "dims of a query or key head",
    "v_head_dim": "dims of a value head",
}
"""What people call the five widths of a layer, in the order in which pruning usually narrows them."""

PRUNED, SOURCE = 0, 6


@dataclass(frozen=True)
class Summary:
    """A result in a few lines. A console leaves out the `picture`; the table with its figures is folded."""

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
        tables = ((), [*self.facts.items()]), (self.header, self.rows)
        parts += [_table(header, rows) for header, rows in tables if rows]
        if self.picture:
            picture = replace(self.picture, name=f"{self.picture.name}-{next(_numbers)}")
            parts.append(f"{picture._repr_html_()}<p>{escape(picture.text)}</p>")
            folded = _table(picture.header, picture.rows)
            parts.append(f"<details><summary>{escape(picture.title)}, as a table</summary>{folded}</details>")
        return "".join(parts)


class Summarized:
    """A result whose `summary` is its representation on a console and in a notebook."""

    def summary(self) -> Summary:
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.summary().text()

    def _repr_html_(self) -> str:
        return self.summary().html()


def width_section(plan: WidthPlan, source: WidthPlan | None = None) -> Section:
    """The five widths of every layer, of a pruned model those that were cut, in front of the source's."""
    charts, uncut = [], []
    for name, label in LABELS.items():
        widths, before = ([getattr(layer, name) for layer in each.layers] if each else [] for each in (plan, source))
        has = [layer.has_attention or name[-8:] != "head_dim" for layer in plan.layers]
        if source and all(now == old for now, old, is_there in zip(widths, before, has, strict=True) if is_there):
            uncut.append(f"{label}: {spread(before)}")
            continue
        series = {"source": before, "pruned": widths} if source else {"": widths}
        y = Axis.over([*widths, *before])
        charts.append(
            by_layer(label[0].upper() + label[1:], series, y, colours=(SOURCE, PRUNED) if source else (PRUNED,))
        )
    return Section(
        "widths",
        "Widths by layer",
        charts,
        text=f"As in the source: {'; '.join(uncut)}." if uncut else "",
        legend={"pruned": PRUNED, "source": SOURCE} if source and charts else {},
        header=("layer", *LABELS.values()),
        rows=[
            [str(index), *(f"{getattr(layer, name):,}" for name in LABELS)] for index, layer in enumerate(plan.layers)
        ],
    )


def summary_of_widths(
    title: str, plan: WidthPlan, source: WidthPlan | None = None, facts: Mapping[str, str] | None = None
) -> Summary:
    """The summary of a model by its widths, with a picture if layers differ or some were cut."""
    widths = dict(line.split(": ") for line in describe(plan))
    # Columns of one height say no more than the figure.
    picture = width_section(plan, source) if source or len(set(plan.layers)) > 1 else None
    return Summary(title, {**(facts or {}), "layers": f"{plan.num_hidden_layers}", **widths}, picture=picture)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines: names to the left, and figures to the right where a row has several."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust, *[str.rjust if len(widths) > 2 else str.ljust] * (len(widths) - 1)]
    cells = ([side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)] for row in rows)
    return [f"  {'  '.join(row)}".rstrip() for row in cells]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return str(template("table.html.j2").module.table(Section("", "", header=header, rows=rows)))  # type: ignore[attr-defined]
