"""``python -m benchmarks.studies``: the studies of ``docs/paper.md``, on SmolLM2 or on any model.

Each is one command: ``python -m benchmarks.studies methods``. What was measured is kept in ``docs/paper.jsonl`` and
isn't measured again, so that a study that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import page
from benchmarks.studies import texts
from benchmarks.studies.cuts import Cut, Study, seeds, spread, try_cut

DOCS = Path(__file__).parents[2] / "docs"
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)
MIXED_TOKENS = 65536
PUBLISHED = ("transact", "llm-pruner", "wanda", "flap", "magnitude", "random")


def methods(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """All methods at all cuts: published ones as they are, uniform; `best` with seeds and mixed calibration text."""
    header = ["", *(f"{ratio:.0%}" for ratio in RATIOS)]
    curves: dict[str, list[float | None]] = {}

    def row(name: str, rows: list) -> list[str]:
        curves[name] = [found and found["perplexity"] for found in rows]
        return [name, *("—" if found is None else _figure(found["perplexity"]) for found in rows)]

    lines = [row(name, [study.cut(Cut(name, ratio)) for ratio in RATIOS]) for name in PUBLISHED]
    both = [try_cut(study, Cut("transact", ratio, units=("mlp", "groups"))) for ratio in RATIOS]
    lines.append(row("transact, groups too", both))
    best = [
        seeds(
            study, Cut("best", ratio, "budgeted", (), True, calibration=mixed, calibration_tokens=MIXED_TOKENS), count
        )
        for ratio in RATIOS
    ]
    lines.append(["**best**", *(spread([found["perplexity"] for found in rows]) for rows in best)])
    curves["best"] = [sum(found["perplexity"] for found in rows) / count for rows in best]
    for text in best[0][0]["perplexities"]:
        lines.append([f"best, {text}", *(spread([found["perplexities"][text] for found in rows]) for rows in best)])
    reference = [
        min(value for value in pair if value is not None)
        for pair in zip(curves["transact"], curves["transact, groups too"], strict=True)
    ]
    ratios = [mean / figure for mean, figure in zip(curves["best"], reference, strict=True)]
    lines.append(["best / the better transact", *(f"{ratio:.3f}" for ratio in ratios)])
    _plot(curves, study.dense()["perplexity"], DOCS / "paper-methods.png")
    return f"Dense: {study.dense()['perplexity']:.2f}.\n\n{page.table(header, lines)}\n\n![](paper-methods.png)"


def shots(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """How many shots: the paper scores again K times on the way, and trains in between, which nothing here does."""
    rows = [
        [str(number), *(_figure(study.cut(Cut("transact", ratio, shots=number))["perplexity"]) for ratio in (0.3, 0.5))]
        for number in (1, 2, 4, 8)
    ]
    return page.table(["shots", "30 %", "50 %"], rows)


def samples(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """How many calibration samples of 512 tokens, at 30 %."""
    rows = []
    for number in (8, 32, 128, 512):
        transact = study.cut(Cut("transact", 0.3, calibration_tokens=512 * number))["perplexity"]
        cut = Cut("best", 0.3, "budgeted", (), True, calibration=mixed, calibration_tokens=512 * number)
        rows.append([str(number), _figure(transact), _figure(study.cut(cut)["perplexity"]) if number <= 128 else "—"])
    return page.table(["samples", "transact", "best"], rows)


def units(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """Attention alone, the MLP alone, and both, at equal budget: a tenth of attention and MLP."""
    attention = ("values", "queries-keys")
    rows = []
    for name, chosen in (("attention", attention), ("MLP", ("mlp",)), ("both", ("mlp", *attention))):
        figures = []
        for method, allocation, compensate in (("transact", "uniform", False), ("best", "budgeted", True)):
            cut = Cut(method, 0.1, allocation, chosen, compensate, calibration=mixed)
            found = try_cut(study, cut)
            figures.append("—" if found is None else _figure(found["perplexity"]))
        rows.append([name, *figures])
    return page.table(["cut", "transact, uniform", "best"], rows)


def flops(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """Figure 3: FLOPs of a decoded token by context, from the cost formulas."""
    from edge_transact import costs
    from edge_transact.widths import LayerWidths, WidthPlan

    llama = WidthPlan(4096, 32000, False, False, False, (LayerWidths(32, 32, 128, 128, 11008),) * 32)
    plans = {
        "LLaMA-2-7B": llama,
        "TransAct-2.6B": llama.with_layers([LayerWidths(16, 16, 128, 128, 3072)] * 32),
        "TransAct-1.3B": llama.with_layers([LayerWidths(6, 6, 128, 128, 1536)] * 32),
        "Sheared-LLaMA-1.3B": WidthPlan(2048, 32000, False, False, False, (LayerWidths(16, 16, 128, 128, 5504),) * 24),
    }
    contexts = (1, 256, 1024, 4096, 16384, 65536)
    rows = [
        [name, *(f"{costs.decode_flops(plan, context) / 1e9:.2f}" for context in contexts)]
        for name, plan in plans.items()
    ]
    return page.table(["GFLOPs a token at context", *map(str, contexts)], rows)


STUDIES: dict[str, Callable[[Study, tuple[str, ...], int], str]] = {
    study.__name__: study for study in (methods, shots, samples, units, flops)
}


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}"


def _plot(curves: dict[str, list[float | None]], dense: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, values in curves.items():
        known = [(100 * ratio, value) for ratio, value in zip(RATIOS, values, strict=True) if value and value < 1e4]
        if known:
            axes.plot(*zip(*known, strict=True), marker="o", label=name, linewidth=3 if name == "best" else 1.5)
    axes.axhline(dense, color="black", linestyle=":", label="dense")
    axes.set(yscale="log", xlabel="attention and MLP removed, %", ylabel="perplexity, no training")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the studies that are asked for, and writes their tables into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("studies", nargs="+", choices=STUDIES)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--windows", type=int, default=64, help="windows of 512 tokens of each text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=DOCS / "paper.jsonl")
    parser.add_argument("--page", type=Path, default=DOCS / "paper.md")
    parser.add_argument("--scratch", type=Path, help="where texts, scores and models lie meanwhile; kept if given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-transact-studies-") as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        evaluation = {"speeches": "demo:sotu", "handbook": texts.book(texts.HANDBOOK, scratch)}
        mixed = ("demo:sotu", texts.book(texts.ANARCHISM, scratch), texts.book(texts.MANUAL, scratch))
        study = Study(arguments.model, evaluation, arguments.windows, scratch, arguments.results)
        for name in arguments.studies:
            text = STUDIES[name](study, mixed, arguments.seeds)
            print(text, flush=True)
            page.write(name, f"{text}\n\n{page.machine(1)}", arguments.page)


if __name__ == "__main__":
    main()
