"""The order of visits, and how lengths and cores are parsed."""

import threading
from collections import Counter
from dataclasses import replace
from itertools import chain, groupby, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.drivers.host import HostDriver, parse_cores
from edge_transact.benchmarking.model import open_models
from edge_transact.benchmarking.options import MOST_ROUNDS, BenchOptions
from edge_transact.benchmarking.records.plan import Lengths, make_rounds, parse_lengths, prompt_ids
from edge_transact.errors import EdgeTransactError, UsageError
from tests.support.dists import edit_json, make_dist

PAIRS = st.lists(st.builds(Lengths, st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4, unique=True)


@settings(max_examples=30)
@given(st.integers(1, 5), PAIRS, st.integers(1, 9))
def test_models_take_turns_in_each_round(models, lengths, count):
    rounds = make_rounds(models, lengths, [1] * count)
    places = Counter()
    for number, visits in enumerate(rounds):
        assert {visit.round for visit in visits} == {number}
        assert Counter((visit.model, visit.lengths) for visit in visits) == Counter(product(range(models), lengths))
        # One after the other at the same lengths, so that they have the same moment.
        turns = [list(turn) for _, turn in groupby(visits, key=lambda visit: visit.lengths)]
        assert [len(turn) for turn in turns] == [models] * len(lengths)
    for place, visit in enumerate(chain(*rounds[: count // 2 * 2])):
        places[visit.model, visit.lengths] += place
    # Every second round runs backwards, so all have the same mean place, and a linear drift affects all alike.
    assert len(set(places.values())) <= 1


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 9), st.sampled_from([None, 0.03]))
def test_repetitions_are_spread_over_rounds(repetitions, per_visit, until):
    plan = BenchOptions(repetitions=repetitions, per_visit=per_visit, until=until)
    counts = plan.repetitions_by_round()
    assert sum(counts[: plan.rounds]) == repetitions and all(0 < count <= per_visit for count in counts)
    assert len(counts) == (max(MOST_ROUNDS, plan.rounds) if until else plan.rounds)


def test_a_half_width_is_read():
    for text, until in (("3%", 0.03), ("0.03", 0.03), (" 0.5 % ", 0.005), (0.02, 0.02), (None, None)):
        assert BenchOptions(until=text).until == until


@pytest.mark.parametrize("text", ["", "3", "0%", "100%", "-3%", "3%%", "٣%", "nan%"])
def test_what_is_no_half_width_is_refused(text):
    with pytest.raises(UsageError, match=r"--until:? .* is not (a share|between 0 and 1)") as refused:
        BenchOptions(until=text)
    assert "%" in refused.value.fix


def test_lengths_are_read():
    assert parse_lengths("64+64, 256+64,64+64") == [Lengths(64, 64), Lengths(256, 64)]
    for text in ("", "64", "64+", "0+4", "4+0", "-1+4", "64+64,,", "1.5+2", "4+4+4", "٤+٤"):
        with pytest.raises(UsageError):
            parse_lengths(text)


def test_cores_are_read():
    assert parse_cores("") == [] and parse_cores("0,4-7") == [0, 4, 5, 6, 7]
    for text in ("a", "4-", "7-4", "0,,1", "-1"):
        with pytest.raises(UsageError, match="--cores"):
            parse_cores(text)
    with pytest.raises(UsageError, match="may not use"):
        HostDriver(BenchOptions(lengths=(Lengths(1, 1),), cores="1000"))


def test_this_host_measures_code_and_weights_as_they_were_built(tmp_path):
    """And any configuration, which people may edit."""
    dist = make_dist(tmp_path / "dist", targets=())
    (dist / "lib/host.so").write_bytes(b"code")
    replace(Manifest.read(dist), libraries={"host": "lib/host.so"}).write(dist)
    (model,) = open_models([dist], [])
    edit_json(dist / "mlc-chat-config.json", conv_template={"name": "mine"})
    driver = HostDriver(BenchOptions())
    driver.prepare([model], threading.Event())
    for name in ("lib/host.so", "params_shard_1.bin", "tokenizer.json"):
        before = (dist / name).read_bytes()
        (dist / name).write_bytes(b"else")
        with pytest.raises(EdgeTransactError, match=f"{name} changed after the build"):
            driver.prepare([model], threading.Event())
        (dist / name).write_bytes(before)


@given(st.integers(2, 50000), st.integers(1, 300))
def test_prompts_nest_and_stay_in_the_vocabulary(vocab_size, tokens):
    ids = prompt_ids(vocab_size, tokens)
    assert len(ids) == tokens and all(0 <= id < vocab_size for id in ids)
    assert prompt_ids(vocab_size, tokens + 7)[:tokens] == ids
