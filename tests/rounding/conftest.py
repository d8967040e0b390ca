"""Fixtures of the tests of rounding."""

import pytest

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from tests.support.checkpoints import narrowed, odd_plan


@pytest.fixture(params=["tied", "untied", "odd, with biases"])
def checkpoint(request, make_llama, tmp_path):
    options = {"tied": {"tie_word_embeddings": True}, "untied": {}, "odd, with biases": {"attention_bias": True}}
    source = Checkpoint.open(make_llama(**options[request.param]))
    if "odd" not in request.param:
        return source
    plan = odd_plan(source.plan)
    return write_checkpoint(source, plan, narrowed(source, plan), {}, tmp_path / "odd")
