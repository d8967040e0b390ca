"""``edge-transact prune``: a smaller checkpoint of a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from edge_transact import progress
from edge_transact.cli import common
from edge_transact.cli.history import LOADING, History
from edge_transact.pruning.options import PruneOptions, ShotTraining

logger = logging.getLogger(__name__)


@common.guarded
def prune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint directory, a hub id, a GGUF file or a demo: name.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint directory to write.")],
    options: PruneOptions,
    training: Annotated[ShotTraining, "Training after each shot"],
    report: Annotated[
        Path | None, common.RUN_OPTION(metavar="DIR", help="Write figures, a page and report.json into this directory.")
    ] = None,
    resume: common.ResumeOption = False,
    fresh: common.FreshOption = False,
    force: common.ForceOption = False,
    dry_run: common.DryRunOption = False,
    as_json: common.JsonOption = False,
) -> None:
    """Make a model smaller by removing KV groups, dims inside heads and MLP dims.

    The default method `obs` predicts the loss that each unit's removal costs, cuts where it is least, and solves
    `o_proj` and `down_proj` again to compensate. The other methods are published ones and cut every layer alike:
    `transact` keeps the largest activations. Query heads are cut with the KV head they share.

    With `--train`, the model is distilled from MODEL after each of `--shots`. Later shots get more of
    `--train-tokens` and higher rates: 2 i / K times `--learning-rate` in shot i of K.

    Finally, chat models are asked twelve short questions as a sanity check. After an interrupt, the same command
    resumes; `cache` lists what is kept for that.

    **Examples**

    `edge-transact prune demo:smollm2 --ratio 0.3 -o pruned`

    `edge-transact prune demo:smollm2 --max-weight-bytes 60MB --max-kv-bytes-per-token 16k -o pruned`

    `edge-transact prune demo:smollm2 --target-params 100M --method transact --shots 8 -o pruned`

    `edge-transact prune demo:smollm2 --ratio 0.3 --shots 4 --train demo:mixed --train-tokens 100000 -o pruned`

    `edge-transact prune demo:smollm2 --heads 6 --intermediate 1024 -o pruned`

    `edge-transact prune model.gguf --widths widths.json --calibration notes.txt -o pruned --json | jq .ratio`
    """
    history = History("prune", [model], [options, training], output=output, report=report is not None)
    with history.running(keep=not dry_run):
        with progress.working(LOADING):
            from edge_transact.artifacts.outputs import refuse_existing
            from edge_transact.checkpoint import Checkpoint
            from edge_transact.evaluation.answers.collapse import RECIPE
            from edge_transact.evaluation.requirements import asked, gate, with_gate
            from edge_transact.healing.requirements import check_texts
            from edge_transact.inputs.models import resolve_model
            from edge_transact.layerwise.windows import check_calibration
            from edge_transact.pruning.report import report_texts, write_report
            from edge_transact.pruning.requirements import requirements, target_of
            from edge_transact.pruning.run import decided
            from edge_transact.pruning.run import prune as prune_model
            from edge_transact.pruning.shots import ShotTrainer, shot_trainings
            from edge_transact.quantization import get_quantization
            from edge_transact.runtimes import offer

        with progress.working(common.PLANNING):
            if report is None:  # an interrupted run may have written it, and its report is still to be made
                refuse_existing(output, force, apart_from=[model])
            if report:
                refuse_existing(report, force, apart_from=[output, model])
                texts = report_texts()
            source = Checkpoint.open(resolve_model(model))
            required = requirements(source, options, training, report_of=output.name if report else None)
            if dry_run:  # the run finds out when it reads them
                check_calibration(source, options)
                for each in shot_trainings(training, 1, str(source.path), options.seed):
                    check_texts(source, each)
            chosen = decided(options, source)
            required = with_gate(required, source.path, source.plan, source.path, output)
        if not dry_run:
            logger.info(common.described(required, history))
            if not options.runtime:
                logger.info(offer(source.plan))
            result = prune_model(
                model,
                output,
                options,
                ShotTrainer(training, model) if training.train else None,
                resume=resume,
                fresh=fresh,
                force=force,
                finish=None if report is None else lambda done: write_report(done, report, texts, force=force),
            )
            degenerate = gate(output, source.path) if result.is_main else None
            before = asked(source.path) if degenerate else None
    if dry_run:
        target = target_of(source.plan, chosen)
        facts = target.facts if options.runtime else target.facts | {"runtimes": offer(source.plan)}
        common.show_requirements(required, history, as_json, facts, target.values)
    elif result.is_main:
        rounded = f" --quant {options.quant}" if get_quantization(options.quant).bits else ""
        following = f"edge-transact heal {output} {RECIPE}{rounded} -o {output}-healed"
        common.show_checkpoint(output, result, degenerate, report, as_json, following, before)
