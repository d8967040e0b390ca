"""What steps took, from one run to the next: never an error, never without bounds, and only what was a whole run."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_transact import cache, progress
from edge_transact.cli import app, history
from edge_transact.cli.history import History
from edge_transact.pruning.options import PruneOptions

pytestmark = pytest.mark.usefixtures("own_cache")


MADE: list[str] = []


def run(command: History, *steps: str, makes: str = "", done: int = 0) -> None:
    """A run with these steps, of which the first is a part of making a cache entry."""

    def make(directory: Path) -> None:
        MADE.append(makes)
        with progress.bar(steps[0], 4, done) as advance:
            advance(4 - done)

    with command.running():
        if makes:
            cache.made(cache.Recipe("weights", makes, {"what": makes}, make))
        for step in steps[bool(makes) :]:
            with progress.bar(step, 4, done) as advance:
                advance(4 - done)


def known(command: History) -> list[str]:
    return [step.name for step in command.steps() if step.name]


def test_the_next_run_knows_the_steps_of_the_last_whole_one() -> None:
    command = History("prune", ["demo:tiny"])
    assert command.steps() == []
    run(command, "read", "solve")
    assert known(command) == ["read", "solve"] and sum(step.seconds for step in command.steps()) >= 0
    run(command, "read", "write", done=2)
    with pytest.raises(ZeroDivisionError), command.running(), progress.working("fail"):
        raise ZeroDivisionError
    with command.running(keep=False), progress.working("look"):
        pass
    assert known(command) == ["read", "solve"], "not of a run that went on, failed, or did nothing"
    run(command, "read", "write")
    assert known(command) == ["read", "write"]


def test_budgets_seeds_and_outputs_make_no_difference_and_other_options_do(tmp_path: Path) -> None:
    def of(output: str, model: str = "demo:tiny", **options: object) -> History:
        return History("prune", [model], [PruneOptions(**options)], output=tmp_path / output, report=True)

    run(of("one", ratio=0.3, seed=1), "solve", "load one")
    assert known(of("other", ratio=0.2)) == ["solve", "load other"]
    assert known(of("one", ratio=0.3, calibration_tokens=99)) == known(of("one", "demo:smollm2", ratio=0.3)) == []


def test_what_the_cache_has_does_not_count_and_is_not_forgotten() -> None:
    command = History("build", ["demo:tiny"])
    run(command, "round", "compare", makes="shards")
    assert known(command) == ["compare"]
    run(command, "round", "compare", makes="shards")
    assert MADE == ["shards"], "the second time it came from the cache"
    cache.clear(["weights"])
    assert known(command) == ["round", "compare"]


def test_what_is_kept_is_bounded_and_shown_and_deleted_by_cache(own_cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(history, "MOST_RUNS", 3)
    commands = [History("prune", [f"model-{number}"]) for number in range(5)]
    for command in commands:
        run(command, "solve")
    assert [known(command) for command in commands] == [[], [], ["solve"], ["solve"], ["solve"]]
    (file,) = own_cache.glob("times/*/times.json")
    assert len(json.loads(file.read_text())) == 3
    listed = json.loads(CliRunner().invoke(app, ["cache", "--json"]).stdout)["entries"]
    assert [(entry["kind"], entry["what"]) for entry in listed] == [("times", "how long steps took")]
    CliRunner().invoke(app, ["cache", "--clear", "--kind", "times"])
    assert known(commands[-1]) == [] and not file.exists()


@pytest.mark.parametrize("damage", [b"", b"\xff\x00", b"[1]", b'{"KEY": [["solve", "", -1]]}', b'{"KEY": 1}'])
def test_what_is_damaged_is_forgotten_and_replaced(own_cache: Path, damage: bytes) -> None:
    command = History("prune", ["demo:tiny"])
    run(command, "solve")
    (file,) = own_cache.glob("times/*/times.json")
    file.write_bytes(damage.replace(b"KEY", command._key.replace('"', '\\"').encode()))
    assert command.steps() == []
    run(command, "solve")
    assert known(command) == ["solve"]


def test_where_nothing_can_be_kept_the_run_goes_on(own_cache: Path) -> None:
    command = History("prune", ["demo:tiny"])
    run(command, "solve")
    cache.clear(["times"])
    (own_cache / "times").rmdir()
    (own_cache / "times").write_text("a file")
    run(command, "solve")
    assert command.steps() == []
