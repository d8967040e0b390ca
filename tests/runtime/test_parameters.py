"""Where a library's weights lie."""

from __future__ import annotations

import numpy as np
import pytest

from edge_transact.runtime import parameters
from edge_transact.runtime.host import HostModel
from edge_transact.system import memory
from edge_transact.weights import ShardReader
from tests.support.mappings import file_at

SHARDS = {"params_shard_0.bin"}


@pytest.mark.parametrize(
    ("said", "most_read_bytes", "mapped"),
    [
        ("[always] madvise never", 1 << 30, set()),
        ("always [madvise] never", 1 << 30, set()),
        ("always [madvise] never", 1 << 10, SHARDS),
        ("always madvise [never]", 1 << 30, SHARDS),
        (None, 1 << 30, SHARDS),
    ],
)
def test_weights_are_mapped_without_huge_pages_and_if_there_are_many(
    said, most_read_bytes, mapped, built_dist, tmp_path, monkeypatch
):
    monkeypatch.setattr(parameters, "MOST_READ_BYTES", most_read_bytes)
    monkeypatch.setattr(memory, "HUGE_PAGES", tmp_path / "enabled")
    if said is not None:
        memory.HUGE_PAGES.write_text(said)
    model, reader = HostModel.load(built_dist), ShardReader(built_dist)
    files = set()
    for described, tensor in zip(model.metadata["params"], model._parameters, strict=True):
        array = np.from_dlpack(tensor)
        np.testing.assert_array_equal(array, reader.array(described["name"]), strict=True)
        assert not array.ctypes.data % 64
        files.add(file_at(array.ctypes.data))
    assert {file.name for file in files if file} == mapped
    assert None in files  # what the shards have as bf16
