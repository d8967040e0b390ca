"""``python -m benchmarks.studies``: the studies of ``docs/lab/paper.md``, on SmolLM2 or on any model.

Each is one command: ``python -m benchmarks.studies methods``. Rows are kept in ``benchmarks/results/paper.jsonl`` and
not measured again, so an interrupted study continues.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import page, pictures
from benchmarks.studies import texts
from benchmarks.studies.cuts import Cut, Row, Study, try_cut
from edge_transact.cli.logs import show_logs

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)
SEED_RATIOS = (0.2, 0.3)
MIXED_TOKENS = 65536
GROUPS_TOO = "transact, groups too"
PUBLISHED = ("transact", "llm-pruner", "wanda", "flap", "magnitude", "random")


def methods(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """All methods at all ratios: published methods, uniform, and `obs` with mixed calibration text."""
    found = rows_by_method(study, mixed)
    lines = [[name, *(_figures(row) for row in rows)] for name, rows in found.items()]
    ratios = [study.cut(_obs(ratio, mixed))["perplexity"] / _reference(study, ratio) for ratio in RATIOS]
    lines.append(["obs / the better transact", *(f"**{ratio:.3f}**" for ratio in ratios)])
    dense = study.dense()
    picture = draw_methods(study, mixed)
    table = page.table(["", *(f"{ratio:.0%}" for ratio in RATIOS)], lines)
    said = f"Of both texts, and in parentheses of {' and '.join(dense['perplexities'])}. Dense: {_figures(dense)}."
    return f"{said}\n\n{table}\n\n{picture}"


def rows_by_method(study: Study, mixed: tuple[str, ...]) -> dict[str, list[Row | None]]:
    """The rows of the study `methods`, one for each of `RATIOS`; `None` where a model can't be cut so far."""
    found: dict[str, list[Row | None]] = {name: [study.cut(Cut(name, ratio)) for ratio in RATIOS] for name in PUBLISHED}
    found[GROUPS_TOO] = [try_cut(study, _groups_too(ratio)) for ratio in RATIOS]
    found["obs"] = [study.cut(_obs(ratio, mixed)) for ratio in RATIOS]
    return found


def draw_methods(study: Study, mixed: tuple[str, ...]) -> str:
    """Draws the picture of the study `methods` and returns its Markdown."""
    curves = {
        name: [None if row is None else row["perplexity"] for row in rows]
        for name, rows in rows_by_method(study, mixed).items()
    }
    return pictures.methods(curves, RATIOS, study.dense()["perplexity"], page.LAB / "paper-methods.svg")


def seeds(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """How much `obs` depends on which calibration windows are drawn."""
    rows = []
    for ratio in SEED_RATIOS:
        found = [study.cut(_obs(ratio, mixed, seed=seed)) for seed in range(count)]
        columns = [[each["perplexity"] for each in found]]
        columns += [[each["perplexities"][text] for each in found] for text in found[0]["perplexities"]]
        rows.append([f"{ratio:.0%}", *(_spread(column, ".2f") for column in columns)])
        rows[-1].append(_spread([perplexity / _reference(study, ratio) for perplexity in columns[0]], ".3f"))
    header = [f"obs, {count} seeds", "both", *study.dense()["perplexities"], "obs / the better transact"]
    return page.table(header, rows)


def shots(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """Number of shots. The paper also trains between its shots; nothing here does."""
    rows = [
        [str(number), *(_figure(study.cut(Cut("transact", ratio, shots=number))["perplexity"]) for ratio in (0.3, 0.5))]
        for number in (1, 2, 4, 8)
    ]
    return page.table(["shots", "30 %", "50 %"], rows)


def samples(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """Number of calibration samples of 512 tokens, at 30 %."""
    rows = []
    for number in (8, 32, 128, 512):
        transact = study.cut(Cut("transact", 0.3, calibration_tokens=512 * number))["perplexity"]
        obs = study.cut(_obs(0.3, mixed, calibration_tokens=512 * number))["perplexity"]
        rows.append([str(number), _figure(transact), _figure(obs)])
    return page.table(["samples", "transact", "obs"], rows)


def units(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """Attention alone, the MLP alone, and both, at the same budget: a tenth of attention and MLP."""
    attention = ("values", "queries-keys")
    rows = []
    for name, chosen in (("attention", attention), ("MLP", ("mlp",)), ("both", ("mlp", *attention))):
        figures = []
        for method, allocation, compensate in (("transact", "uniform", False), ("obs", "budgeted", True)):
            cut = Cut(method, 0.1, allocation, chosen, compensate, calibration=mixed)
            found = try_cut(study, cut)
            figures.append("—" if found is None else _figure(found["perplexity"]))
        rows.append([name, *figures])
    return page.table(["cut", "transact, uniform", "obs"], rows)


def flops(study: Study, mixed: tuple[str, ...], count: int) -> str:
    """As in Figure 3: FLOPs of a decoded token by context, from the cost formulas."""
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
    study.__name__: study for study in (methods, seeds, shots, samples, units, flops)
}


def _obs(ratio: float, mixed: tuple[str, ...], calibration_tokens: int = MIXED_TOKENS, seed: int = 0) -> Cut:
    return Cut("obs", ratio, "budgeted", (), True, calibration=mixed, calibration_tokens=calibration_tokens, seed=seed)


def _groups_too(ratio: float) -> Cut:
    return Cut("transact", ratio, units=("mlp", "groups"))


def _reference(study: Study, ratio: float) -> float:
    """The better of uniform `transact` on the MLP alone and on the MLP and KV groups."""
    rows = (study.cut(Cut("transact", ratio)), try_cut(study, _groups_too(ratio)))
    return min(row["perplexity"] for row in rows if row)


def _spread(values: list[float], form: str) -> str:
    """Mean, minimum and maximum."""
    return f"{sum(values) / len(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _figures(row: Row | None) -> str:
    """Perplexity of both texts, and of each."""
    if row is None:
        return "—"
    return f"{_figure(row['perplexity'])} ({', '.join(map(_figure, row['perplexities'].values()))})"


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}"


def main() -> None:
    """Run the named studies, and write their tables into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("studies", nargs="+", choices=STUDIES)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--windows", type=int, default=64, help="windows of 512 tokens of each text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=page.RESULTS / "paper.jsonl")
    parser.add_argument("--page", type=Path, default=page.LAB / "paper.md")
    parser.add_argument("--scratch", type=Path, help="directory for texts, scores and models; kept if given")
    arguments = parser.parse_args()
    show_logs()
    show_logs(package="benchmarks")
    with tempfile.TemporaryDirectory(prefix="edge-transact-studies-") as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        mixed = texts.for_calibration(scratch)
        study = Study(arguments.model, texts.for_evaluation(scratch), arguments.windows, scratch, arguments.results)
        for name in arguments.studies:
            text = STUDIES[name](study, mixed, arguments.seeds)
            print(text, flush=True)
            page.write(name, f"{text}\n\n{page.machine(1)}", arguments.page)


if __name__ == "__main__":
    main()
