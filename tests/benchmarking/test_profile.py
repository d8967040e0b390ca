"""bench --profile: the time inside functions adds up, and no function of a real library is missing."""

import json
from collections import Counter

import numpy as np
import pytest

from edge_transact.benchmarking.profile import OUTSIDE, Recorder
from tests.support.command import run, said


def test_a_function_does_not_count_the_time_of_those_that_it_calls():
    times = iter([0.0, 1.0, 2.0, 5.0, 9.0, 10.0])
    recorder = Recorder(lambda: next(times))

    def action():
        weight = np.zeros((6, 4), np.uint32)
        recorder(None, "outer", True, None)
        recorder(None, "inner", True, None, weight)
        recorder(None, "inner", False, None, weight)
        recorder(None, "outer", False, None)

    seconds, calls = recorder.taken(action)
    assert seconds == {("outer", ""): 5.0, ("inner", "[6, 4]"): 3.0, (OUTSIDE, ""): 2.0}
    assert calls == Counter({("outer", ""): 1, ("inner", "[6, 4]"): 1, (OUTSIDE, ""): 1})


@pytest.mark.slow
def test_every_product_of_a_library_is_in_its_profile(tiny_dist):
    profile = said("bench", tiny_dist, "--profile", "--lengths", "9+3", "--repetitions", "2")["profile"]
    layers = json.loads((tiny_dist / "mlc-chat-config.json").read_text())["model_config"]["num_hidden_layers"]
    for phase in ("prefill", "decode"):
        rows = [row for row in profile if row["phase"] == phase]
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert [row["seconds"] for row in rows] == sorted((row["seconds"] for row in rows), reverse=True)
        # Four products for each layer, several of which one kernel may compute, and lm_head.
        kernels = [row for row in rows if row["weight"] and "embed" not in row["function"]]
        assert sum(row["calls"] * row["weight"].count("[") for row in kernels) == 4 * layers + 1
        attention = sum(row["calls"] for row in rows if "attention_with_fused_qkv" in row["function"])
        assert attention == layers


def test_a_profile_of_a_phone_is_refused():
    done = run("bench", "dist", "--profile", "--device", "all")
    assert done.exit_code == 2 and "--profile is for this host" in done.output
