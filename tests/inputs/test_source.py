"""Which model a pruned checkpoint was made from."""

import json

import pytest
import torch

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.inputs.source import pruned_from


@pytest.fixture
def pair(make_llama, tmp_path):
    """A source, and a checkpoint that names it."""
    source = Checkpoint.open(make_llama())
    return source, copied(source, {"source": str(source.path)}, tmp_path / "pruned")


def copied(source, provenance, directory, **replaced):
    tensors = {name: replaced.get(name.split(".")[1], source.tensor(name)) for name in source.tensor_names()}
    return write_checkpoint(source, source.plan, tensors.items(), provenance, directory)


def test_the_source_that_it_names(pair):
    source, checkpoint = pair
    found = pruned_from(checkpoint)
    assert found is not None and found.path == source.path


def test_a_model_with_another_embedding_is_not_the_source(pair, tmp_path, caplog):
    caplog.set_level("INFO", "edge_transact")
    source, _ = pair
    other = torch.zeros(source.shape(EMBEDDING), dtype=source.tensor(EMBEDDING).dtype)
    checkpoint = copied(source, {"source": str(source.path)}, tmp_path / "other", embed_tokens=other)
    assert pruned_from(checkpoint) is None and "has another embedding" in caplog.text


@pytest.mark.parametrize("name", ["/nowhere/model", "organisation/model", "organisation/model@main", "a b"])
def test_a_source_that_is_not_here_is_not_downloaded(pair, tmp_path, monkeypatch, caplog, name):
    caplog.set_level("INFO", "edge_transact")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("edge_transact.inputs.source.resolve_model", lambda name: pytest.fail(f"resolved {name}"))
    monkeypatch.chdir(tmp_path / "pruned")
    checkpoint = copied(pair[0], {"source": name}, tmp_path / "lost")
    assert pruned_from(checkpoint) is None and "is not on this machine" in caplog.text


@pytest.mark.parametrize("record", [None, "", "{", "[]", json.dumps({"method": "obs"}), json.dumps({"source": None})])
def test_no_source(pair, record):
    _, checkpoint = pair
    file = checkpoint.path / PROVENANCE_FILE
    file.unlink() if record is None else file.write_text(record)
    assert pruned_from(checkpoint) is None
