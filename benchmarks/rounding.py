"""``python -m benchmarks.rounding``: what each rounding to 4 bits costs: table and picture of ``docs/lab/w4.md``.

A model and the same model pruned are built with every rounding and measured through the built host library, on texts
that nothing was calibrated on. Rows that are in the results file already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import resource
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import page, pictures
from benchmarks.studies import texts
from edge_transact import costs
from edge_transact.build.dist import build
from edge_transact.build.options import ROUNDINGS, BuildOptions
from edge_transact.checkpoint import Checkpoint
from edge_transact.cli.logs import show_logs
from edge_transact.evaluate.models import evaluate_models
from edge_transact.inputs import resolve_model
from edge_transact.inputs.demo_texts import MIXED
from edge_transact.prune import PruneOptions, prune
from edge_transact.prune.options import PruneChoices
from edge_transact.quantization import QUANTIZATIONS

logger = logging.getLogger("benchmarks")

Row = dict[str, Any]

RATIO = 0.3

SUBJECTS = ("dense", f"pruned by {RATIO:.0%}")

CALIBRATIONS = {"gptq": (MIXED, 16384), "best": (MIXED, 65536)}
"""Text and tokens of the roundings that read any."""


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding", description=__doc__)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--quant", default="q4f16_0,q4f16_1", help="quantizations, comma-separated")
    parser.add_argument("--windows", type=int, default=16, help="windows of 512 tokens of each text")
    parser.add_argument("--results", type=Path, default=page.RESULTS / "rounding.jsonl")
    parser.add_argument("--page", type=Path, default=page.LAB / "w4.md")
    parser.add_argument("--scratch", type=Path, help="directory for texts and models; kept if given")
    arguments = parser.parse_args()
    show_logs()
    show_logs(package="benchmarks")
    with tempfile.TemporaryDirectory(prefix="edge-transact-rounding-") as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        rows = _measure(arguments, scratch)
    text = _table(rows)
    print(text, flush=True)
    picture = arguments.page.with_name("rounding.svg")
    pictures.roundings(rows, arguments.quant.split(",")[0], rows[-1]["texts"], picture)
    page.write("rounding", f"{text}\n\n{page.machine(1)}", arguments.page)


def _measure(arguments: argparse.Namespace, scratch: Path) -> list[Row]:
    lines = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    done = [json.loads(line) for line in lines]
    rows = []
    for subject in SUBJECTS:
        evaluation = texts.for_evaluation(scratch)
        if subject == SUBJECTS[0]:
            # Of the dense model alone: what is read often is no longer held back.
            evaluation["slang"] = texts.jargon(scratch)
        choices = [("16 bit", "", "", 0)]
        for quant in arguments.quant.split(","):
            for rounding in ROUNDINGS:
                choices.append((rounding, quant, *CALIBRATIONS.get(rounding, ("", 0))))
        for rounding, quant, text, tokens in choices:
            key = {
                "model": arguments.model,
                "subject": subject,
                "rounding": rounding,
                "quant": quant,
                "calibration": text,
                "calibration_tokens": tokens,
                "windows": arguments.windows,
                "texts": list(evaluation),
            }
            row = next((row for row in done if key.items() <= row.items()), None)
            if row is None:
                logger.info(f"{subject}, {rounding} {quant} {text}")
                checkpoint = _checkpoint(arguments.model, subject, scratch)
                calibration = PruneChoices()
                if text == MIXED:
                    calibration = PruneChoices(calibration=text, calibration_tokens=tokens)
                row = key | _evaluate(checkpoint, rounding, quant, calibration, evaluation, arguments.windows, scratch)
                with arguments.results.open("a") as results:
                    results.write(json.dumps(row) + "\n")
            rows.append(row)
    return rows


def _checkpoint(model: str, subject: str, scratch: Path) -> str:
    if subject == "dense":
        return model
    if not (scratch / "pruned").is_dir():
        prune(model, scratch / "pruned", PruneOptions(ratio=RATIO))
    return str(scratch / "pruned")


def _evaluate(
    checkpoint: str,
    rounding: str,
    quant: str,
    calibration: PruneChoices,
    evaluation: dict[str, str],
    windows: int,
    scratch: Path,
) -> Row:
    """Perplexity on each text, and the divergence from the checkpoint, through the host library."""
    name = checkpoint
    figures: Row = {"machine": page.cpu()}
    if quant:
        name = str(scratch / "dist")
        options = BuildOptions(target=["host"], quant=quant, rounding=rounding)
        before_s = _cpu_s()
        made = build(checkpoint, Path(name), options, pruning=calibration, force=True)
        # Of the build as a whole, in which rounding with text takes nearly all; little if the cache had the codes.
        figures = {"build_cpu_s": _cpu_s() - before_s}
        figures |= {key: getattr(made.manifest, key) for key in ("bits_per_parameter", "weights_bytes")}
    else:
        plan = Checkpoint.open(resolve_model(checkpoint)).plan
        figures["weights_bytes"] = costs.weight_bytes(plan, QUANTIZATIONS["q0f16"])
    for text, source in evaluation.items():
        reference = checkpoint if quant else None
        (result,) = evaluate_models([name], text=source, max_windows=windows, reference=reference)
        kept = ("perplexity", "kl_mean", "kl_median", "kl_p99", "same_top")
        figures[text] = {key: result[key] for key in kept if key in result}  # type: ignore[literal-required]
    return figures


def _cpu_s() -> float:
    """The seconds that this process has computed, whatever else the machine did."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        alike = [other for other in rows if other["subject"] == row["subject"]]
        exact = next(other for other in alike if other["rounding"] == "16 bit")
        nearest = next((o for o in alike if o["rounding"] == "nearest" and o["quant"] == row["quant"]), None)
        weights = f"{row['rounding']} {row['quant']}".strip()
        cells = [row["subject"], weights]
        for text in rows[0]["texts"]:
            if text not in row:
                cells += [""] * 3
                continue
            figures = row[text]
            cells.append(f"{figures['perplexity']:.2f}")
            if nearest is None:
                cells += ["", ""]
                continue
            worst, best, ours = (math.log(each[text]["perplexity"]) for each in (nearest, exact, row))
            cells.append(f"{(worst - ours) / (worst - best):.0%}")
            cells.append(f"{figures['kl_mean']:.3f}")
        # A second quantization takes codes and scales from the cache.
        timed = row["rounding"] in CALIBRATIONS and row["quant"] == rows[1]["quant"]
        cells.append(f"{row['build_cpu_s']:.0f} s" if timed else "")
        lines.append(cells)
    columns = [column for text in rows[0]["texts"] for column in (text, "recovered", "KL")]
    return page.table(["model", "weights", *columns, "CPU time"], lines)


if __name__ == "__main__":
    main()
