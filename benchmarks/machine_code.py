"""The machine code of the library for phones, and what a decoded token takes: rows, and the tables of the page."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import mesa, page, pictures
from benchmarks.mesa import GPUS, MachineCode, compile_kernels
from benchmarks.roofline import CONTEXT, MODELS, PHONES, Phone, Work, decoded_token, read_seconds
from benchmarks.trips import Loop
from edge_transact import costs
from edge_transact.quantization import get_quantization
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)

QUANTIZATION = get_quantization("q4f16_0")
WHOLE = "SmolLM2-135M"
"""The model whose library is compiled whole; of others, the kernels that a decoded token launches."""

PICTURE = page.DOCS / "lab" / "phone-gpu.svg"
Row = dict[str, Any]

PARTS = ("matmuls of layers", "logits", "attention", "other kernels")
"""What the kernels of a decoded token are for."""


def measure() -> list[Row]:
    """A row for each kernel of a model: its machine code on each GPU, and its launches in a decoded token."""
    rows: list[Row] = []
    wanted: dict[str, str] = {}
    for model, config in MODELS.items():
        logger.info(f"build {model} for phones and decode a token, its kernels left out")
        work, sources = decoded_token(config, QUANTIZATION)
        launched = {launch.kernel for launch in work}
        for kernel, source in sources.items():
            if model == WHOLE or kernel in launched:
                wanted.setdefault(source, f"{kernel} of {model}")
                launches = [{**asdict(w), "count": count} for w, count in work.items() if w.kernel == kernel]
                rows.append({"model": model, "kernel": kernel, "source": source, "launches": launches})
    # Models share kernels; each is compiled once.
    compiled = {}
    for gpu in GPUS:
        logger.info(f"compile {len(wanted)} kernels for {gpu}")
        compiled[gpu] = compile_kernels(gpu, {name: source for source, name in wanted.items()})
    for row in rows:
        name = wanted[row.pop("source")]
        row["mesa"] = mesa.version()
        row["code"] = {gpu: asdict(codes[name]) for gpu, codes in compiled.items()}
    return rows


def sections(rows: Sequence[Row], before: Sequence[Row]) -> dict[str, str]:
    """The sections of the page, by name.

    Args:
        rows: What was measured.
        before: Rows of other kernels, with which a decoded token is compared.
    """
    version = rows[0]["mesa"]
    return {
        "machine-code": f"Kernels of {WHOLE}, `{QUANTIZATION.name}`, Mesa {version}:\n\n{kernels_table(rows)}",
        "decoded-token": f"{token_table(rows, before)}\n\n![{_alternative(rows)}]({PICTURE.name})",
        "phones": _phones_table(),
    }


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the picture of the page."""
    pictures.roofline(_bars(rows), PARTS, path)


def kernels_table(rows: Sequence[Row]) -> str:
    """Every kernel of one model's library."""
    header = ["kernel"]
    for gpu in ("Adreno", "Mali"):
        header += [f"{gpu}: instructions (loop)", "registers", "threads", "spills", "loads, stores"]
    lines = []
    for row in sorted((row for row in rows if row["model"] == WHOLE), key=lambda row: row["kernel"]):
        line = [f"`{row['kernel'].removesuffix('_kernel')}`"]
        for gpu in GPUS:
            code = _code(row, gpu)
            loop = f" ({code.longest_loop:,})" if code.loops else ""
            line += [
                f"{code.instructions:,}{loop}",
                str(code.registers),
                code.threads,
                str(code.spills),
                str(sum(code.memory.values())),
            ]
        lines.append(line)
    return page.table(header, lines)


def token_table(rows: Sequence[Row], before: Sequence[Row]) -> str:
    """What a decoded token of each model takes on each phone, now and before."""
    header = [
        "model, phone",
        "launches",
        "before",
        "read, MB",
        "10^9 instructions",
        "before",
        "a weight of layers",
        "of logits",
        "ms by bytes",
        "ms by instructions",
        "before",
    ]
    lines = []
    for model, config in MODELS.items():
        plan = WidthPlan.from_config(config)
        for phone in PHONES:
            (issued, seconds), (issued_before, seconds_before) = (
                instructions(measured, model, phone) for measured in (rows, before)
            )
            layers, logits, *_ = _by_part(issued)
            lines.append(
                [
                    f"{model}, {phone.name}",
                    *(str(_launches(measured, model)) for measured in (rows, before)),
                    f"{costs.decode_read_bytes(plan, QUANTIZATION, CONTEXT) / 1e6:,.0f}",
                    *(f"{total / 1e9:.2f}" for total in (issued.total(), issued_before.total())),
                    f"{layers / costs.layer_matrix_parameters(plan):.1f}",
                    f"{logits / (plan.vocab_size * plan.hidden_size):.1f}",
                    f"{1e3 * read_seconds(phone, config, QUANTIZATION):.2f}",
                    *(f"{1e3 * total:.2f}" for total in (seconds.total(), seconds_before.total())),
                ]
            )
    return page.table(header, lines)


def _launches(rows: Sequence[Row], model: str) -> int:
    return sum(launch["count"] for row in _of(rows, model) for launch in row["launches"])


def _phones_table() -> str:
    header = ["phone's processor", "GPU", "cores", "lanes of a core", "MHz", "memory, GB/s"]
    lines = []
    for phone in PHONES:
        figures = (phone.cores, phone.lanes, phone.clock_hz / 1e6)
        lines.append(
            [phone.name, phone.gpu, *(f"{figure:,.0f}" for figure in figures), f"{phone.bytes_per_s / 1e9:.1f}"]
        )
    return page.table(header, lines)


def instructions(rows: Sequence[Row], model: str, phone: Phone) -> tuple[Counter[str], Counter[str]]:
    """Instructions of a decoded token, and the seconds that they take at least, by kernel."""
    issued: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for row in _of(rows, model):
        code = _code(row, phone.gpu)
        for launch in row["launches"]:
            work = Work(launch["kernel"], launch["groups"], launch["threads"], tuple(map(_loops, launch["loops"])))
            issued[work.kernel] += launch["count"] * work.groups * work.instructions(code, GPUS[phone.gpu].wave)
            seconds[work.kernel] += launch["count"] * work.seconds(code, phone)
    return issued, seconds


def _by_part(figures: Mapping[str, float]) -> list[float]:
    """Sums of the figures of kernels, for each of `PARTS`."""
    sums = dict.fromkeys(PARTS, 0.0)
    for kernel, figure in figures.items():
        if kernel.startswith("w4_decode"):
            part = "logits" if "float32" in kernel else "matmuls of layers"
        else:
            part = "attention" if kernel.startswith(("batch_decode", "merge")) else "other kernels"
        sums[part] += figure
    return list(sums.values())


def _bars(rows: Sequence[Row]) -> dict[str, dict[str, tuple[float, list[float]]]]:
    """Milliseconds by bytes, and by instructions for each of `PARTS`, by model and phone."""
    bars: dict[str, dict[str, tuple[float, list[float]]]] = {}
    for model, config in MODELS.items():
        bars[model] = {}
        for phone in PHONES:
            _, seconds = instructions(rows, model, phone)
            times = [1e3 * part for part in _by_part(seconds)]
            bars[model][phone.name] = (1e3 * read_seconds(phone, config, QUANTIZATION), times)
    return bars


def _alternative(rows: Sequence[Row]) -> str:
    """What the picture shows, in words."""
    ratios = {
        phone.name: [sum(times[phone.name][1]) / times[phone.name][0] for times in _bars(rows).values()]
        for phone in PHONES
    }
    parts = [f"{name}: {min(values):.1f} to {max(values):.1f}" for name, values in ratios.items()]
    return f"Time by instructions over time by bytes of a decoded token, of three models: {'; '.join(parts)}."


def _of(rows: Sequence[Row], model: str) -> list[Row]:
    return [row for row in rows if row["model"] == model]


def _code(row: Row, gpu: str) -> MachineCode:
    code: Mapping[str, Any] = row["code"][gpu]
    return MachineCode(**{**code, "loops": tuple((first, end) for first, end in code["loops"])})


def _loops(found: Sequence[Mapping[str, Any]]) -> tuple[Loop, ...]:
    return tuple(Loop(loop["turns"], loop["constant"], _loops(loop["inner"])) for loop in found)
