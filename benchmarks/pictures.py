"""``python -m benchmarks.pictures``: draws ``docs/widths.svg`` and ``docs/sensitivity-curves.svg`` again.

`benchmarks.sensitivity_curves` has measured what they show. Text stays text in the SVGs, laid out for DejaVu Sans,
which is wider than most fonts. The background is white, in dark mode too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOO_MUCH = 1e4
"""Perplexities above this say nothing but that a model is broken; the picture of the methods leaves them out."""

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Paul Tol's bright scheme, which colour-blind readers can distinguish."""

SOURCE, PRUNED = COLOURS[6], COLOURS[0]


def methods(curves: Mapping[str, Sequence[float | None]], ratios: Sequence[float], dense: float, path: Path) -> str:
    """Perplexity by cut, a line for each method.

    Args:
        curves: Perplexities at each ratio, by method; `None` where a model can't be cut so far.
        ratios: Shares of attention and MLP that are removed.
        dense: Perplexity of the uncut model.
        path: The SVG to write, in the folder of the page.

    Returns:
        Markdown: the picture with its alternative text, and a sentence for everything that it leaves out.
    """
    figure, axes = _figure(9, 4.2)
    shown, left_out = [], []
    colours = iter((*COLOURS[:6], "#000000"))
    for name, values in curves.items():
        known = [(100 * ratio, value) for ratio, value in zip(ratios, values, strict=True) if value is not None]
        drawn = [point for point in known if point[1] < TOO_MUCH]
        if hidden := [point for point in known if point[1] >= TOO_MUCH]:
            low, high = (f"{function(value for _, value in hidden):.1e}" for function in (min, max))
            where = "at every cut" if not drawn else f"from {hidden[0][0]:.0f} % on"
            left_out.append(f"`{name}` {where} ({low} to {high})")
        if missing := [f"{100 * ratio:.0f} %" for ratio, value in zip(ratios, values, strict=True) if value is None]:
            left_out.append(f"`{name}` at {', '.join(missing)}, where the model can't be cut so far")
        if drawn:
            shown.append(name)
            style = {"linewidth": 3.0} if name == "obs" else {"linewidth": 1.5}
            dashes = "--" if "," in name else "-"
            axes.plot(*zip(*drawn, strict=True), dashes, marker="o", label=name, color=next(colours), **style)
    axes.axhline(dense, color="black", linestyle=":", label="dense")
    axes.set(yscale="log", xlabel="attention and MLP parameters removed, %", ylabel="perplexity, no training")
    axes.set_xticks([100 * ratio for ratio in ratios])
    axes.set_yticks([20, 50, 100, 200, 500, 1000], labels=["20", "50", "100", "200", "500", "1,000"])
    figure.legend(fontsize=9, loc="outside right upper", frameon=False)
    _write(figure, path)
    alternative = (
        f"Perplexity by the share of parameters removed, on a logarithmic scale, for {', '.join(shown)}, and the dense "
        f"model at {dense:.2f}. The line of obs is the lowest at every cut."
    )
    text = f"![{alternative}]({path.name})"
    if left_out:
        text += f"\n\nThe picture leaves out perplexities above {TOO_MUCH:,.0f}: {'; '.join(left_out)}."
    return text


def widths(measured: Mapping[str, Any], path: Path) -> None:
    """The widths that differ between the source and the pruned model, layer by layer."""
    labels = {
        "num_key_value_heads": "KV heads",
        "qk_head_dim": "query and\nkey dims",
        "v_head_dim": "value dims",
        "intermediate_size": "MLP dims",
    }
    source, pruned = measured["source"], measured["pruned"]
    figure, grid = _figure(9, 5, rows=len(labels), sharex=True, gridspec_kw={"height_ratios": [1, 1, 1, 2]})
    layers = range(len(source))
    for axes, (name, label) in zip(grid, labels.items(), strict=True):
        axes.bar(layers, [layer[name] for layer in source], color=SOURCE, label="dense")
        axes.bar(layers, [layer[name] for layer in pruned], color=PRUNED, label="pruned")
        axes.set_ylabel(label)
        axes.set_yticks([0, source[0][name]])
    grid[-1].set(xlabel="layer", xticks=[*range(0, len(source), 5), len(source) - 1])
    grid[0].legend(fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1.02), frameon=False)
    _write(figure, path)


def sensitivity_curves(measured: Mapping[str, Any], layers: Sequence[int], path: Path) -> None:
    """Loss by MLP dims and by value dims kept, for some layers, and the widths that were chosen."""
    panels = {
        "mlp": ("MLP dims kept", "intermediate_size"),
        "values": ("value dims kept in each KV head", "v_head_dim"),
    }
    figure, grid = _figure(9.6, 4.2, columns=len(panels))
    for axes, (unit, (label, field)) in zip(grid, panels.items(), strict=True):
        for colour, index in zip(COLOURS, layers, strict=False):
            _sensitivity_curve(axes, measured["curves"][index][unit], measured["pruned"][index][field], index, colour)
        axes.set(yscale="log", xlabel=label)
    grid[0].set_ylabel("loss, nats a token")
    handles = grid[0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, fontsize=9, ncols=len(layers), loc="outside upper center", frameon=False)
    _write(figure, path)


def _sensitivity_curve(axes: Axes, points: Sequence[Sequence[float]], chosen: int, index: int, colour: str) -> None:
    drawn = [(units, loss) for units, loss in points if loss > 0]
    axes.plot(*zip(*drawn, strict=True), color=colour, linewidth=1.5, label=f"layer {index}")
    at = dict(drawn)
    if chosen in at:
        axes.plot(chosen, at[chosen], "o", color=colour, markersize=7, markeredgecolor="black")


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid.flat if grid.size > 1 else grid[0, 0]


def _write(figure: Figure, path: Path) -> None:
    """The same figure gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Draws the pictures of the rows that are there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=page.DOCS, help="directory of the SVGs")
    arguments = parser.parse_args()
    measured = json.loads((page.RESULTS / "sensitivity-curves.json").read_text())
    widths(measured, arguments.output / "widths.svg")
    sensitivity_curves(measured, (0, 5, 12, 18, 24, 29), arguments.output / "sensitivity-curves.svg")


if __name__ == "__main__":
    main()
