"""What the demo says at its end. The demo itself runs in ``make demo``."""

from __future__ import annotations

from rich.console import Console

from edge_transact import demo


def test_a_slow_round_slows_both_models_and_not_the_ratio() -> None:
    dense = [100.0, 50.0, 100.0, 10.0, 100.0]
    assert demo._speedup(dense, [1.25 * speed for speed in dense]) == "+25% (+25% to +25%)"
    assert demo._speedup(dense, [*(1.25 * speed for speed in dense[:4]), 90.0]).startswith("+25% (+")


def test_every_step_is_shown_with_its_seconds_and_all_of_them_add_up() -> None:
    console = Console(record=True, width=100)
    console.print(demo._times({"load a model": 1.2, "prune it": 60.4}))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert any("load" in line and "1" in line for line in lines)
    assert any("prune" in line and "60" in line for line in lines)
    assert any("all" in line and "62" in line and "GiB" in line for line in lines)


def test_a_step_is_announced_and_timed(capsys) -> None:
    timer = demo.Timer()
    with timer.step("load a model"):
        pass
    with timer.step("prune it"):
        pass
    assert list(timer.seconds) == ["load a model", "prune it"]
    said = capsys.readouterr().err
    assert f"1 of {demo.STEPS}: load a model" in said and f"2 of {demo.STEPS}: prune it" in said
