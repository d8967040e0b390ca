"""What the demo says at its end. The demo itself runs in ``make demo``."""

from rich.console import Console

from edge_transact.evaluation.answers.basics import Answered, row_of
from edge_transact.evaluation.answers.questions import quick_questions
from examples import demo


def shown(table) -> str:
    console = Console(record=True, width=79)  # "10 of 12" is a column wider than what is right here
    console.print(table)
    return console.export_text()


def test_a_slow_round_slows_both_models_and_not_the_ratio() -> None:
    dense = [100.0, 50.0, 100.0, 10.0, 100.0]
    assert demo._speedup(dense, [1.25 * speed for speed in dense]) == "+25% (+25% to +25%)"
    assert demo._speedup(dense, [*(1.25 * speed for speed in dense[:4]), 90.0]).startswith("+25% (+")


def test_every_step_is_shown_with_its_seconds_and_all_of_them_add_up() -> None:
    lines = [line.split() for line in shown(demo._times({"load a model": 1.2, "prune it": 60.4})).splitlines()]
    assert any("load" in line and "1" in line for line in lines)
    assert any("prune" in line and "60" in line for line in lines)
    assert any("all" in line and "62" in line and "GiB" in line for line in lines)


def test_a_step_is_announced_and_timed(capsys) -> None:
    seconds: dict[str, float] = {}
    for title in ("load a model", "prune it"):
        with demo.timed(seconds, title):
            pass
    assert list(seconds) == ["load a model", "prune it"]
    said = capsys.readouterr().err
    assert f"1 of {demo.STEPS}: load a model" in said and f"2 of {demo.STEPS}: prune it" in said


def test_models_and_their_answers_stand_beside_each_other() -> None:
    def row(name: str, text: str, speed: float) -> demo.Row:
        answer = Answered(prompt="", text=text, tokens=4, ended=True, degenerate=None)
        replies = [row_of(question, answer) for question in quick_questions()]
        return demo.Row(name, 75_715_200, 25.66, replies, [speed, speed])

    rows = [
        demo.Row("dense", 269_030_016, 22.344),
        row("dense, 4 bits", "It is Paris.", 80.0),
        row("dense, 4 bits as MLC-LLM rounds", "7", 88.0),
    ]
    table = shown(demo._comparison(rows))
    assert "269.0 MB" in table and "75.7 MB" in table and "25.66" in table and "1 of 12" in table
    assert "88.0" in table and "+10%" in table and "…" not in table
    answers = shown(demo._answers(rows[1], rows[2]))
    assert "right: It is Paris." in answers and "wrong: 7" in answers and "right: 7" in answers
    assert all(question.text.split()[-1] in answers for question in quick_questions())
