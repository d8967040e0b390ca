"""Report pages of models that nobody measured, from one layer to the 126 of Llama 3.1 405B."""

from pathlib import Path
from typing import Any

import torch

from edge_transact import costs
from edge_transact.artifacts.report import Origin, Report
from edge_transact.artifacts.summary import width_section
from edge_transact.benchmarking.analysis.compare import compare, paired
from edge_transact.benchmarking.analysis.report import write_comparison, write_report
from edge_transact.building.report.measure import MatrixError, Part
from edge_transact.building.report.page import page as build_page
from edge_transact.evaluation.answers.basics import AnswerRow, scores
from edge_transact.evaluation.answers.collapse import CollapseFigures, figures_of
from edge_transact.evaluation.answers.questions import QUESTIONS
from edge_transact.evaluation.models import REPORT_TEXTS, Evaluation
from edge_transact.evaluation.report import write_report as write_eval_report
from edge_transact.evaluation.tasks import PAPER_TASKS
from edge_transact.healing.report import page as heal_page
from edge_transact.pruning.compensate.regression import Fit
from edge_transact.pruning.report import PROJECTIONS, compensation_section, salience_section, sensitivity_section
from edge_transact.pruning.report import page as prune_page
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.units import UNITS
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.bench_logs import bench_of, write_log

NAME = "<script>alert('x')</script> \"🦙\" & a-model-with-a-name-that-is-much-longer-than-a-telephone-is-wide"
"""A directory may have this name, and no page may take it for markup."""

VERSIONS = {"edge-transact": "1", "torch": "2"}
ORIGIN = Origin(f'edge-transact prune "{NAME}"', "a machine", VERSIONS, [("--x", "1", "X.")])


def pruned_page(directory: Path, layers: int) -> Path:
    """The page of a pruning to random widths, with every picture: ``index.html`` in a new `directory`."""
    generator = torch.Generator().manual_seed(layers)
    full = LayerWidths(128, 8, 128, 128, 4096)
    source = WidthPlan(16384, 128256, False, False, False, (full,) * layers)
    shares = torch.rand(layers, 4, generator=generator).add(1).div(2).tolist()
    pruned = source.with_layers(
        LayerWidths(16 * (groups := round(8 * a)), groups, 8 * round(16 * b), 8 * round(16 * c), 32 * round(128 * d))
        for a, b, c, d in shares
    )
    scores = [
        LayerScores(*(torch.rand(*shape, generator=generator) ** 4 for shape in ((128,), (8, 128), (8, 64), (4096,))))
        for _ in range(layers)
    ]
    fits = [{name: Fit(1.0, 0.2 + index, 0.1 + index) for name in PROJECTIONS} for index in range(layers)]
    pictures = [
        width_section(pruned, source),
        sensitivity_section(torch.rand(layers, 2, generator=generator) + 1e-3),
        compensation_section(fits, {"divergence_before": 0.24, "divergence_after": 0.23}),
        *(salience_section(unit, scores, pruned, "a score") for unit in UNITS.values() if unit.figure),
    ]
    quantization = get_quantization("q4f16_0")
    report = {
        "model": NAME, "output": NAME, "ratio": costs.cut_ratio(pruned, source), "allocation": "budgeted",
        "notes": [f"a note on {NAME}", "compensated"], "quantization": quantization.name,
        "evaluation": {"windows": 16, "window": 512, "text": "demo:sotu"},
        "texts": [
            {"text": text, "kind": kind, "is_calibration": text == "demo:code", "source": 22.31, "pruned": perplexity}
            for (text, kind), perplexity in zip(REPORT_TEXTS.items(), (33.46, 29.1, 38.05), strict=True)
        ],
        "degenerate": {
            "source": CollapseFigures(share=0.0, questions=12, loop=0, copy=0, endless=0, empty=0),
            "pruned": CollapseFigures(share=5 / 12, questions=12, loop=3, copy=1, endless=0, empty=1),
        },
        "vocabulary": source.vocab_size,
        "models": {
            name: {
                "parameters": costs.parameters(plan),
                "attention_and_mlp_parameters": costs.prunable_parameters(plan),
                "weight_bytes": costs.weight_bytes(plan, quantization),
                "kv_bytes_per_token": costs.kv_bytes_per_token(plan, quantization),
                "kv_padding_bytes_per_token": costs.kv_padding_bytes_per_token(plan, quantization),
                "perplexity": perplexity,
            }
            for name, plan, perplexity in (("source", source, 22.31), ("pruned", pruned, 33.46))
        },
    }  # fmt: skip
    return _written(prune_page(report, pictures, ORIGIN), directory)


def rounded_page(directory: Path, layers: int) -> Path:
    """The page of a rounding with random errors: ``index.html`` in a new `directory`."""
    generator = torch.Generator().manual_seed(layers)
    roundings = ("nearest", "search", "best")

    def value() -> float:
        return torch.rand((), generator=generator).item() + 0.01

    def part(name: str, *matrices: str) -> Part:
        errors = {matrix: {each: MatrixError(value(), value()) for each in roundings} for matrix in matrices}
        return Part(name, errors, {each: value() for each in roundings})

    names = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    parts = [
        part("embedding", "model.embed_tokens"),
        *(part(f"layer {index}", *names) for index in range(layers)),
        part("lm_head", "lm_head"),
    ]
    divergence = {"kl_mean": 0.1, "kl_median": 0.07, "kl_p99": 0.69, "same_top": 0.795}
    report = {
        "model": NAME, "dist": NAME, "quantization": "q4f16_0", "rounding": "best", "weights_bytes": 75_700_000,
        "bits_per_parameter": 4.503,
        "evaluation": {"windows": 8, "window": 512, "text": "demo:sotu", "part_windows": 4, "part_window": 128},
        "models": {"unrounded": {"perplexity": 20.2}} | {name: {"perplexity": 22.2} | divergence for name in roundings},
    }  # fmt: skip
    return _written(build_page(report, parts, ORIGIN), directory)


def healed_page(directory: Path) -> Path:
    """The page of a long training with both curves: ``index.html`` in a new `directory`."""
    rows: list[dict[str, Any]] = [{"step": 0, "tokens": 0, "held_out_loss": 0.9}]
    for step in range(1, 1001):
        rows.append({"step": step, "tokens": 1024 * step, "loss": 0.5 + 0.4 / step + 0.1 * (step % 3)})
        if step % 125 == 0:
            rows.append({"step": step, "tokens": 1024 * step, "held_out_loss": 0.5 + 40 / (100 + step)})
            rows.append({"step": step, "tokens": 1024 * step, "perplexity": {"demo:sotu": 20 + 1000 / step}})
    report = {
        "source": NAME, "output": NAME, "tokens": 1_024_000, "held_out_loss_before": 0.9, "held_out_loss": 0.536,
        "perplexity": {"teacher": 22.31, "before": 33.46, "after": 27.1},
    }  # fmt: skip
    facts = {"learned from": NAME, "tokens": "1,024,000 in 1000 steps", "loss on held-out text": "0.9000 -> 0.5364"}
    return _written(heal_page(report, facts, rows, ORIGIN), directory)


def bench_page(directory: Path) -> Path:
    """The page of a bench of three models, one of them with a difficult name, with every picture."""
    records = bench_of({"dense": (1.98, 2.0, 2.04), "pruned": (0.98, 1.0, 1.01), NAME: (2.02, 1.96, 2.06)})
    perplexities = {"dense": 22.31, NAME: 33.46}
    write_report(records, directory, command="edge-transact bench", perplexities=perplexities)
    return directory / "index.html"


def comparison_page(directory: Path) -> Path:
    """The page of a comparison of two logs: a model that became slower, and one with a difficult name that didn't."""
    logs = [directory.with_name(f"{name}.jsonl") for name in ("before", "after")]
    for log, slowed in zip(logs, (1.0, 1.25), strict=True):
        write_log(log, bench_of({"dense": [0.99 * slowed, slowed, 1.01 * slowed], NAME: (1.02, 0.97, 1.03)}))
    pairs = paired(*logs)
    names = logs[0].name, logs[1].name
    write_comparison(pairs, compare(pairs), directory, names=names, command="edge-transact bench compare")
    return directory / "index.html"


def eval_page(directory: Path) -> Path:
    """The page of an evaluation of three models on many tasks, with every picture and every answer."""
    results = []
    for index, name in enumerate(("dense", "pruned", NAME)):
        right = [(number + index) % (index + 2) == 0 for number in range(len(QUESTIONS))]
        rows = [
            AnswerRow(
                kind=question.kind, question=question.text, answer=f"{NAME} again and again" if index else "Paris",
                right=is_right, degenerate="loop" if index else None, tokens=9, ended=True,
            )
            for question, is_right in zip(QUESTIONS, right, strict=True)
        ]  # fmt: skip
        tasks = {task: {"acc": 0.9 - 0.2 * index, "acc_stderr": 0.02} for task in PAPER_TASKS}
        tasks["wikitext"] = {"word_perplexity": 20.0 + 1234 * index}
        results.append(
            Evaluation(
                model=name, text="demo:sotu", perplexity=20.2 + 10 * index, tokens=4096, windows=8, window=512,
                text_tokens=5000, text_sha256="0" * 64, weights_bytes=10**8, tasks={"basics": scores(rows)} | tasks,
                degenerate=figures_of(rows), answers=rows,
            )
        )  # fmt: skip
    write_eval_report(results, directory, f'edge-transact eval "{NAME}"')
    return directory / "index.html"


def _written(page: Report, directory: Path) -> Path:
    directory.mkdir()
    page.write(directory, {})
    return directory / "index.html"
