"""``python -m benchmarks.calibration``: how calibration text carries over to other kinds of text.

SmolLM2 is scored and cut once for each scoring text, then solved again on each calibration, and its perplexity is
measured on texts that nothing was calibrated on. Rows are kept in a JSON lines file, and not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import page
from benchmarks.studies import texts
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.cli.logs import show_logs
from edge_transact.evaluate.perplexity import perplexity
from edge_transact.inputs import read_text, resolve_model
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.layerwise.windows import read_calibration
from edge_transact.prune.allocate.allocation import DEFAULT_BUCKET
from edge_transact.prune.cut.surgery import pruned_tensors
from edge_transact.prune.methods import find_method
from edge_transact.prune.options import PruneOptions
from edge_transact.prune.pruning import Pruning
from edge_transact.prune.score import passes

logger = logging.getLogger("benchmarks")

Row = dict[str, Any]


def main() -> None:
    """Measure one combination, unless the results have it, and print all rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--score", default="demo:sotu", help="texts that score, comma-separated")
    parser.add_argument("--score-tokens", type=int, default=passes.GRADIENT_TOKENS)
    parser.add_argument("--calibration", default="demo:sotu", help="texts that solve, comma-separated")
    parser.add_argument("--tokens", default="16384", help="tokens that solve; several numbers, comma-separated")
    parser.add_argument("--note", default="", help="what else is different about this code, for the row")
    parser.add_argument("--checkpoint", type=Path, help="measure this pruned model instead of pruning one")
    parser.add_argument("--windows", type=int, default=8, help="windows of 512 tokens of each text")
    parser.add_argument("--results", type=Path, default=page.RESULTS / "calibration.jsonl")
    parser.add_argument("--scratch", type=Path, required=True, help="directory for books and scores, which are kept")
    arguments = parser.parse_args()
    show_logs()
    show_logs(package="benchmarks")
    torch.set_grad_enabled(False)
    books = texts.for_evaluation(arguments.scratch) | {
        "essays": texts.book(texts.ANARCHISM, arguments.scratch),
        "slang": texts.jargon(arguments.scratch),
    }
    lines = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    rows: list[Row] = [json.loads(line) for line in lines]
    for tokens in map(int, arguments.tokens.split(",")):
        key: Row = {
            "model": arguments.model,
            "ratio": arguments.ratio,
            "score": arguments.score,
            "score_tokens": arguments.score_tokens,
            "calibration": arguments.calibration,
            "tokens": tokens,
            "note": arguments.note,
            "windows": arguments.windows,
        }
        if any(key.items() <= row.items() for row in rows):
            continue
        row = key | _measure(arguments, tokens, books)
        rows.append(row)
        with arguments.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def _measure(arguments: argparse.Namespace, tokens: int, books: dict[str, str]) -> Row:
    """The perplexities on each of `books`, and the CPU seconds of scoring (0 where it was known) and of solving."""
    if arguments.checkpoint:
        return {"perplexities": _evaluate(arguments.checkpoint, books, arguments.windows)}
    source = Checkpoint.open(resolve_model(arguments.model))
    begun_s = time.process_time()
    run = _scored(source, arguments)
    scored_s = time.process_time()
    solving = read_calibration(source, arguments.calibration.split(","), tokens=tokens)
    run.model = LayerwiseModel(source, solving.windows)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as directory:
        fits = run.compensate(Journal(Path(directory)))
        solved_s = time.process_time()
        output = Path(directory) / "pruned"
        tensors = pruned_tensors(source, run.selections, run.model.replaced)
        plan = source.plan.with_layers(kept.widths for kept in run.selections)
        write_checkpoint(source, plan, tensors, {}, output)
        perplexities = _evaluate(output, books, arguments.windows)
    dampings = [fit.damping for of_layer in fits for fit in of_layer.values()]
    return {
        "perplexities": perplexities,
        "scoring_cpu_s": round(scored_s - begun_s, 1),
        "solving_cpu_s": round(solved_s - scored_s, 1),
        "dampings": {str(value): dampings.count(value) for value in sorted(set(dampings))},
    }


def _scored(source: Checkpoint, arguments: argparse.Namespace) -> Pruning:
    """The model with its selections made; scores and sensitivities are taken from the scratch directory if known."""
    scoring = read_calibration(source, arguments.score.split(","))
    name = json.dumps([arguments.model, arguments.score, arguments.score_tokens])
    journal = Journal(arguments.scratch / f"scores-{hashlib.sha256(name.encode()).hexdigest()[:12]}")
    passes.GRADIENT_TOKENS = arguments.score_tokens
    run = Pruning(LayerwiseModel(source, scoring.windows), find_method("obs"), journal, 0)
    target = run.allocate(PruneOptions(ratio=arguments.ratio), "budgeted", [], DEFAULT_BUCKET, 1)
    run.shoot(target.plan, 1)
    return run


def _evaluate(path: Path, books: dict[str, str], windows: int) -> dict[str, float]:
    """The perplexity on each book, and under ``mean`` the geometric mean."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    found = {
        name: perplexity(model, tokenizer, read_text(text, "evaluation"), max_windows=windows).perplexity
        for name, text in books.items()
    }
    return found | {"mean": math.exp(sum(map(math.log, found.values())) / len(found))}


if __name__ == "__main__":
    main()
