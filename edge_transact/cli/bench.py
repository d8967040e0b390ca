"""``edge-transact bench``: latency, memory, temperature and energy of DISTs on phones or this host."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_transact.benchmarking.options import BenchOptions
from edge_transact.cli.common import ExpectOption, FreshOption, JsonOption, guarded, show
from edge_transact.errors import UsageError
from edge_transact.options.command_line import completion, refuse_others
from edge_transact.planning.expected import read_expected

if TYPE_CHECKING:
    from edge_transact.benchmarking.analysis.results import Result

logger = logging.getLogger(__name__)

DEFAULT_LOG = "edge-transact-bench.jsonl"

RESULT = partial(typer.Option, rich_help_panel="Results")


@guarded
def bench(
    context_of_command: typer.Context,
    dists: Annotated[
        list[str],
        typer.Argument(
            metavar="DIST|MODEL ...", help="Directories that `build` wrote, models to build first, or `compare A B`."
        ),
    ],
    options: BenchOptions,
    output: Annotated[Path, RESULT("--output", "-o", help="The log, with a line per repetition.")] = Path(DEFAULT_LOG),
    resume: Annotated[bool, RESULT("--resume", help="Fail if there is no log to go on with.")] = False,
    fresh: FreshOption = False,
    format: Annotated[
        str | None,
        RESULT(
            help="md, csv, json, jsonl or sqlite.",
            show_default="md; on a terminal, a short table",
            autocompletion=completion(("md", "csv", "json", "jsonl", "sqlite")),
        ),
    ] = None,
    report: Annotated[Path | None, RESULT(help="Write figures and a page into this directory.")] = None,
    evidence: Annotated[
        Path | None,
        RESULT(metavar="FILE.zip", help="Write log, report, device and digests into one file."),
    ] = None,
    perplexity: Annotated[
        list[str] | None, RESULT(metavar="NAME=VALUE", help="A model's perplexity, for the report. Can be repeated.")
    ] = None,
    with_llama_cpp: Annotated[
        Path | None,
        typer.Option(
            "--with-llama-cpp",
            metavar="PATH",
            help="A llama-bench built for the phone, to run in turns on the same model.",
        ),
    ] = None,
    expect: ExpectOption = None,
    clean: Annotated[bool, typer.Option("--clean", help="Remove the models from the phone at the end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be measured.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure latency and memory of models on phones or on this host.

    Every repetition prefills a prompt and decodes an answer as an engine would. Models take turns in each round, every
    second round backwards, and the others are compared with the first. Every finished repetition is in the log at once,
    and the same command again measures only what the log lacks. `--fresh` keeps the log aside and measures all of it.

    A MODEL is built first, for a phone's CPU unless `--target` says otherwise, and kept in the cache.

    **Examples**

    `edge-transact bench dist`

    `edge-transact bench demo:smollm2 --device SERIAL --report report`

    `edge-transact bench dense pruned --device all --report report`

    `edge-transact bench dist --until 3%`

    `edge-transact bench dist --device SERIAL --sustained 10m --report report`

    `edge-transact bench dist --device SERIAL --tune`

    `edge-transact bench dist --device all --evidence pixel.zip`

    `edge-transact bench compare before.jsonl after.jsonl --report report`
    """
    if dists[0] == "compare":
        refuse_others(context_of_command, "bench compare", ("dists", "report", "as_json"))
        _compare(dists[1:], report, as_json)
        return
    perplexities = _perplexities(perplexity or [])
    if report is None and perplexities:
        raise UsageError("--perplexity is for a report", fix="Add --report DIR.")
    planned = read_expected(expect) if expect else None
    from edge_transact.benchmarking.analysis.export import to_text
    from edge_transact.benchmarking.analysis.sustained import summarized
    from edge_transact.benchmarking.session import bench_models, plan_bench
    from edge_transact.building.kept import is_model

    if dry_run:
        words, builds = [Path(word) for word in dists], [word for word in dists if is_model(word)]
        plan = plan_bench(words, options, log=output, fresh=fresh, llama_cpp=with_llama_cpp, builds=builds)
        candidates = [f"  {name}" for name in plan.models if options.tune]
        show({"plan": asdict(plan)}, as_json, lambda: _write("\n".join([plan.line(), *candidates, ""])))
        return
    paths = _dists(dists, options)
    with ExitStack() as stack:
        ggufs = stack.enter_context(_exported(paths)) if with_llama_cpp else []
        outcome = bench_models(
            paths,
            options,
            log=output,
            resume=resume,
            fresh=fresh,
            format=format or "md",
            report=report,
            perplexities=perplexities,
            clean=clean,
            evidence=evidence,
            llama_cpp=with_llama_cpp,
            ggufs=ggufs,
        )
    result = {
        "results": outcome.results,
        "sustained": outcome.sustained,
        "failures": outcome.failures,
        "log": str(output),
        "page": outcome.page and str(outcome.page),
        **({"tuning": outcome.tuning.to_dict()} if outcome.tuning else {}),
    }

    def text() -> None:
        if options.sustained_s is not None:
            table = summarized(str(output), outcome.sustained, {}).text() + "\n"
            _write(table if format in (None, "md", "sqlite") else to_text(outcome.sustained, format))
        elif format is None and sys.stdout.isatty():
            _print(outcome.results)
        elif format != "sqlite":
            _write(to_text(outcome.results, format or "md"))

    show(result, as_json, text)
    if planned:
        planned.compare_bench(outcome.results)
    logger.info(f"log: {output}")
    if outcome.page:
        logger.info(f"page: {outcome.page}")
    outcome.require()


def _dists(words: list[str], options: BenchOptions) -> list[Path]:
    """The DISTs to measure. MODELs are built or taken from the cache, once a phone and its runner are sure."""
    from edge_transact.building.kept import is_model, kept_dist

    target = "host" if options.device == "host" else options.target or "android-cpu"
    if target != "host" and any(map(is_model, words)):
        from edge_transact.benchmarking.session import require_phone

        require_phone(options, target)
    return [kept_dist(word, target) if is_model(word) else Path(word) for word in words]


@contextmanager
def _exported(dists: Sequence[Path]) -> Iterator[list[Path]]:
    """The DISTs as GGUF files, for as long as they are measured."""
    from edge_transact.artifacts.outputs import scratch_directory
    from edge_transact.exporting.gguf import export_gguf

    with scratch_directory() as directory:
        files = [directory / f"{index}.gguf" for index in range(len(dists))]
        for dist, file in zip(dists, files, strict=True):
            export_gguf(str(dist), file, tokenizer=False)
        yield files


def _print(results: Sequence[Result]) -> None:
    """Prints the most important columns of the results, 80 characters wide."""
    from rich.console import Console
    from rich.table import Table

    from edge_transact.benchmarking.analysis.export import NARROW, columns, notes, sentence
    from edge_transact.benchmarking.records.plan import lengths_of

    console = Console(highlight=False, markup=False, emoji=False)
    devices = {result["device"] for result in results}
    threads = ", ".join(str(each) for each in sorted({result["n_threads"] or 0 for result in results}) if each)
    title = None if len(devices) > 1 else "".join(devices) + (f"; threads: {threads}" if threads else "")
    cells = columns(results, NARROW)
    table = Table(*cells, title=title)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*row)
    console.print(table)
    for result in results:
        if said := sentence(result):
            console.print(said)
    for result in results:
        for note in notes(result):
            console.print(f"{result['model']} at {lengths_of(result)} tokens on {result['device']}: {note}")


def _perplexities(words: list[str]) -> dict[str, float]:
    values = {}
    for word in words:
        name, _, number = word.rpartition("=")
        value = math.nan
        with suppress(ValueError):
            value = float(number)
        if not name or not 0 < value < math.inf:
            raise UsageError(f"--perplexity {word!r} is not NAME=VALUE", fix="Write it as pruned=29.4.")
        values[name] = value
    return values


def _compare(paths: list[str], report: Path | None, as_json: bool) -> None:
    from edge_transact.artifacts.outputs import refuse_existing
    from edge_transact.benchmarking.analysis.compare import compare, paired, to_markdown

    if len(paths) != 2:
        raise UsageError(f"compare wants two logs, got {len(paths)}", fix="edge-transact bench compare A.jsonl B.jsonl")
    if report is not None:
        refuse_existing(report, force=False, fix="Choose another directory, or remove it.")
    before, after = map(Path, paths)
    pairs = paired(before, after)
    rows = compare(pairs)
    page = None
    if report is not None:
        from edge_transact.benchmarking.analysis.report import write_comparison
        from edge_transact.options import written

        command = written.line("bench", "compare", before, after, "--report", report)
        names = (before.name, after.name) if before.name != after.name else (str(before), str(after))
        write_comparison(pairs, rows, report, names=names, command=command)
        page = report / "index.html"
    show({"comparisons": rows, "page": page and str(page)}, as_json, lambda: _write(to_markdown(rows)))
    if page:
        logger.info(f"page: {page}")


def _write(text: str) -> None:
    sys.stdout.write(text)
