"""Where a library's weights lie."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from edge_transact import costs
from edge_transact.artifacts.manifest import Manifest
from edge_transact.quantization import get_quantization
from edge_transact.runtime import parameters
from edge_transact.runtime.host import HostModel
from edge_transact.system import memory
from edge_transact.weights import ShardReader
from tests.support.mappings import file_at, needs_maps

SHARDS = {"params_shard_0.bin"}


@needs_maps
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


def test_an_answer_takes_weights_kv_cache_and_250_mib(built_dist):
    """A process of its own says what it had at most; what started it doesn't count."""
    program = """
import json, sys
from edge_transact.cli import app
from edge_transact.system.memory import peak_rss_mib
try:
    app(sys.argv[1:])
finally:
    print(json.dumps(peak_rss_mib()))
"""
    words = ["run", str(built_dist), "--prompt", "Once", "--max-tokens", "8"]
    output = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True).stdout
    manifest = Manifest.read(built_dist)
    context, quantization = manifest.context_window_size, get_quantization(manifest.quantization)
    known = costs.weight_bytes(manifest.plan, quantization) + costs.engine_kv_bytes(
        manifest.plan, quantization, context
    )
    assert json.loads(output.splitlines()[-1]) <= known / 2**20 + 250
