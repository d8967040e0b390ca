"""A training's schedule: when held-out text is measured."""

from hypothesis import example, given
from hypothesis import strategies as st

from edge_transact.healing.schedule import MOST_EVALUATIONS, TRAINED_BETWEEN, Schedule


@given(steps=st.integers(1, 3000), sequences=st.integers(1, 64))
@example(22, 2)  # the demo's
def test_measuring_takes_a_small_part_of_a_training_of_any_length(steps, sequences):
    schedule = Schedule(steps, sequences, together=1, length=512, rate=1e-4)
    measured = [step for step in range(1, steps + 1) if schedule.is_evaluated(step)]
    assert len(measured) == schedule.evaluations(steps) <= MOST_EVALUATIONS and measured[-1] == steps
    trained = steps * sequences
    assert len(measured) == 1 or len(measured) * TRAINED_BETWEEN * schedule.held_out_sequences(64) <= trained


def test_a_short_training_is_measured_less_often():
    often = [Schedule(steps, 2, together=1, length=512, rate=1e-4).evaluations(steps) for steps in (3, 22, 64, 976)]
    assert often == [1, 5, 8, 8]
