"""The latency figure of the TransAct paper, to compare one's own with.

Source: Shen et al., Findings of ACL 2024, Figure 4: seconds on a Xiaomi 14 (Snapdragon 8 Gen 3), W4A16 through MLC-LLM.
Read off the figure's pixels, to within about 0.1 s.
"""

from __future__ import annotations

from edge_transact.bench.records.plan import Lengths

SOURCE = "TransAct, Figure 4 (Xiaomi 14)"

FIGURE_4: dict[str, dict[Lengths, tuple[float, float]]] = {
    model: {Lengths(int(row[0]), int(row[1])): (row[2], row[3]) for row in rows}
    for model, rows in {
        "TransAct-1.3B": (
            (64, 64, 1.65, 3.28), (128, 64, 2.93, 4.67), (256, 64, 4.88, 6.76), (512, 64, 8.22, 10.74),
            (960, 64, 15.73, 18.88), (256, 128, 4.95, 9.45), (256, 256, 4.89, 14.23), (256, 512, 4.92, 25.22),
            (256, 768, 4.94, 37.80),
        ),
        "Sheared-LLaMA-1.3B": (
            (64, 64, 2.09, 4.03), (128, 64, 3.59, 5.69), (256, 64, 5.66, 8.04), (512, 64, 10.92, 13.97),
            (960, 64, 20.61, 24.58), (256, 128, 5.70, 10.71), (256, 256, 5.70, 16.29), (256, 512, 5.66, 29.62),
            (256, 768, 5.67, 46.22),
        ),
        "LLaMA-2-7B": (
            (64, 64, 7.30, 12.94), (128, 64, 13.61, 19.52), (256, 64, 26.42, 32.80), (256, 128, 26.08, 39.50),
            (256, 256, 26.26, 54.47),
        ),
    }.items()
}  # fmt: skip
"""For each model and pair of lengths: seconds of the prefill, and seconds in total."""
