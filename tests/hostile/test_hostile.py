"""No input reaches "This looks like a bug", hangs, fills memory, ends by a signal, or leaves half an output.

`tests.support.hostile.table.make_table` generates the table. A part of it runs always, and all of it in ``make soak``.
"""

import pytest

from tests.support.hostile.table import figures, make_base, make_table, run_cases, sample


@pytest.fixture(scope="module")
def base(tiny_model, built_dist, tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("hostile") / "base", tiny_model, built_dist)


@pytest.mark.parametrize("size", [8, pytest.param(None, marks=pytest.mark.soak)])
def test_hostile_input_ends_in_its_sentence(base, size: int | None) -> None:
    table = make_table(base)
    assert len({str(case) for case in table}) == len(table) > 1000
    numbers = sample(table, size or len(table))
    outcomes = list(run_cases(base, numbers))
    print(figures(table, outcomes))
    wrong = [f"{table[each.number]} {each.wrong}: {each.stderr}" for each in outcomes if each.wrong]
    assert len(outcomes) == len(numbers) and not wrong, "\n".join(wrong)
