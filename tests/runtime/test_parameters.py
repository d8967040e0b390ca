"""Where a library's weights lie."""

from __future__ import annotations

import numpy as np
import pytest

from edge_transact.runtime import parameters
from edge_transact.runtime.host import HostModel
from edge_transact.weights import ShardReader
from tests.support.mappings import file_at


@pytest.mark.parametrize(
    ("said", "mapped"),
    [
        ("[always] madvise never", set()),
        ("always [madvise] never", set()),
        ("always madvise [never]", {"params_shard_0.bin"}),
        (None, {"params_shard_0.bin"}),
    ],
)
def test_weights_are_mapped_where_there_are_no_huge_pages(said, mapped, built_dist, tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "HUGE_PAGES", tmp_path / "enabled")
    if said is not None:
        parameters.HUGE_PAGES.write_text(said)
    model, reader = HostModel.load(built_dist), ShardReader(built_dist)
    files = set()
    for described, tensor in zip(model.metadata["params"], model._parameters, strict=True):
        array = np.from_dlpack(tensor)
        np.testing.assert_array_equal(array, reader.array(described["name"]), strict=True)
        assert not array.ctypes.data % 64
        files.add(file_at(array.ctypes.data))
    assert {file.name for file in files if file} == mapped
    assert None in files  # what the shards have as bf16
