"""``edge-transact build``: a DIST of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_transact import progress
from edge_transact.building.options import BuildOptions
from edge_transact.cli import common
from edge_transact.cli.history import LOADING, History
from edge_transact.planning.expected import read_expected
from edge_transact.project import FILE, Project, given_in, read_project
from edge_transact.pruning.options import PruneChoices

logger = logging.getLogger(__name__)


@common.guarded
def build(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A checkpoint directory, a hub id, a GGUF file or a demo: name.",
            show_default=f"from {FILE}",
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIST", help="Directory to make.", show_default=f"from {FILE}, or dist"),
    ] = None,
    options: BuildOptions,
    pruning: Annotated[PruneChoices, "Prune first"],
    report: Annotated[
        Path | None,
        common.RUN_OPTION(
            metavar="DIR", help="Write what rounding to 4 bits costs into DIR: figures, a page and report.json."
        ),
    ] = None,
    expect: common.ExpectOption = None,
    fresh: common.FreshOption = False,
    force: common.ForceOption = False,
    dry_run: common.DryRunOption = False,
    as_json: common.JsonOption = False,
) -> None:
    """Quantize a model and compile its libraries, for `run`, for MLC-LLM's engine and for apps.

    Before anything is written, the libraries are compared with torch on the quantized weights. With a budget
    (`--ratio`, another limit, `--widths`, or `--heads` and `--intermediate`) the model is pruned first; a section
    `[heal]` of `edge-transact.toml` trains it after that. Finally, chat models that can run on this host are asked
    twelve short questions as a sanity check.

    Without MODEL, the options come from `edge-transact.toml` in the working directory; options on the command line
    override it. Stages that have not changed come from the cache, also with `--force`, which replaces the directory;
    `--no-cache` runs all of them again. After an interrupt, the same command resumes, also inside pruning and rounding.

    **Examples**

    `edge-transact build demo:smollm2 --target host -o dist`

    `edge-transact build demo:smollm2 --ratio 0.3 --target android,host --context 1024 -o dist`

    `edge-transact init demo:smollm2 && edge-transact build --target android`

    `edge-transact build model.gguf --target android,host -o dist --json | jq .libraries`
    """
    asked = {"model": model, "output": None if output is None else str(output)}
    planned = read_expected(expect) if expect else None
    project = _project(asked | given_in(options) | given_in(pruning))
    chosen = [each for each in (project.build, project.prune, project.heal) if each]
    history = History("build", [project.model], chosen, output=Path(project.output), report=report is not None)
    with history.running(keep=not dry_run):
        with progress.working(LOADING):
            from edge_transact.artifacts.outputs import refuse_existing
            from edge_transact.building.dist import build as build_dist
            from edge_transact.building.requirements import has_library, requirements
            from edge_transact.checkpoint import Checkpoint
            from edge_transact.evaluation.requirements import gate, with_gate
            from edge_transact.inputs.models import resolve_model
            from edge_transact.layerwise.windows import check_calibration
            from edge_transact.system.clock import process_s

        with progress.working(common.PLANNING):
            refuse_existing(Path(project.output), force, apart_from=[project.model])
            source = Checkpoint.open(resolve_model(project.model))
            required = requirements(source, project.build, project.prune, project.heal)
            if dry_run and project.prune and project.prune.budgets():
                check_calibration(source, project.prune)
            runs_here = has_library(project.build)
            if runs_here:
                required = with_gate(required, source.path, source.plan, project.output, in_library=True)
        if not dry_run:
            logger.info(common.described(required, history))
            made = build_dist(
                project.model,
                Path(project.output),
                project.build,
                pruning=project.prune,
                healing=project.heal,
                report=report,
                fresh=fresh,
                force=force,
            )
            degenerate = gate(made.directory) if runs_here else None
            if planned:
                planned.compare_build(made.manifest.quantization, made.manifest.weights_bytes)
    if dry_run:
        common.show_requirements(required, history, as_json)
        return
    values = made.to_dict() | {"seconds": process_s()} | ({"degenerate": degenerate} if degenerate else {})
    following = f'edge-transact run {made.directory} --prompt "Hello"' if runs_here else None
    title = f"{made.directory} in {values['seconds']:.0f} s"
    common.show_written(title, made.summary().facts, values, as_json, following)


def _project(given: Mapping[str, Any]) -> Project:
    """What to build: the options that were given over ``edge-transact.toml``, or the options alone with a model."""
    from edge_transact.errors import UsageError

    if given.get("model") is not None:
        return Project(model=given["model"]).overridden(given)
    if not Path(FILE).exists():
        raise UsageError(
            f"no MODEL, and no {FILE} in the working directory",
            fix="Give a model, such as the demo's: edge-transact build demo:smollm2 -o dist. Or write the file: "
            "edge-transact init demo:smollm2",
        )
    project = read_project(Path(FILE)).overridden(given)
    logger.info(f"{FILE}: {project.model} for {', '.join(project.build.target)}")
    return project
