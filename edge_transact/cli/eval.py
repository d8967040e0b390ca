"""``edge-transact eval``: perplexity and task scores of models and built libraries."""

from __future__ import annotations

import logging
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_transact import progress
from edge_transact.cli import common
from edge_transact.cli.history import LOADING, History
from edge_transact.evaluation.options import EvalOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_transact.evaluation.models import Evaluation

logger = logging.getLogger(__name__)


@common.guarded
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL|DIST...", help="Checkpoints, hub ids, GGUF files, demo: names, or DISTs."),
    ],
    options: EvalOptions,
    report: Annotated[
        Path | None,
        common.RUN_OPTION(metavar="DIR", help="Write a page with models and answers side by side, and report.json."),
    ] = None,
    fresh: common.FreshOption = False,
    force: Annotated[bool, common.RUN_OPTION("--force", help="Replace a report that exists.")] = False,
    dry_run: common.DryRunOption = False,
    as_json: common.JsonOption = False,
) -> None:
    """Measure the perplexity and task scores of models: dense, pruned or built.

    A DIST is measured through its host library, with its quantization. Results are comparable if the text, the
    tokenizer, the window and the number of windows are the same; the text's sha256 and token count are printed.
    `--reference` compares predictions one by one, which shows the effect of pruning or quantization with less noise
    than perplexity. Chat models are also asked twelve short questions as a sanity check.

    **Examples**

    `edge-transact eval demo:smollm2 --text demo:sotu --max-windows 64`

    `edge-transact eval demo:smollm2 pruned dist --max-windows 16 --json`

    `edge-transact eval pruned dist --reference demo:smollm2 --max-windows 16`

    `edge-transact eval demo:smollm2 pruned --max-windows 16 --tasks basics --report evaluation`

    `edge-transact eval pruned dist --max-windows 16 --tasks arc_easy,piqa --limit 100`
    """
    from edge_transact.artifacts.outputs import refuse_existing
    from edge_transact.evaluation.answers.collapse import warning
    from edge_transact.evaluation.models import is_dist, window_of
    from edge_transact.evaluation.report import write_report
    from edge_transact.evaluation.requirements import plans_of, requirements

    if report:
        refuse_existing(report, force, apart_from=[*models, options.reference])
    # Before a model is loaded: a task may not exist.
    tasks = options.load_tasks(data=not dry_run)
    named = [*models, *([options.reference] if options.reference else [])]
    history = History("eval", named, [options])
    # Tasks come with bars of their own.
    with nullcontext() if tasks else history.running(keep=not dry_run):
        with progress.working(common.PLANNING):
            plans, window = plans_of(named), window_of(named, options.window)
        with progress.working(LOADING):
            import torch  # noqa: F401

            from edge_transact.evaluation.models import evaluate_models

            if any(not is_dist(name) for name in plans):
                import transformers.models.llama.modeling_llama  # noqa: F401  # or else the first model's step has it

        required = requirements(plans, models, options, window)
        if not dry_run:
            without = f", without {', '.join(options.lm_eval_tasks)}" if tasks else ""
            logger.info(common.described(required, history) + without)
            results = evaluate_models(models, options, window, tasks=tasks, fresh=fresh)
    if dry_run:
        common.show_requirements(required, history, as_json)
        return
    for name, result in zip(models, results, strict=True):
        if "degenerate" in result and (words := warning(name, result["degenerate"])):
            logger.warning(words)

    values: dict[str, Any] = dict(results[0]) if len(results) == 1 else {"models": results}
    common.show(values | ({"report": str(report)} if report else {}), as_json, lambda: _print(results))
    if report:
        # The figures are printed first: they took longer than the page.
        write_report(results, report, shlex.join(["edge-transact", *sys.argv[1:]]), force=force)
        logger.info(f"page: {report / 'index.html'}")


def _print(results: Sequence[Evaluation]) -> None:
    from rich.console import Console
    from rich.table import Table

    from edge_transact.evaluation.report import names, rows
    from edge_transact.system.clock import process_s

    table = Table("", *names(results))
    for row in rows(results):
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    first = results[0]
    tokens = ", ".join(dict.fromkeys(f"{result['text_tokens']:,}" for result in results))
    threads = ", ".join(dict.fromkeys(str(result["threads"]) for result in results))
    console.print(
        f"{first['text']}, sha256 {first['text_sha256']}, {tokens} tokens: {first['windows']} windows of "
        f"{first['window']} tokens, in {process_s():.0f} s; threads: {threads}",
        soft_wrap=True,
    )
