"""``edge-transact heal``: recovery training of a pruned checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from edge_transact import progress
from edge_transact.cli import common
from edge_transact.cli.history import LOADING, History
from edge_transact.healing.options import HealOptions

logger = logging.getLogger(__name__)


@common.guarded
def heal(
    model: Annotated[
        str, typer.Argument(metavar="DIR", help="A checkpoint that prune or heal wrote, or another with --teacher.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint directory to write.")],
    options: HealOptions,
    report: Annotated[
        Path | None, common.RUN_OPTION(metavar="DIR", help="Write the loss curve, metrics.jsonl and a page here.")
    ] = None,
    resume: common.ResumeOption = False,
    fresh: common.FreshOption = False,
    force: common.ForceOption = False,
    dry_run: common.DryRunOption = False,
    as_json: common.JsonOption = False,
) -> None:
    """Recover a pruned model's quality by distillation from the model that it was pruned from.

    AdamW on all parameters, with warm-up and cosine decay. The step that is best on held-out text is kept, and training
    stops when it gets worse. Finally, chat models are asked twelve short questions as a sanity check. Memory: 16 bytes
    a parameter, 20 with `--quant`, and the activations of `--micro-batch-tokens` tokens; `--dry-run` adds it up.
    With `--lora`, the weights stay in their files, as the teacher's do.

    After an interrupt, the same command resumes. `accelerate launch -m edge_transact heal ...` and
    `torchrun -m edge_transact heal ...` train with several processes.

    **Examples**

    `edge-transact heal pruned --train-tokens 65536 -o healed`

    `edge-transact heal pruned --train notes.txt --train demo:sotu --learning-rate 1e-4 --report report -o healed`

    `edge-transact heal pruned --lora 16 --gradient-checkpointing --dry-run -o healed`
    """
    history = History("heal", [model], [options], output=output, report=report is not None)
    with history.running(keep=not dry_run):
        with progress.working(LOADING):
            from edge_transact.artifacts.outputs import refuse_existing
            from edge_transact.checkpoint import Checkpoint
            from edge_transact.evaluation.models import prepare_report
            from edge_transact.evaluation.requirements import gate, with_gate
            from edge_transact.healing.report import write_report
            from edge_transact.healing.requirements import check_texts, requirements
            from edge_transact.healing.run import heal as heal_model
            from edge_transact.healing.run import teacher_of
            from edge_transact.inputs.models import resolve_model

        with progress.working(common.PLANNING):
            refuse_existing(output, force, apart_from=[model, options.teacher])
            text_of_report = ""
            if report is not None:
                text_of_report = prepare_report(report, force=force, apart_from=[output, model, options.teacher])
            source = Checkpoint.open(resolve_model(model))
            if dry_run:  # the run finds out when it reads them
                check_texts(source, options)
            required = requirements(
                source, teacher_of(source, options, model)[0], options, report_of=output.name if report else None
            )
            required = with_gate(required, source.path, source.plan, output)
        if not dry_run:
            logger.info(common.described(required, history))
            result = heal_model(
                model,
                output,
                options,
                resume=resume,
                fresh=fresh,
                force=force,
                finish=None if report is None else lambda done: write_report(done, report, text_of_report, force=force),
            )
            degenerate = gate(output) if result.is_main else None
    if dry_run:
        common.show_requirements(required, history, as_json)
    elif result.is_main:
        following = f"edge-transact eval {model} {output} --max-windows 16"
        common.show_checkpoint(output, result, degenerate, report, as_json, following)
