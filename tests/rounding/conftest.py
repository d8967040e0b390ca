"""Fixtures of the tests of rounding."""

import pytest

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from tests.support.checkpoints import lost_plan, narrowed, odd_plan


@pytest.fixture(params=["tied", "untied", "odd, with biases", "lost sublayers"])
def checkpoint(request, make_llama, tmp_path):
    options = {"tied": {"tie_word_embeddings": True}, "odd, with biases": {"attention_bias": True}}
    options["lost sublayers"] = {"num_hidden_layers": 4, "mlp_bias": True}
    source = Checkpoint.open(make_llama(**options.get(request.param, {})))
    narrower = {"odd, with biases": odd_plan, "lost sublayers": lost_plan}
    if request.param not in narrower:
        return source
    plan = narrower[request.param](source.plan)
    return write_checkpoint(source, plan, narrowed(source, plan), {}, tmp_path / "odd")
