"""One list of options: what a model's field says reaches the command line, the file, the cache's key and provenance."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from edge_transact.benchmarking.drivers.host import parse_cores
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.building.options import BuildOptions
from edge_transact.bundling.options import BundleOptions
from edge_transact.cli import load_command
from edge_transact.cli.common import guarded
from edge_transact.errors import UsageError
from edge_transact.evaluation.options import EvalOptions
from edge_transact.exporting.options import ExportOptions
from edge_transact.healing.options import HealOptions
from edge_transact.inspection import InspectOptions
from edge_transact.options import COMMAS, Bytes, Count, OneOf, Option, Options, options_of
from edge_transact.planning.options import PlanOptions
from edge_transact.project import Build, Prune
from edge_transact.pruning.options import PruneChoices, PruneOptions

EXAMPLES = {
    "allocation": "uniform",
    "method": "wanda",
    "packing": "documents",
    "widths": "widths.json",
    "drop": False,
    "search": True,
    "profile": "other.json",
}
WITH_OTHERS = {
    "max_decode": {"profile": "profile.json"},
    "max_prefill": {"profile": "profile.json"},
    "profile": {"max_decode": "12ms", "profile": "profile.json"},
    "search_generations": {"search": True},
    "search_tokens": {"search": True},
}
"""What an option is given with."""


def flags(command: str) -> set[str]:
    return {flag for parameter in load_command(command).params for flag in parameter.opts}


@pytest.mark.parametrize(
    ("command", "model"),
    [
        ("prune", PruneOptions),
        ("build", BuildOptions),
        ("build", PruneChoices),
        ("init", BuildOptions),
        ("init", PruneChoices),
        ("bench", BenchOptions),
        ("plan", PlanOptions),
        ("eval", EvalOptions),
        ("inspect", InspectOptions),
        ("export", ExportOptions),
        ("bundle", BundleOptions),
    ],
)
def test_every_field_is_an_option_of_its_commands(command, model):
    for name, _, option in options_of(model):
        flag = option.flags[0].partition("/")[0] if option.flags else f"--{name.replace('_', '-')}"
        assert flag in flags(command)


def test_the_files_sections_are_the_models():
    assert set(Prune.model_fields) == set(PruneChoices.model_fields)
    assert set(Build.model_fields) == set(BuildOptions.model_fields)
    assert not set(PruneChoices.model_fields) & set(BuildOptions.model_fields)


def other_value(name: str):
    """A value of an option of pruning that isn't its default."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    value = getattr(PruneChoices(), name)
    if isinstance(value, int):
        return value + 1
    example = next(option.example for field, _, option in options_of(PruneChoices) if field == name)
    return example or "notes.txt"


@pytest.mark.parametrize("name", sorted(PruneChoices.model_fields.keys() - {"search_on"}))
def test_every_option_of_pruning_changes_the_key_of_its_result(name):
    budget = {} if name in ("widths", "heads", "intermediate") else {"ratio": 0.5} | WITH_OTHERS.get(name, {})
    other = PruneOptions(**{**budget, name: other_value(name)})
    without = {"max_decode": {"ratio": 0.5}, "max_prefill": {"ratio": 0.5}}.get(name, budget or {"ratio": 0.5})
    assert other.identity() != PruneOptions(**without).identity()
    recorded = other.provenance()
    by_calibration = {"calibration_tokens", "calibration_window", "packing"}
    assert name in recorded or name in recorded["budget"] or name in by_calibration


def test_where_plans_are_compared_changes_nothing():
    ways = (PruneOptions(ratio=0.5, search=True, search_on=name) for name in ("processes", "ray"))
    assert len({json.dumps(way.identity()) for way in ways}) == 1


def test_one_pruned_model_serves_builds_that_count_no_bytes():
    asked = PruneChoices(ratio=0.5)
    assert asked.counted("q4f16_0", 128).identity() == asked.counted("q0f32", 2048).identity()
    asked = PruneChoices(max_memory="600MB")
    assert asked.counted("q4f16_0", 128).identity() != asked.counted("q4f16_0", 2048).identity()
    assert asked.counted("q4f16_0", 128).identity() != asked.counted("q0f32", 128).identity()


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("600MB", 600_000_000),
        ("600mb", 600_000_000),
        ("1.5GiB", 3 << 29),
        ("12k", 12_000),
        ("24 K", 24_000),
        ("1,234_567", 1_234_567),
        (123, 123),
    ],
)
def test_sizes_are_read(text, nbytes):
    assert PruneOptions(max_memory=text).max_memory == nbytes


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "5XB", "1.2.3MB", "600MB or so", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match=r"--max-memory: .* is not a number of bytes"):
        PruneOptions(max_memory=text)


def test_a_misspelt_option_is_guessed():
    with pytest.raises(UsageError, match="there is no option 'methd'") as refused:
        PruneOptions(ratio=0.5, methd="obs")
    assert "'method'" in refused.value.fix


class Fruit(Options):
    """Options of a command that only this test has."""

    kinds: Annotated[list[Annotated[str, OneOf(("apple", "pear"))]], COMMAS, Option("Kinds: {choices}.")] = Field([])
    count: Annotated[Count, Option("How many.")] = 3
    ripe: Annotated[bool | None, Option("Ripe ones.", flags=("--ripe/--unripe",), default="in autumn")] = None
    weight: Annotated[Bytes | None, Option("How heavy.", example="2kB", envvar="FRUIT_WEIGHT")] = None
    crate: Annotated[str | list[str], Option("Where to.")] = "A"


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("", {}),
        ("--kinds apple,pear", {"kinds": ["apple", "pear"]}),
        ("--count 3 --unripe", {"count": 3, "ripe": False}),
        ("--weight 2kB --crate B --crate C", {"weight": 2000, "crate": ["B", "C"]}),
    ],
)
def test_a_command_gets_what_was_given(line, given):
    got = []

    @guarded
    def pick(fruit: Fruit) -> None:
        got.append(fruit)

    picking = typer.Typer()
    picking.command()(pick)
    assert CliRunner().invoke(picking, line.split()).exit_code == 0
    assert got[0].model_dump(exclude_unset=True) == given and got[0] == Fruit(**given)
    assert CliRunner().invoke(picking, [], env={"FRUIT_WEIGHT": "3kB"}).exit_code == 0
    assert got[1].weight == 3000
    refused = CliRunner().invoke(picking, ["--count", "0"])
    assert refused.exit_code == 2 and "--count 0 is not at least 1" in refused.stderr
    page = CliRunner().invoke(picking, ["--help"]).stdout
    for words in ("Kinds: apple or pear.", "How heavy, e.g. 2kB.", "[default: 3]", "[default: (in autumn)]"):
        assert words in page


@pytest.mark.parametrize("units", ["mlp,groups", "mlp, groups", ["mlp", "groups"], ("mlp", "groups")])
def test_a_list_is_a_list_a_tuple_or_a_string_with_commas(units) -> None:
    assert PruneOptions(ratio=0.5, units=units).units == ["mlp", "groups"]


def test_numbers_have_bounds():
    with pytest.raises(UsageError, match="--train-tokens 1000000000000000000000000 is more than 1,000,000,000,000"):
        HealOptions(train_tokens=10**24)
    with pytest.raises(UsageError, match="--threads 100000 is more than 1,024"):
        EvalOptions(threads=100_000)
    with pytest.raises(UsageError, match="--cores has '0-999999999'"):
        parse_cores("0-999999999")
