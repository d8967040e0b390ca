"""``docs/phones.md``: what phones should do, what others measured on them, and what `bench --evidence` files show.

Measured rows are from the files in ``benchmarks/results/phones/``, instruction counts from ``docs/lab/performance.md``.
Phones and figures of others are `planning.phones`'s, which predicts with them, too.
"""

from __future__ import annotations

import re

from benchmarks import page
from benchmarks.evidence import EVIDENCE, HEADER, rows
from edge_transact.planning.phones import CONTEXT, PHONES, PUBLISHED, QUANTIZATION, decode_bytes, shares
from tools.structure import ROOT

MODELS = ("SmolLM2-1.7B", "Qwen3-1.7B", "Llama-2-7B")
"""That are predicted."""


def measured() -> str:
    """A row for each result in the files of evidence, or that there is none."""
    files = sorted(EVIDENCE.glob("*.zip"))
    return page.table(HEADER, rows(files)) if files else "None yet."


def predictions() -> str:
    """The bounds and the prediction of each phone and model, and what they are made of."""
    low, high = shares()
    per_cycle, smaller = _bytes_per_cycle()
    rows = []
    for phone in PHONES.values():
        cells = [f"{phone.name}, {phone.chip}", f"[{phone.bandwidth_gb_s}]({phone.memory})"]
        cells.append(f"[{phone.ghz * per_cycle:.0f}]({phone.cores})" if phone.ghz else "")
        for model in MODELS:
            most = phone.bandwidth_gb_s * 1e9 / decode_bytes(model)
            cells.append(f"{low * most:.0f} to {high * most:.0f}, < {most:.0f}")
        rows.append(tuple(cells))
    *sizes, last = (f"{decode_bytes(model) / 1e6:,.0f} MB" for model in MODELS)
    text = f"""
        Decoded tokens a second in `{QUANTIZATION}`, after {CONTEXT} tokens. A token reads every weight once:
        {", ".join(sizes)} and {last} for these models. No run can be faster than the DRAM's published peak allows (<).
        The prediction is {low:.0%} to {high:.0%} of that, the lowest and the highest that llama.cpp's CPU kernels
        reached with Qwen3-1.7B in the last table. By its instructions, a core like Cortex-X3 decodes
        [{per_cycle} bytes a cycle](lab/performance.md#the-loops-on-phones), one like Cortex-A710 {smaller}: a single
        core is slower than the DRAM.
    """
    header = ("phone", "DRAM, GB/s", "a big core, GB/s", *MODELS)
    return f"{_wrapped(text)}\n\n{_table(header, rows)}"


def published() -> str:
    """What others measured."""
    names = {phone.soc: phone.chip for phone in PHONES.values()}
    rows = [
        (
            names[row.soc],
            row.model,
            f"[{row.program}]({row.source})",
            *(f"{value:g}" if value else "" for value in (row.prefill, row.cpu, row.opencl, row.hexagon)),
        )
        for row in PUBLISHED
    ]
    return _table(("chip", "model", "program", "prefill, CPU", "CPU", "OpenCL", "Hexagon"), rows)


def _bytes_per_cycle() -> tuple[float, float]:
    """Of decode on Cortex-X3 and on Cortex-A710, as the lab's table has them."""
    page = (ROOT / "docs" / "lab" / "performance.md").read_text()
    found = re.search(rf"^\| {QUANTIZATION} \| [\d,]+ \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert found, "docs/lab/performance.md has no instruction counts"
    return float(found[1]), float(found[2])


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))
