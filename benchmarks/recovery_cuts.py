"""``python -m benchmarks.recovery_cuts -o DIR``: answers and perplexity by cut, before and after the same training.

`MODEL` is pruned by each of `RATIOS` and trained, then briefly against loops: twice the exact model, and once, through
the grid, what is built for this host. Models stay in DIR, and rows in ``results/recovery_cuts.jsonl``: neither is made
again, so another file (``--results``) measures anew. Prints the table of ``docs/lab/recovery.md``, draws its picture.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import edge_transact as et
from benchmarks import page
from edge_transact.artifacts.charts import Axis, lines
from edge_transact.artifacts.report import Section
from edge_transact.cli.logs import show_logs

MODEL = "demo:smollm2"
RATIOS = (0.1, 0.15, 0.2, 0.25, 0.3)
PRUNING = {"calibration": "demo:mixed", "calibration_tokens": 32768}
TRAINING = {"train": "demo:mixed", "train_tokens": 131072, "cross_entropy": 0.6}
QUANT = "q4f16_0"
AGAINST_LOOPS = TRAINING | {"train_tokens": 24576, "learning_rate": 1e-4, "unlikelihood": 0.5}
"""What follows, exact and through the grid, of the same model."""
HIGH_RATE_FROM = 0.25
"""The least cut whose model is trained at 3e-4 at first, rather than at 1e-4."""
BUILDING = {"target": "host", "quant": QUANT}
WINDOWS = 8
RESULTS = page.RESULTS / "recovery_cuts.jsonl"
PICTURE = page.LAB / "recovery-cuts.svg"
END = 32
"""The last cut that the picture shows, in %."""
DENSE, PRUNED, TRAINED, BUILT = STAGES = ("dense", "pruned", "trained", "built")
"""What is built, with 4-bit weights, is what was trained with these."""

Row = dict[str, Any]


def row_of(stage: str, ratio: float, evaluation: Mapping[str, Any]) -> Row:
    """What is kept of an evaluation with ``tasks=["basics"]``.

    Args:
        stage: One of `STAGES`.
        ratio: The share of attention and MLP that is cut.
        evaluation: A model's entry in ``eval --json``.
    """
    answers = evaluation["answers"]
    dozen = evaluation["degenerate"]
    return {
        "stage": stage,
        "ratio": ratio,
        "right": sum(answer["right"] for answer in answers),
        "degenerate": round(dozen["share"] * dozen["questions"]),
        "degenerate_of_all": sum(answer["degenerate"] is not None for answer in answers),
        "questions": len(answers),
        "perplexity": evaluation["perplexity"],
    }


def measure(ratios: Sequence[float], scratch: Path, results: Path) -> list[Row]:
    """The rows of the dense model and of each ratio; those that `results` lacks are measured and appended."""
    rows: list[Row] = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    known = {(row["stage"], row["ratio"]) for row in rows}

    def add(stage: str, ratio: float, path: str | Path) -> None:
        (evaluation,) = et.evaluate(path, max_windows=WINDOWS, tasks=["basics"])
        rows.append(row_of(stage, ratio, evaluation))
        with results.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")

    for ratio in (0, *ratios):
        pruned, trained, built = (scratch / f"{stage}-{ratio}" for stage in (PRUNED, TRAINED, BUILT))
        once, twice, rounded = (scratch / f"{name}-{ratio}" for name in ("once", "twice", "rounded"))
        made = {DENSE: MODEL, BUILT: built} if ratio == 0 else {PRUNED: pruned, TRAINED: trained, BUILT: built}
        if {(stage, ratio) for stage in made} <= known:
            continue
        if ratio and not pruned.exists():
            et.prune(MODEL, pruned, ratio=ratio, **PRUNING)
        if ratio and not trained.exists():
            if not once.exists():
                et.heal(pruned, once, learning_rate=3e-4 if ratio >= HIGH_RATE_FROM else 1e-4, **TRAINING)
            if not twice.exists():
                et.heal(once, twice, seed=1, **AGAINST_LOOPS)
            et.heal(twice, trained, seed=2, **AGAINST_LOOPS)
        if not built.exists():
            if ratio and not rounded.exists():
                et.heal(once, rounded, quant=QUANT, seed=1, **AGAINST_LOOPS)
            et.build(rounded if ratio else MODEL, built, **BUILDING)
        for stage, path in made.items():
            if (stage, ratio) not in known:
                add(stage, ratio, path)
    return sorted(rows, key=lambda row: (row["ratio"], STAGES.index(row["stage"])))


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        f"| | right of {rows[0]['questions']} questions | degenerate of 12 | of {rows[0]['questions']} | perplexity |",
        "|---|--:|--:|--:|--:|",
    ]
    for each in rows:
        names = {PRUNED: f"pruned by {100 * each['ratio']:.0f} %", TRAINED: "trained", BUILT: "in 4 bits"}
        name = names.get(each["stage"], DENSE)
        figures = (each["right"], each["degenerate"], each["degenerate_of_all"], f"{each['perplexity']:.1f}")
        lines.append(f"| {name} | {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


def picture(rows: Sequence[Row]) -> Section:
    """Right answers and perplexity over the ratio, at each stage, beside the dense model's."""
    stages = {PRUNED: 0, TRAINED: 1, BUILT: 3}
    (dense,) = (each for each in rows if each["stage"] == DENSE)
    cuts = Axis(0, END, "% of attention and MLP cut", names={each: str(each) for each in range(0, END, 5)})
    charts = []
    for figure, title in (("right", f"right answers of {dense['questions']}"), ("perplexity", "perplexity")):
        series = {DENSE: [(0, dense[figure]), (END, dense[figure])]} | {
            stage: [(100 * each["ratio"], each[figure]) for each in rows if each["stage"] == stage] for stage in stages
        }
        y = Axis.over(each[figure] for each in rows)
        charts.append(lines(title, series, cuts, y, colours=(2, *stages.values())))
    return Section(
        "recovery-cuts",
        "Right answers and perplexity by cut",
        charts,
        legend={PRUNED: 0, TRAINED: 1, f"{BUILT}, 4 bits": 3, DENSE: 2},
        header=("model", "cut", "right", "perplexity"),
        rows=[
            [each["stage"], f"{each['ratio']:.0%}", str(each["right"]), f"{each['perplexity']:.1f}"] for each in rows
        ],
    )


def light(svg: str) -> str:
    """A picture that is light on every screen, as those of the pages are."""
    svg = re.sub(r"@media screen and \(prefers-color-scheme: dark\) \{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", svg)
    return svg.replace("<style>", '<rect x="-8" y="-8" width="100%" height="100%" fill="#ffffff"/><style>', 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what the results lack, prints all rows and draws them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery_cuts", description=__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the directory for models")
    given = parser.parse_args(arguments)
    show_logs()
    given.output.mkdir(parents=True, exist_ok=True)
    rows = measure(given.ratios, given.output, given.results)
    given.picture.write_text(light(picture(rows).file()))
    print(table(rows))


if __name__ == "__main__":
    main()
