"""The stages as functions: what ``import edge_transact as et`` offers. torch and TVM load when one needs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from edge_transact.benchmarking.options import BenchOptions
from edge_transact.building.options import BuildOptions, check_pruning
from edge_transact.bundling.options import BundleOptions
from edge_transact.errors import UsageError, did_you_mean
from edge_transact.evaluation.options import EvalOptions
from edge_transact.exporting.options import ExportOptions
from edge_transact.healing.options import HealOptions
from edge_transact.inspection import InspectOptions
from edge_transact.options import Options
from edge_transact.options.keywords import keywords, part
from edge_transact.planning.options import PlanOptions
from edge_transact.profiling.options import ProfileOptions
from edge_transact.pruning.options import Budget, PruneChoices, PruneOptions, ShotTraining

if TYPE_CHECKING:
    from edge_transact.benchmarking.session import BenchOutcome
    from edge_transact.building.dist import Build
    from edge_transact.bundling.project import Project
    from edge_transact.checkpoint import Checkpoint
    from edge_transact.evaluation.report import Evaluations
    from edge_transact.exporting.gguf import Export
    from edge_transact.healing.run import HealResult
    from edge_transact.inspection import Inspection
    from edge_transact.planning.run import Planned
    from edge_transact.profiling.run import Profiled
    from edge_transact.pruning.run import PruneResult
    from edge_transact.runtime.session import Session

_SESSION = ("max_tokens", "temperature", "top_p", "seed", "system", "threads", "raw", "thinking")


class _Run(Options):
    fresh: Annotated[bool, Field(description="Start over instead of resuming an interrupted run.")] = False


class _Writing(Options):
    force: Annotated[bool, Field(description="Replace `output` if it exists.")] = False


class _Reporting(_Run):
    report: Annotated[
        Path | None, Field(strict=False, description="Directory for a page with figures, and what `--report` writes.")
    ] = None


class _Pruning(_Run, _Writing):
    budget: Annotated[Budget | None, Field(description="How small, as an object instead of keywords.")] = None

    @model_validator(mode="before")
    @classmethod
    def _fields_of_budget(cls, given: dict[str, Any]) -> dict[str, Any]:
        budget = given.get("budget")
        return {**budget.model_dump(exclude_unset=True), **given} if isinstance(budget, Budget) else given


class _Prune(_Pruning, PruneOptions, ShotTraining):
    pass


class _Heal(_Reporting, _Writing, HealOptions):
    pass


class _Build(_Pruning, _Reporting, PruneChoices, BuildOptions):
    pass


class _Bench(_Reporting, BenchOptions):
    pass


class _Profile(_Run, _Writing, ProfileOptions):
    pass


class _Evaluate(_Run, EvalOptions):
    pass


class _Export(_Writing, ExportOptions):
    pass


class _Bundle(_Writing, BundleOptions):
    pass


@keywords(PlanOptions)
def plan(*models: str | Path, options: PlanOptions) -> Planned:
    """Compares what could be made of models for a budget, and recommends one candidate.

    ``et.plan("demo:smollm2", memory="125MB", phone="galaxy-s23").recommended.ratio``

    Args:
        models: Checkpoints, hub ids, GGUF files or demo models.

    Raises:
        UsageError: Nothing is within the limits, or a profile is of another model, quantization or device.
        EdgeTransactError: There is no such model.
    """
    from edge_transact.planning.run import plan_models

    return plan_models([str(model) for model in models], options)


@keywords(_Prune)
def prune(model: str | Path, output: str | Path, options: _Prune) -> PruneResult:
    """Prunes a model to a budget and writes the smaller checkpoint.

    ``et.prune("demo:smollm2", "small", ratio=0.3)``

    Args:
        model: A checkpoint directory, a hub id, a GGUF file or a demo model.
        output: The directory to write.

    Raises:
        UsageError: There is no budget, it is beyond this model, or options contradict each other.
        EdgeTransactError: The model or the text can't be read or used, or `output` exists.
    """
    from edge_transact.pruning.run import prune
    from edge_transact.pruning.shots import ShotTrainer

    training = part(options, ShotTraining)
    return prune(
        str(model),
        Path(output),
        part(options, PruneOptions),
        ShotTrainer(training, str(model)) if training.train else None,
        fresh=options.fresh,
        force=options.force,
    )


@keywords(_Heal)
def heal(model: str | Path, output: str | Path, options: _Heal) -> HealResult:
    """Trains a pruned model to predict again what the model predicts that it was pruned from.

    ``et.heal("small", "healed", train_tokens=65536)``

    Args:
        model: A checkpoint directory that `prune` or `heal` wrote, or another model with a `teacher`.
        output: The directory to write.

    Raises:
        UsageError: There is no teacher, or options contradict the model.
        EdgeTransactError: The model or the text can't be read or used, the loss became NaN, or `output` exists.
    """
    from edge_transact.evaluation.models import prepare_report
    from edge_transact.healing.report import write_report
    from edge_transact.healing.run import heal

    report, force = options.report, options.force
    text = prepare_report(report, force=force, apart_from=[output, model]) if report else ""
    return heal(
        str(model),
        Path(output),
        part(options, HealOptions),
        fresh=options.fresh,
        force=force,
        finish=None if report is None else lambda done: write_report(done, report, text, force=force),
    )


@keywords(_Build)
def build(model: str | Path, output: str | Path, options: _Build) -> Build:
    """Makes a DIST: 4-bit weights, and a library for each target, compared with torch.

    ``et.build("small", "dist", target="host")``

    With a budget, the model is pruned first.

    Args:
        model: A checkpoint directory, a hub id, a GGUF file or a demo model.
        output: The directory to write.

    Raises:
        UsageError: Options contradict each other or the model, or prune without a budget.
        EdgeTransactError: The model can't be read, `output` exists, or a library can't be made or differs from torch.
    """
    from edge_transact.building.dist import build

    pruning = part(options, PruneChoices)
    check_pruning({name: getattr(pruning, name) for name in pruning.model_fields_set}, options.rounding)
    return build(
        str(model),
        Path(output),
        part(options, BuildOptions),
        pruning=pruning,
        report=options.report,
        fresh=options.fresh,
        force=options.force,
    )


@keywords(_Bench)
def bench(dists: str | Path | Sequence[str | Path], output: str | Path, options: _Bench) -> BenchOutcome:
    """Measures DISTs on this host or on phones: latency, memory, temperature and energy.

    ``et.bench(["dense", "dist"], "bench.jsonl", repetitions=10)``

    Args:
        dists: A directory that `build` wrote, or several.
        output: The log, a JSONL file. A second run measures only what it lacks.

    Raises:
        UsageError: The options make no sense.
        EdgeTransactError: There is no device or no library, or the log is another file.
    """
    from edge_transact.benchmarking.session import bench_models

    return bench_models(
        _paths(dists), part(options, BenchOptions), log=Path(output), report=options.report, fresh=options.fresh
    )


@keywords(_Profile)
def profile(model: str | Path, output: str | Path, options: _Profile) -> Profiled:
    """Measures the kernels of a model's shape on a device, over widths and contexts, or computes a roofline.

    ``et.profile("demo:smollm2", "host.json").profile.decode_s(plan, 1024)``

    Args:
        model: A checkpoint directory, a hub id, a GGUF file, a demo model, or a directory that `build` wrote.
        output: The JSON file to write. Repetitions are logged beside it, and a second run goes on from there.

    Raises:
        UsageError: Options contradict each other, or a context is beyond the model's.
        EdgeTransactError: The model can't be read, `output` exists, or the device can't be reached.
    """
    from edge_transact.profiling.run import profile

    own = part(options, ProfileOptions)
    return profile(str(model), Path(output), own, fresh=options.fresh, force=options.force)


@keywords(_Evaluate)
def evaluate(*models: str | Path, options: _Evaluate) -> Evaluations:
    """Measures the perplexity of models on a text, and their scores on tasks: a dict for each model.

    ``et.evaluate("demo:smollm2", "small", "dist", max_windows=16)``

    Args:
        models: Checkpoints, hub ids, GGUF files, demo models, or directories that `build` wrote.

    Raises:
        EdgeTransactError: A model, the text or a task can't be read, or the text is shorter than a window.
    """
    from edge_transact.evaluation.models import evaluate_models, window_of
    from edge_transact.evaluation.report import Evaluations

    names = [str(model) for model in models]
    window = window_of([*names, *filter(None, [options.reference])], options.window)
    return Evaluations(evaluate_models(names, options, window, tasks=options.load_tasks(), fresh=options.fresh))


@keywords(InspectOptions)
def inspect(model: str | Path, options: InspectOptions) -> Inspection:
    """Widths, parameters, FLOPs, KV cache and memory of a model, from its configuration alone.

    ``et.inspect("demo:smollm2").to_dict()["memory_bytes"]``

    Args:
        model: A checkpoint directory, a hub id, a GGUF file, a demo model, or a directory that `build` wrote.

    Raises:
        UsageError: `quant` isn't that of the DIST.
        EdgeTransactError: There is no such model.
    """
    from edge_transact.inspection import inspect_model

    return inspect_model(str(model), options)


def load(model: str | Path, **options: Any) -> Session | Checkpoint:
    """Opens what was built, to talk to it, or a checkpoint, to look at it.

    ``for piece in et.load("dist").stream("Say hello."): print(piece, end="")``

    Args:
        model: A directory that `build` wrote for this host, or any model that `inspect` reads.
        options: Of a `Session`: ``max_tokens``, ``temperature``, ``top_p``, ``seed``, ``system``, ``threads``, ``raw``,
            ``thinking``.

    Raises:
        UsageError: There are options and the model is no DIST, or an option is unknown.
        EdgeTransactError: There is no such model, or the DIST has no library for this host.
    """
    from edge_transact.artifacts.dist_files import MANIFEST

    if (Path(model) / MANIFEST).is_file():
        from edge_transact.runtime.session import Session

        if unknown := options.keys() - set(_SESSION):
            raise UsageError(f"there is no option {min(unknown)!r}", fix=did_you_mean(min(unknown), _SESSION))
        return Session.load(Path(model), **options)
    if options:
        raise UsageError(
            f"{', '.join(options)}: {model} is a checkpoint, and only a DIST is asked", fix="Build it first."
        )
    from edge_transact.checkpoint import Checkpoint
    from edge_transact.inputs import resolve_model

    return Checkpoint.open(resolve_model(str(model)))


@keywords(_Export)
def export(model: str | Path, output: str | Path, options: _Export) -> Export:
    """Writes a GGUF file for llama.cpp.

    ``et.export("dist", "small.gguf")``

    Args:
        model: A model, or a directory that `build` wrote.
        output: The file to write.

    Raises:
        UsageError: `kind` isn't what the DIST has.
        EdgeTransactError: The model can't be read, `output` exists, or the model doesn't fit `kind`.
    """
    from edge_transact.exporting.gguf import export_gguf

    return export_gguf(str(model), Path(output), kind=options.kind, pre=options.pre, force=options.force)


@keywords(_Bundle)
def bundle(dists: str | Path | Sequence[str | Path], output: str | Path, options: _Bundle) -> Project:
    """Writes an Android Studio project with models in it: a library module to build on, and a chat app.

    ``et.bundle("dist", "app", app_name="My Notes")``

    Args:
        dists: A directory that `build` wrote for Android, or several.
        output: The project's directory.

    Raises:
        UsageError: A name isn't one, two models have the same library, or a DIST has none for Android.
        EdgeTransactError: A file of a DIST changed after the build, or `output` exists.
    """
    from edge_transact.bundling.project import bundle

    return bundle(_paths(dists), Path(output), **options.model_dump())


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]
