"""The order of visits, and how lengths and cores are parsed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_transact.bench.drivers.host import HostDriver, parse_cores
from edge_transact.bench.records.conditions import Conditions
from edge_transact.bench.records.plan import Lengths, make_visits, parse_lengths, prompt_ids
from edge_transact.errors import UsageError

PAIRS = st.lists(st.builds(Lengths, st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4, unique=True)


@given(st.integers(1, 5), PAIRS, st.integers(1, 9))
def test_every_model_is_measured_as_often_and_as_late_as_the_others(models, lengths, repetitions):
    visits = make_visits(models, lengths, repetitions)
    measured = Counter()
    places = Counter()
    for place, visit in enumerate(visits):
        measured[visit.model, visit.lengths] += visit.repetitions
        places[visit.model, visit.lengths] += place
    assert set(measured.values()) == {repetitions} and len(measured) == models * len(lengths)
    # The second round runs backwards, so all have the same mean place, and a linear drift affects all alike.
    assert repetitions == 1 or len(set(places.values())) == 1
    if models > 1:
        assert all(a.model != b.model or a.round != b.round for a, b in pairwise(visits))


def test_lengths_are_read():
    assert parse_lengths("64+64, 256+64,64+64") == [Lengths(64, 64), Lengths(256, 64)]


@pytest.mark.parametrize("text", ["", "64", "64+", "0+4", "4+0", "-1+4", "64+64,,", "1.5+2", "4+4+4", "٤+٤"])
def test_bad_lengths_are_refused(text):
    with pytest.raises(UsageError):
        parse_lengths(text)


def test_cores_are_read():
    assert parse_cores("") == [] and parse_cores("0,4-7") == [0, 4, 5, 6, 7]
    for text in ("a", "4-", "7-4", "0,,1", "-1"):
        with pytest.raises(UsageError, match="--cores"):
            parse_cores(text)
    with pytest.raises(UsageError, match="may not use"):
        HostDriver(Conditions(lengths=(Lengths(1, 1),), cores="100000"))


@given(st.integers(2, 50000), st.integers(1, 300))
def test_prompts_nest_and_stay_in_the_vocabulary(vocab_size, tokens):
    ids = prompt_ids(vocab_size, tokens)
    assert len(ids) == tokens and all(0 <= id < vocab_size for id in ids)
    assert prompt_ids(vocab_size, tokens + 7)[:tokens] == ids
