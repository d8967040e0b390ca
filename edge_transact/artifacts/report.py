"""The one shape of all reports: an answer, sections of charts and tables, and where the figures come from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from html import escape
from pathlib import Path

from edge_transact.artifacts.charts import WIDTH, Chart, style
from edge_transact.artifacts.templates import template
from edge_transact.reading import without_home


@dataclass(frozen=True)
class Section:
    """A heading with charts, a table, or both.

    Attributes:
        name: The name of its SVG file, without the suffix, and of its place on a page.
        legend: Colours by what they stand for.
        header: Columns of the table: of the charts' figures, which are folded, or of the section itself.
        folded: Whether the section is closed at first.
    """

    name: str
    title: str
    charts: Sequence[Chart] = ()
    text: str = ""
    legend: Mapping[str, int] = field(default_factory=dict)
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""
    folded: bool = False

    @property
    def kinds(self) -> list[str]:
        """The style of each column of the table: long texts wrap, and figures stand to the right."""
        cells = [[cell for cell in column if cell] for column in zip(*self.rows, strict=True)]
        return [
            "prose"
            if any(len(cell) > 24 for cell in column)
            else "figure" * (bool(column) and all(cell[0].isdigit() or cell[0] in "-+" for cell in column))
            for column in cells
        ]

    def panels(self) -> str:
        """The charts in a grid, with the legend above, for a page that has the style sheet ``chart.css``."""
        entries = "".join(f'<li class="c{colour}">{escape(label)}</li>' for label, colour in self.legend.items())
        legend = f'<ul class="et-legend">{entries}</ul>' if entries else ""
        charts = "".join(chart.svg(f"{self.name}-{index}") for index, chart in enumerate(self.charts))
        small = " small" if any(chart.width < WIDTH for chart in self.charts) else ""
        return f'{legend}<div class="et-charts{small}">{charts}</div>'

    def file(self, columns: int = 2) -> str:
        """The charts as one SVG of its own, with the style sheet in it."""
        width, height = (max(getattr(chart, side) for chart in self.charts) for side in ("width", "height"))
        columns = min(columns * WIDTH // width, len(self.charts))
        rows, top, gap = math.ceil(len(self.charts) / columns), 28 if self.legend else 0, 16
        parts = []
        for index, (label, colour) in enumerate(self.legend.items()):
            parts.append(f'<g class="et-chart" transform="translate({index * 120} 0)">')
            parts.append(f'<path class="f c{colour}" d="M0 4h10v10H0z"/><text x="15" y="13">{escape(label)}</text></g>')
        for index, chart in enumerate(self.charts):
            row, column = divmod(index, columns)
            place = (
                f' x="{column * (width + gap)}" y="{top + row * (height + gap)}" '
                f'width="{chart.width}" height="{chart.height}"'
            )
            parts.append(chart.svg(f"{self.name}-{index}", place))
        box = f"-8 -8 {columns * (width + gap)} {top + rows * (height + gap)}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="et-file" viewBox="{box}">'
            f"<title>{escape(self.title)}</title><style>{style()}</style>{''.join(parts)}</svg>\n"
        )

    def _repr_html_(self) -> str:
        return f"<style>{style()}</style>{self.panels()}"


@dataclass(frozen=True)
class Origin:
    """Where the figures of a report come from; `options` are the flag, the value and the help of each."""

    command: str
    machine: str
    versions: Mapping[str, str]
    options: Sequence[Sequence[str]] = ()
    date: str = field(default_factory=lambda: date.today().isoformat())


@dataclass(frozen=True)
class Report:
    """A page, whose first line, `answer`, says what was found, in a few words."""

    answer: str
    subject: str
    sections: Sequence[Section]
    origin: Origin
    text: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def write(self, directory: Path, figures: object, name: str = "report.json") -> None:
        """Writes ``index.html``, each section's charts as SVG, and the figures as JSON, without the home directory."""
        options = Section("options", "All options", header=("option", "value", "what it is"), rows=self.origin.options)
        texts = {f"{section.name}.svg": section.file() for section in self.sections if section.charts}
        texts[name] = json.dumps(figures, indent=1) + "\n"
        texts["index.html"] = template("report.html.j2").render(report=self, options=options, figures=name)
        for file, text in texts.items():
            (directory / file).write_text(without_home(text))


def change(before: float, after: float) -> str:
    """How far `after` is from `before`, in percent with a sign: ``-23 %``."""
    percent = round(100 * (after / before - 1))
    return f"{'-' if percent < 0 else '+'}{abs(percent)} %" if percent else "0 %"
