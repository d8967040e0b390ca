"""How long steps took, from one run to the next: never an error, never without bounds, and no word on small models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from edge_transact import cache
from edge_transact.cli import app, paces
from edge_transact.progress import Course, Forecast, Step, Taken

FORMULAS = Forecast([Step("text", 8), Step("load this", 2, "load"), Step("solve", 100)], 0, 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paces, "slowness", lambda: 1.0)
    return tmp_path / "cache"


def keep(**seconds: float) -> None:
    """A run in which these kinds of steps took so long."""
    steps = {step.kind or step.name: step for step in FORMULAS.steps}
    paces._keep([Taken(steps[kind], 1.0, took_s) for kind, took_s in seconds.items()], 1.0)


def expected(*steps: Step) -> list[float]:
    forecast = Forecast(steps, 0, 0) if steps else FORMULAS
    return [step.seconds for step in paces.expected(forecast).steps]


def test_the_next_run_expects_what_the_last_ones_took() -> None:
    assert expected() == [8, 2, 100]
    keep(text=4, load=1, solve=120)
    assert expected() == [4, 1, 120]
    assert expected(Step("load that", 3, "load")) == [1.5], "a kind of step grows with the model as the formula says"
    keep(solve=10_000)
    assert expected()[2] == 100, "something has hindered it: the formula again"
    for _ in range(3):
        keep(solve=130)
    assert expected()[2] == 130, "the median of the last ones"


def test_the_speed_of_a_moment_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas say more seconds where products are measured slower, and the step takes as long as before."""
    keep(solve=120)
    monkeypatch.setattr(paces, "slowness", lambda: 3.0)
    assert expected(Step("solve", 300)) == [120]


def test_a_small_models_steps_say_nothing_of_a_large_ones() -> None:
    paces._keep([Taken(Step("solve", 1), 1.0, 9.0)], 1.0)
    assert expected(Step("solve", 1.5), Step("solve", 100)) == [13.5, 100]


def test_what_was_done_before_is_no_time_of_this_run() -> None:
    now = [0.0]
    course = Course(FORMULAS.steps, lambda: now[0])
    course.enter("text", 0.75)
    now[0] = 1.0
    course.enter("solve", 0.25)
    now[0] = 31.0
    course.leave()
    assert [(each.step.name, each.share, each.seconds) for each in course.taken] == [
        ("text", 0.25, 1.0),
        ("solve", 0.75, 30.0),
    ]
    paces._keep(course.taken, 1.0)
    assert expected() == [8, 2, 40], "a quarter of a step tells too little"


def test_what_is_kept_is_bounded_and_shown_and_deleted_by_cache(own_cache: Path) -> None:
    for _ in range(2):
        paces._keep([Taken(Step(f"of {number}", 1), 1.0, 1.0) for number in range(2 * paces.MOST_KINDS)], 1.0)
        paces._keep([Taken(FORMULAS.steps[0], 1.0, 4.0)] * paces.MOST, 1.0)
    (file,) = own_cache.glob("times/*/content/times.json")
    kept = json.loads(file.read_text())
    assert len(kept) == paces.MOST_KINDS and len(kept["text"]) == paces.MOST
    listed = json.loads(CliRunner().invoke(app, ["cache", "--json"]).stdout)["entries"]
    assert [(entry["kind"], entry["what"]) for entry in listed] == [("times", "how long steps took")]
    CliRunner().invoke(app, ["cache", "--clear", "--kind", "times"])
    assert expected() == [8, 2, 100] and not file.exists()


@pytest.mark.parametrize("damage", [b"", b"\xff\x00", b"[1]", b'{"text": [[8, -1]]}', b'{"text": [[8, 1e999]]}'])
def test_what_is_damaged_is_forgotten_and_replaced(own_cache: Path, damage: bytes) -> None:
    keep(text=4)
    (file,) = own_cache.glob("times/*/content/times.json")
    file.write_bytes(damage)
    assert expected() == [8, 2, 100]
    keep(text=5)
    assert expected() == [5, 2, 100]


def test_where_nothing_can_be_kept_the_run_goes_on(own_cache: Path) -> None:
    keep(text=4)
    with FileLock(cache.lock_of(paces._entry()).lock_file):
        keep(text=7)
    assert expected()[0] == 4, "another process is writing there"
    cache.clear(["times"])
    (own_cache / "times").rmdir()
    (own_cache / "times").write_text("a file")
    keep(text=4)
    assert expected() == [8, 2, 100]
