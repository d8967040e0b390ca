"""The command on a page gives the options of the run again."""

import shlex
from pathlib import Path

import pytest

from edge_transact.benchmarking.options import BenchOptions
from edge_transact.building.options import BuildOptions
from edge_transact.options import written
from edge_transact.pruning.options import PruneOptions
from tests.support.examples import GROUP

CASES = [
    ("prune", PruneOptions(ratio=0.3), "--ratio 0.3"),
    ("prune", PruneOptions(ratio=0.3, method="transact", compensate=False), "--method transact --no-compensate"),
    ("prune", PruneOptions(max_weight_bytes="60MB", runtime="llama.cpp", units=["mlp", "groups"]), "--for llama.cpp"),
    ("prune", PruneOptions(widths=Path("it's $(mine).json"), calibration=["a b.txt", "c"]), "--calibration c"),
    ("build", BuildOptions(target=["host", "android"], rounding="best"), "--target host,android --rounding best"),
    ("bench", BenchOptions(lengths="64+64,256+64", until="3%", cool_c=30), "--lengths 64+64,256+64"),
]


@pytest.mark.parametrize(("command", "options", "part"), CASES, ids=lambda value: str(value)[:40])
def test_the_line_gives_the_same_options(command, options, part) -> None:
    line = written.line(command, "model", "-o", "out", *written.words(options))
    assert part in line
    words = shlex.split(line)
    assert words[:2] == ["edge-transact", command]
    context = GROUP.commands[command].make_context(
        command, words[2:], parent=GROUP.make_context("edge-transact", words)
    )
    given = {
        name: value
        for name, value in context.params.items()
        if name in type(options).model_fields and context.get_parameter_source(name).name == "COMMANDLINE"
    }
    assert type(options)(**given) == options


def test_every_option_that_was_in_force_is_listed() -> None:
    rows = {flag: value for flag, value, _ in written.rows(PruneOptions(ratio=0.3))}
    assert rows["--ratio"] == "0.3" and rows["--method"] == "obs" and rows["--seed"] == "0"
    assert "--widths" not in rows and "--compensate" not in rows, "nobody gave them"
