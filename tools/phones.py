"""``docs/phones.md``: what phones should do, what others measured on them, and what `bench --evidence` files show.

Measured rows are from the files in ``benchmarks/results/phones/``, instruction counts from ``docs/lab/performance.md``.
Predictions and figures of others are written down here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks import page
from benchmarks.evidence import EVIDENCE, HEADER, rows
from edge_transact import costs
from edge_transact.quantization import get_quantization
from edge_transact.widths import WidthPlan
from tools.structure import ROOT

QUANTIZATION = "q4f16_0"
CONTEXT = 256 + 64 // 2
"""The mean context while 64 tokens are decoded after 256."""

MODELS = {
    "SmolLM2-1.7B": (2048, 24, 32, 32, 64, 8192, 49152, True),
    "Qwen3-1.7B": (2048, 28, 16, 8, 128, 6144, 151936, True),
    "Llama-2-7B": (4096, 32, 32, 32, 128, 11008, 32000, False),
}
"""Hidden size, layers, heads, KV heads, head dim, MLP, vocabulary, tied embeddings: their ``config.json``."""


@dataclass(frozen=True)
class Phone:
    """A phone that is predicted.

    Attributes:
        bandwidth_gb_s: The peak of its DRAM, of 64 bits at the clock that `memory` states.
        ghz: The clock of its fastest core, if a page was found that says it.
    """

    name: str
    chip: str
    soc: str
    bandwidth_gb_s: float
    memory: str
    ghz: float | None = None
    cores: str | None = None


PHONES = (
    Phone(
        "Galaxy S23", "Snapdragon 8 Gen 2", "SM8550", 67.2,
        "https://droidholic.com/snapdragon-8-gen-3-launched/", 3.2, "https://droidholic.com/snapdragon-8-gen-3-launched/",
    ),
    Phone(
        "Xiaomi 14", "Snapdragon 8 Gen 3", "SM8650", 76.8,
        "https://droidholic.com/snapdragon-8-gen-3-launched/", 3.3, "https://droidholic.com/snapdragon-8-gen-3-launched/",
    ),
    Phone(
        "Galaxy S25", "Snapdragon 8 Elite", "SM8750", 84.8,
        "https://geektopia.es/es/technology/2024/10/22/noticias/amp/qualcomm-anuncia-el-snapdragon-8-elite-para-moviles-de-gama-alta.html",
        4.32, "https://hi-tech.ua/en/qualcomm-snapdragon-8-elite-or-8-gen-4-is-the-new-top-processor-for-smartphones/",
    ),
    Phone(
        "OnePlus 15", "Snapdragon 8 Elite Gen 5", "SM8850", 84.8,
        "https://www.lowyat.net/2025/366994/qualcomm-snapdragon-8-elite-gen-5", 4.6,
        "https://www.lowyat.net/2025/366994/qualcomm-snapdragon-8-elite-gen-5",
    ),
    Phone(
        "vivo X100 Pro", "Dimensity 9300", "MT6989", 76.8,
        "https://pt.thefilibusterblog.com/sk-hynix-begins-shipping-the-first-batch-of-lpddr5t-for-smartphones-to-be-adopted-in-dimensity-9300-devices-first-pt",
    ),
    Phone(
        "vivo X200", "Dimensity 9400", "MT6991", 85.3,
        "https://fanaticosdelhardware.com/se-confirma-que-el-chipset-mediatek-dimensity-9400-llegara-al-mercado-el-9-de-octubre",
        3.63, "https://vietnam.vn/en/chip-dimensity-9400-so-huu-hieu-suat-do-hoa-an-tuong",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """Decoded tokens a second that others published, of a model in 4 bits."""

    soc: str
    model: str
    program: str
    cpu: float | None
    opencl: float | None
    hexagon: float | None
    source: str


POCKETPAL = "https://github.com/a-ghorbani/pocketpal-ai/pull/"
BASELINES = (
    "https://github.com/a-ghorbani/pocketpal-ai/blob/a3a4c34f500dc250c429f0007e1ef590f7e437d2/e2e/baselines/benchmark/"
)
# The cell of #740's table is named by its values: #722 has the same ones for the baseline of qwen3-1.7b/q4_0.
PUBLISHED = (
    Published("SM8850", "SmolLM2-1.7B", "PocketPal", 40.2, 35.4, 33.8, BASELINES + "poco-myron.json"),
    Published("SM8550", "SmolLM2-1.7B", "PocketPal", 17.8, 22.4, 22.4, BASELINES + "samsung-s23.json"),
    Published("SM8850", "Qwen3-1.7B", "PocketPal", 30.4, 28.1, None, POCKETPAL + "702"),
    Published("SM8850", "Qwen3-1.7B", "PocketPal", 38.0, 27.1, 30.4, POCKETPAL + "740"),
    Published("SM8550", "Qwen3-1.7B", "PocketPal", 17.1, 16.6, 20.9, POCKETPAL + "740"),
    Published("SM8550", "Llama-2-7B", "MLC-LLM", None, 10, None, "https://github.com/wangzhaode/mnn-llm/issues/146"),
)


def measured() -> str:
    """A row for each result in the files of evidence, or that there is none."""
    files = sorted(EVIDENCE.glob("*.zip"))
    return page.table(HEADER, rows(files)) if files else "None yet."


def predictions() -> str:
    """The bounds and the prediction of each phone and model, and what they are made of."""
    low, high = _shares()
    per_cycle, smaller = _bytes_per_cycle()
    rows = []
    for phone in PHONES:
        cells = [f"{phone.name}, {phone.chip}", f"[{phone.bandwidth_gb_s}]({phone.memory})"]
        cells.append(f"[{phone.ghz * per_cycle:.0f}]({phone.cores})" if phone.ghz else "")
        for model in MODELS:
            most = phone.bandwidth_gb_s * 1e9 / _bytes(model)
            cells.append(f"{low * most:.0f} to {high * most:.0f}, < {most:.0f}")
        rows.append(tuple(cells))
    *sizes, last = (f"{_bytes(model) / 1e6:,.0f} MB" for model in MODELS)
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
    names = {phone.soc: phone.chip for phone in PHONES}
    rows = [
        (
            names[row.soc],
            row.model,
            f"[{row.program}]({row.source})",
            *(f"{value:g}" if value else "" for value in (row.cpu, row.opencl, row.hexagon)),
        )
        for row in PUBLISHED
    ]
    return _table(("chip", "model", "program", "CPU", "OpenCL", "Hexagon"), rows)


def _bytes(model: str) -> int:
    hidden, layers, heads, kv_heads, head_dim, mlp, vocabulary, tied = MODELS[model]
    config = {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": mlp, "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }  # fmt: skip
    return costs.decode_read_bytes(WidthPlan.from_config(config), get_quantization(QUANTIZATION), CONTEXT)


def _shares() -> tuple[float, float]:
    """The lowest and the highest share of the peak bandwidth that others' CPU kernels reached with Qwen3-1.7B."""
    peaks = {phone.soc: phone.bandwidth_gb_s for phone in PHONES}
    rows = [row for row in PUBLISHED if row.cpu and row.model == "Qwen3-1.7B"]
    shares = [row.cpu * _bytes(row.model) / peaks[row.soc] / 1e9 for row in rows if row.cpu]
    return min(shares), max(shares)


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
