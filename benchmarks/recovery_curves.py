"""``python -m benchmarks.recovery_curves RUN...``: perplexity and accuracy over training tokens, run beside run.

A RUN is a ``metrics.jsonl`` file, or a directory that holds one: a JSON object a line with ``tokens`` and ``loss``, and
where the model was evaluated also ``perplexity`` (text to value) and ``tasks`` (task to accuracy). ``NAME=RUN`` names
it; otherwise its directory does. The picture is that of the paper's Figure 5. ``-o FILE.svg`` says where it goes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import page
from edge_transact.artifacts.charts import Axis, Chart, Picture, number
from edge_transact.errors import EdgeTransactError

METRICS = "metrics.jsonl"
OUTPUT = page.LAB / "recovery-curves.svg"
KINDS = ("perplexity", "tasks")


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: What to call it.
        points: Of each figure, such as ``("tasks", "basics")``, its values by training tokens.
    """

    name: str
    points: Mapping[tuple[str, str], list[tuple[int, float]]]

    @classmethod
    def read(cls, argument: str) -> Run:
        """The run that an argument names.

        Raises:
            EdgeTransactError: There is no such file, a line isn't a JSON object with tokens, or nothing was evaluated.
        """
        name, _, place = argument.rpartition("=")
        path = Path(place) / METRICS if Path(place).is_dir() else Path(place)
        if not path.is_file():
            raise EdgeTransactError(f"{path} does not exist", fix=f"Name a {METRICS} or the directory that holds it.")
        points: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for row in _rows(path):
            for kind in KINDS:
                for figure, value in row.get(kind, {}).items():
                    points.setdefault((kind, figure), []).append((row["tokens"], value))
        if not points:
            raise EdgeTransactError(
                f"{path} has neither perplexity nor tasks: the model was not evaluated while it was trained",
                fix="Train with --eval-every N.",
            )
        return cls(name or path.resolve().parent.name, points)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for number_of_line, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            row["tokens"] + 0
        except (ValueError, KeyError, TypeError) as error:
            raise EdgeTransactError(
                f"{path}, line {number_of_line}: {line[:80]!r} is no JSON object with tokens",
                fix="The last line of a run that was killed may be cut off: remove it.",
            ) from error
        yield row


def picture(runs: Sequence[Run]) -> Picture:
    """A chart for each figure that any run has, over tokens, with a line for each run."""
    figures = list(
        dict.fromkeys(figure for kind in KINDS for run in runs for figure in run.points if figure[0] == kind)
    )
    return Picture(
        "recovery-curves",
        "Perplexity and accuracy over training tokens",
        [_chart(kind, figure, runs) for kind, figure in figures],
        legend={run.name: index % 6 for index, run in enumerate(runs)},
        header=("run", "figure", "tokens", "value"),
        rows=[
            [run.name, figure, f"{tokens:,}", number(value)]
            for run in runs
            for (_, figure), points in run.points.items()
            for tokens, value in points
        ],
    )


def _chart(kind: str, figure: str, runs: Sequence[Run]) -> Chart:
    of_run = {run.name: sorted(run.points.get((kind, figure), [])) for run in runs}
    values = [value for points in of_run.values() for _, value in points]
    most = max(tokens for points in of_run.values() for tokens, _ in points)
    x = Axis(0, max(most, 1), "training tokens")
    # From 0, what training changes would be a flat line.
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    y = Axis(low - room, high + room)
    ends = (
        f"{name} goes from {number(points[0][1])} to {number(points[-1][1])}"
        for name, points in of_run.items()
        if points
    )
    title = f"perplexity on {figure}" if kind == "perplexity" else f"{figure}, accuracy"
    chart = Chart(title, f"{'; '.join(ends)}.", x, y)
    for index, points in enumerate(of_run.values()):
        if points:
            chart.line(points, index % 6)
            chart.dots(points, index % 6)
    return chart


def light(svg: str) -> str:
    """A picture that is light on every screen, as those of the pages are."""
    svg = re.sub(r"@media screen and \(prefers-color-scheme: dark\) \{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", svg)
    return svg.replace("<style>", '<rect x="-8" y="-8" width="100%" height="100%" fill="#ffffff"/><style>', 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the runs that are named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery_curves", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    given = parser.parse_args(arguments)
    try:
        drawn = picture([Run.read(argument) for argument in given.runs])
    except EdgeTransactError as error:
        parser.exit(1, f"{parser.prog}: {error.message}\n  {error.fix}\n")
    given.output.write_text(light(drawn.file()))
    print(given.output)


if __name__ == "__main__":
    main()
