"""The engine's interface on every target: what it looks up is there, and what is asked of its runtime is known."""

import json
import re
import tarfile

import pytest

from edge_transact.compiler.targets import library_name, system_lib_prefix
from edge_transact.mlc.builtins import BYTECODE, CALLS, TAGS
from tests.support.bytecode import bytecode, called, tags
from tests.support.mlc_small import ANDROID_METADATA
from tests.support.odd_models import CONFIG, FUNCTIONS, MODEL_LIB

SAMPLING = {
    "multinomial_from_uniform",
    "argsort_probs",
    "sample_with_top_p",
    "sampler_take_probs",
    "renormalize_by_top_p",
}
"""What the engine looks up where it samples on the GPU (``Sampler::SupportGPUSampler``): Metal, of ours."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("target", ["android", "android-cpu", pytest.param("iphone", marks=pytest.mark.soak)]),
]


def content(archive) -> bytes:
    """All objects of an archive."""
    with tarfile.open(archive.path) as members:
        return b"".join(members.extractfile(member).read() for member in members)


def test_every_function_is_there(archives, target):
    bytecode_functions = set(re.findall(r"^@(\w+):", archives[target].executable["as_text"](), re.MULTILINE))
    kernels = {name for name in FUNCTIONS if name.endswith("_inplace")}
    assert bytecode_functions >= set(FUNCTIONS) - kernels
    assert bytecode_functions & SAMPLING == (SAMPLING if target == "iphone" else set())
    data, prefix = content(archives[target]), system_lib_prefix(library_name(MODEL_LIB, target))
    assert [name for name in kernels if f"__tvm_ffi_{prefix}{name}\0".encode() not in data] == []


def test_no_function_makes_a_tensor_twice(archives, target):
    """Each is of its own memory, or of its own shape."""
    _, *functions = re.split(r"^@", archives[target].executable["as_text"](), flags=re.MULTILINE)
    tensors = [re.findall(r"(?:alloc_tensor|reshape|symbolic_expr\w*) +in:.*(?= dst:)", each) for each in functions]
    assert sum(map(len, tensors)) == sum(len(set(each)) for each in tensors) > 0


def test_the_cache_has_no_kernels_for_other_models(archives, target):
    """TVM's own cache would also have those for sliding windows, trees of draft tokens and MLA."""
    kernels = set(re.findall(rb"__tvm_ffi_(\w+)", content(archives[target])))
    assert any(b"prefill" in name for name in kernels)
    assert [name for name in kernels if re.search(rb"sliding|tree|mla", name)] == []


def test_a_library_says_of_itself_what_mlcs_own_says(archives, target):
    """MLC's own, compiled of the same model for Android, is recorded in ``tests/data`` (`tests.mlc.record`)."""
    ours, theirs = dict(archives[target].metadata), json.loads(ANDROID_METADATA.read_text())
    # MLC asks the tokenizer, which was another model's.
    assert ours.pop("active_vocab_size") == CONFIG["vocab_size"] and theirs.pop("active_vocab_size") > 0
    usage, their_usage = ours.pop("memory_usage"), theirs.pop("memory_usage")
    cpu = ours.pop("cpu", None)
    assert (cpu is None) == (target != "android-cpu")
    assert ours == theirs
    # Ours has no batch_verify on a GPU, and plans another softmax.
    shared = ("embed", "alloc_embedding_tensor", "create_tir_paged_kv_cache")
    assert {name: usage[name] for name in shared} == {name: their_usage[name] for name in shared}


def test_memory_usage_tells_of_every_function(archives, target):
    functions = set(re.findall(r"^@(\w+):", archives[target].executable["as_text"](), re.MULTILINE))
    usage = archives[target].metadata["memory_usage"]
    assert set(usage) == functions - {"_metadata"}
    # Only a host library's own caller decodes a token in one call.
    assert "decode_token" not in functions
    assert all(usage[name] > 0 for name in ("embed", "prefill", "decode", "batch_prefill", "batch_decode"))
    assert usage["prefill"] > usage["decode"]


def test_what_is_asked_of_the_runtime_is_listed(archives, target):
    executable = archives[target].executable
    calls = called(executable)
    assert "vm.builtin.attention_kv_cache_attention_with_fused_qkv" in calls
    assert {name for name, count in calls.items() if CALLS.get(name, "none") not in (count, None)} == set()
    assert tags(executable) == TAGS
    with tarfile.open(archives[target].path) as members:
        objects = [members.extractfile(member).read() for member in members]
    (version,) = filter(None, map(bytecode, objects))
    assert version == BYTECODE
