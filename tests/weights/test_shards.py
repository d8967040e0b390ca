"""Shards: TVM reads what we write, byte for byte what it would have written; damage is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm.contrib import tvmjs

from edge_transact.errors import EdgeTransactError
from edge_transact.weights.shards import ShardReader, ShardWriter


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters of every dtype; some larger than a test shard, and some small."""
    random = np.random.default_rng(seed)
    return {
        "embed.q_weight": random.integers(0, 2**32, (64, 20), dtype=np.uint32),
        "embed.q_scale": random.standard_normal((64, 5)).astype(np.float16),
        "norm.weight": (random.standard_normal(77) * 10.0 ** random.integers(-30, 30, 77)).astype(np.float32),
        "big.weight": random.standard_normal((40, 90)).astype(np.float32),
        "zeros": np.zeros((3, 1), np.float32),
        "limits": np.array([3.4028235e38, -3.4028235e38, 1e-45, -0.0], np.float32),
        "last": random.standard_normal((50, 30)).astype(np.float16),
    }


def write(directory: Path, shard_bytes: int = 2048) -> Path:
    directory.mkdir()
    writer = ShardWriter(directory, shard_bytes)
    for name, array in tensors().items():
        writer.add(name, array)
    stored = writer.finish(parameters=1000)
    assert stored == sum(path.stat().st_size for path in directory.glob("params_shard_*.bin"))
    return directory


def test_shards_equal_tvms(tmp_path, monkeypatch):
    ours = write(tmp_path / "ours", shard_bytes=1 << 20)
    tvmjs.dump_tensor_cache(tensors(), str(tmp_path / "theirs"), shard_cap_mb=1, show_progress=False)
    theirs = json.loads((tmp_path / "theirs" / "tensor-cache.json").read_text())
    assert json.loads((ours / "tensor-cache.json").read_text())["records"] == theirs["records"]
    for shard in theirs["records"]:
        assert (ours / shard["dataPath"]).read_bytes() == (tmp_path / "theirs" / shard["dataPath"]).read_bytes()


def test_tensors_are_in_the_same_shards_as_with_tvm(tmp_path):
    manager = tvmjs.TensorCacheShardingManager(str(tmp_path), "params_shard", 2048)
    for name, array in tensors().items():
        stored = tvmjs._convert_f32_to_bf16(array) if array.dtype == np.float32 else array
        manager.append_or_update(stored.tobytes(), name, list(array.shape), str(array.dtype), "f32-to-bf16")
    ours = json.loads((write(tmp_path / "ours") / "tensor-cache.json").read_text())["records"]
    assert len(ours) > 3
    assert ours == manager.finish()


def test_tvm_runtime_loads_what_we_wrote(tmp_path):
    directory = write(tmp_path / "out")
    tvm.get_global_func("vm.builtin.tensor_cache.load")(str(directory), tvm.cpu().dlpack_device_type(), 0)
    get = tvm.get_global_func("vm.builtin.tensor_cache.get")
    reader = ShardReader(directory)
    assert set(reader.names()) == set(tensors())
    for name in reader.names():
        loaded = get(name).numpy()
        assert loaded.dtype == reader.array(name).dtype
        np.testing.assert_array_equal(loaded, reader.array(name))
    tvm.get_global_func("vm.builtin.tensor_cache.clear")()


def test_values_come_back_in_their_runtime_dtype(tmp_path):
    reader = ShardReader(write(tmp_path / "out"))
    for name, array in tensors().items():
        back = reader.array(name)
        assert back.dtype == array.dtype and back.shape == array.shape == reader.shape(name)
        if array.dtype == np.float32:
            np.testing.assert_allclose(back, array, rtol=2**-8, atol=1e-40)
        else:
            np.testing.assert_array_equal(back, array)


def test_metadata_equals_mlcs(tmp_path):
    index = json.loads((write(tmp_path / "out") / "tensor-cache.json").read_text())
    runtime_bytes = sum(array.nbytes for array in tensors().values())
    assert index["metadata"] == {
        "ParamSize": len(tensors()),
        "ParamBytes": runtime_bytes,
        "BitsPerParam": runtime_bytes * 8 / 1000,
    }


def test_a_flipped_bit_is_named(tmp_path):
    directory = write(tmp_path / "out")
    path = directory / "params_shard_1.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    reader = ShardReader(directory)
    damaged = json.loads((directory / "tensor-cache.json").read_text())["records"][1]["records"][0]["name"]
    with pytest.raises(EdgeTransactError, match=r"params_shard_1\.bin is damaged"):
        reader.array(damaged)


def test_a_truncated_or_missing_shard_is_named(tmp_path):
    directory = write(tmp_path / "out")
    path = directory / "params_shard_0.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(EdgeTransactError, match=rf"params_shard_0\.bin has {len(data) - 1} bytes"):
        ShardReader(directory)
    path.unlink()
    with pytest.raises(EdgeTransactError, match=r"params_shard_0\.bin does not exist"):
        ShardReader(directory)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"records": [{}]}'])
def test_an_invalid_index_is_named(tmp_path, text):
    (tmp_path / "tensor-cache.json").write_text(text)
    with pytest.raises(EdgeTransactError, match=r"tensor-cache\.json is not (JSON|a tensor cache index)"):
        ShardReader(tmp_path)


def test_missing_index_and_unknown_parameter(tmp_path):
    with pytest.raises(EdgeTransactError, match=r"tensor-cache\.json does not exist"):
        ShardReader(tmp_path)
    with pytest.raises(EdgeTransactError, match="no parameter 'lm_head'"):
        ShardReader(write(tmp_path / "out")).array("lm_head")


@pytest.mark.parametrize("shard_bytes", [2048, 1 << 20])
def test_a_tensor_in_blocks_equals_the_whole(tmp_path, shard_bytes):
    whole = write(tmp_path / "whole", shard_bytes)
    (tmp_path / "blocks").mkdir()
    writer = ShardWriter(tmp_path / "blocks", shard_bytes)
    for name, array in tensors().items():
        writer.add_blocks(name, array.shape, array.dtype, (array[i : i + 7] for i in range(0, len(array), 7)))
    writer.finish(parameters=1000)
    for path in whole.iterdir():
        assert path.read_bytes() == (tmp_path / "blocks" / path.name).read_bytes()


def test_what_lies_as_kernels_read_it_is_mapped_and_equals_what_is_read(tmp_path):
    """fp32 lies as bf16, and an odd tensor moves those after it off their alignment: these are read."""
    directory = write(tmp_path / "params", shard_bytes=1 << 20)
    reader = ShardReader(directory)
    records = json.loads((directory / "tensor-cache.json").read_text())["records"][0]["records"]
    offsets = {record["name"]: record["byteOffset"] for record in records}
    assert offsets["last"] % 64 and not offsets["embed.q_scale"] % 64
    mapped = {name: array for name in reader.names() if (array := reader.mapped(name, 64)) is not None}
    assert list(mapped) == ["embed.q_weight", "embed.q_scale"]
    for name, array in mapped.items():
        assert array.dtype == reader.dtype(name) and not array.ctypes.data % 64
        np.testing.assert_array_equal(array, reader.array(name), strict=True)
    shard = directory / "params_shard_0.bin"
    content = shard.read_bytes()
    shard.unlink()
    np.testing.assert_array_equal(mapped["embed.q_weight"], tensors()["embed.q_weight"])  # the mapping stays
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EdgeTransactError, match=r"params_shard_0\.bin is damaged"):
        ShardReader(directory).mapped("embed.q_weight", 64)


@pytest.mark.parametrize(
    "change",
    [{"byteOffset": 10**9}, {"byteOffset": -4}, {"byteOffset": 2**63}, {"nbytes": 8}, {"shape": [2**40]},
     {"shape": [-1]}, {"dtype": "nope"}],
    ids=str,
)  # fmt: skip
def test_a_tensor_that_leaves_its_shard_is_refused(tmp_path, change):
    directory = write(tmp_path / "out")
    index = json.loads((directory / "tensor-cache.json").read_text())
    index["records"][1]["records"][0] |= change
    (directory / "tensor-cache.json").write_text(json.dumps(index))
    with pytest.raises(EdgeTransactError, match=r"tensor-cache\.json is not (JSON|a tensor cache index)"):
        ShardReader(directory)


def test_a_shard_is_a_file_beside_its_index(tmp_path):
    directory = write(tmp_path / "out")
    index = json.loads((directory / "tensor-cache.json").read_text())
    (directory / "params_shard_0.bin").rename(tmp_path / "params_shard_0.bin")
    index["records"][0]["dataPath"] = "../params_shard_0.bin"
    (directory / "tensor-cache.json").write_text(json.dumps(index))
    with pytest.raises(EdgeTransactError, match=r"no file's name"):
        ShardReader(directory)


def test_a_shard_that_shrinks_while_it_is_read_gives_no_weights(tmp_path):
    reader = ShardReader(write(tmp_path / "out"), verified=True)
    for name in reader.names():
        shard = tmp_path / "out" / reader._record(name)[0].dataPath
        shard.write_bytes(shard.read_bytes()[: reader._record(name)[1].byteOffset])
        with pytest.raises(EdgeTransactError, match="ends too early"):
            reader.array(name)
