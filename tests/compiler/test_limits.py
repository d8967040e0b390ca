"""What a phone's GPU lacks is refused when a library is built, by name and with what to do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import tvm
from tvm import relax, te, tirx
from tvm.relax.frontend.nn.llm import kv_cache as llm

from edge_transact.compiler.gpu.attention import decode, merge, rotated_before
from edge_transact.compiler.gpu.devices import DEVICES, GENERIC
from edge_transact.compiler.launches import launches
from edge_transact.compiler.limits import require_attention, require_buffers, require_launches, require_model
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.targets import get_target
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.definitions import config_of, emit
from tests.support.gpu_kernels import lowered, selected
from tests.support.packed import W4F16, W4F32

ANDROID = get_target("android")
HALF, FLOAT = "float16", "float32"


def prefill(head_dim: int, dtype: str) -> tirx.PrimFunc:
    """TVM's attention of many tokens, 4 heads for each of 2 KV heads."""
    with ANDROID.tvm_target() as target:
        return rotated_before(llm._attention_prefill(2, 8, head_dim, dtype, False, {}, target))


@pytest.mark.parametrize(("head_dim", "group"), [(64, 16), (64, 17), (96, 5), (128, 8), (128, 9), (256, 4), (256, 5)])
def test_attention_of_one_token_leaves_no_head_out(head_dim, group):
    """Counted in TVM's own kernel for an iPhone, whose blocks have 256 threads."""
    plan = WidthPlan(512, 100, True, False, False, (LayerWidths(2 * group, 2, head_dim, head_dim, 64),))
    with get_target("iphone").tvm_target() as target:
        kernel = llm._attention_decode(2, 2 * group, head_dim, HALF, False, {}, target)
    (launch,) = launches(kernel).kernels
    computed = int(launch.extents["blockIdx.y"]) * int(launch.extents["threadIdx.y"])
    try:
        require_attention(plan, target, HALF)
    except UsageError as refused:
        assert computed < 2 * group
        assert f"{group} query heads of {head_dim} dims" in refused.message
    else:
        assert computed == 2 * group


def test_heads_that_do_not_fill_the_tiles_of_a_prefill():
    target = get_target("iphone").tvm_target()
    plans = {dim: WidthPlan(512, 100, True, False, False, (LayerWidths(4, 2, dim, dim, 64),)) for dim in (98, 100)}
    require_attention(plans[100], target, HALF)
    for dtype, dim in ((FLOAT, 100), (HALF, 98)):
        with pytest.raises(UsageError, match=f"does not take heads of {dim} dims"):
            require_attention(plans[dim], target, dtype)


@pytest.mark.parametrize("figure", ["max_threads", "local_bytes", "max_allocation_bytes"])
def test_every_gpu_has_what_the_generic_one_has(figure):
    assert min(getattr(device, figure) for device in DEVICES.values()) == getattr(GENERIC, figure)


def test_the_generic_profile_asks_tvm_for_its_own_defaults():
    defaults = tvm.target.Target("opencl").attrs
    assert {name: ANDROID.tvm_target().attrs[name] for name in defaults} == dict(defaults.items())


KERNELS = {
    "the widest normalized row": lambda: selected(Matmul("NK", HALF, W4F16, FLOAT, norm_eps=1e-5), 1, 8192, 64)[1](),
    "gated": lambda: selected(Matmul("KN", HALF, W4F16, HALF, norm_eps=1e-5, gated=True), 1, 4096, 64)[1](),
    "many rows": lambda: selected(Matmul("KN", FLOAT, W4F32, FLOAT, gated=True), 128, 64, 64)[1](),
    "attention of LLaMA-2": lambda: prefill(128, HALF),
    "attention of one token, 256 dims": lambda: decode(8, 1, 256, HALF),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_fit_any_gpu(kernel):
    mod = lowered(KERNELS[kernel](), "kernel")
    assert sum(len(launches(function).kernels) for _, function in mod.functions_items()) == 1
    require_launches(GENERIC, mod)


def test_local_memory_that_no_phone_has():
    message = r"kernel prefill_kernel takes 41,568 bytes .* generic allows 32,768"
    with pytest.raises(EdgeTransactError, match=message) as no:
        require_launches(GENERIC, lowered(prefill(256, FLOAT), "prefill"))
    assert no.value.fix == "Compute in fp16 (--quant q4f16_0), which needs less."


def test_a_work_group_of_more_threads_than_the_gpu_allows():
    mod = lowered(selected(Matmul("KN", HALF, W4F16, HALF), 1, 64, 64)[1](), "w4_decode")
    small = replace(GENERIC, name="small", max_threads=128)
    with pytest.raises(EdgeTransactError, match=r"kernel w4_decode_kernel has 256 threads, .* small allows 128") as no:
        require_launches(small, mod)
    assert no.value.fix.startswith("Build for GPUs that have more: --device-profile generic or adreno-6xx or ")


def test_kernels_that_are_made_for_any_number_of_threads_keep_to_the_profile():
    target = replace(ANDROID, profile=replace(GENERIC, max_threads=64)).tvm_target()
    for function in (
        llm._copy_single_page(2, 16, 64, HALF, target),
        llm._compact_kv_copy(2, 64, HALF, target),
        merge(8, 32, HALF, int(target.attrs["max_num_threads"])),
    ):
        (kernel,) = launches(function).kernels
        assert 1 < kernel.threads({}) <= 64


def llama(vocab_size: int = 32000, hidden_size: int = 64, kv_heads: int = 2) -> WidthPlan:
    widths = LayerWidths(4, kv_heads, 128, 128, 32)
    return WidthPlan(hidden_size, vocab_size, True, False, False, (widths,) * 3)


@pytest.fixture
def require(tmp_path):
    """`require_model` for a plan."""

    def check(plan: WidthPlan, quantization: str = "q4f16_0", device: str = "generic", **sizes: int) -> None:
        config = config_of(plan, **{"context_window_size": 2048, "prefill_chunk_size": 128} | sizes)
        require_model(DEVICES[device], plan, emit(tmp_path, plan, config), get_quantization(quantization))

    return check


def test_a_vocabulary_of_256000(require):
    require(llama(256_000, 4096))
    with pytest.raises(EdgeTransactError, match=r"embed_tokens\.q_weight takes 1,000\.0 MiB, .* 512\.0 MiB") as no:
        require(llama(256_000, 8192))
    assert no.value.fix.endswith("build for GPUs that have more: --device-profile adreno-750 or mali-g610.")
    require(llama(256_000, 8192), device="adreno-750")
    with pytest.raises(EdgeTransactError, match=r"embed_tokens\.weight .* allows 512") as no:
        require(llama(256_000, 4096), "q0f16")
    assert no.value.fix.startswith("Quantize")


@pytest.mark.parametrize(("kv_heads", "sequences", "quantization"), [(1, 1, "q4f16_0"), (2, 3, "q4f32_1")])
def test_the_largest_context_whose_cache_fits(require, kv_heads, sequences, quantization):
    plan, sizes = llama(kv_heads=kv_heads), {"max_batch_size": sequences}
    with pytest.raises(UsageError, match="a layer of the KV cache") as no:
        require(plan, quantization, context_window_size=4 << 20, **sizes)
    largest = int(re.match(r"Use --context (\d+), the largest that fits", no.value.fix)[1])
    require(plan, quantization, context_window_size=largest, **sizes)
    with pytest.raises(UsageError):
        require(plan, quantization, context_window_size=largest + 1, **sizes)


def test_more_sequences_than_fit_with_any_context(require):
    with pytest.raises(UsageError) as no:
        require(llama(), max_batch_size=1 << 20)
    assert no.value.fix.startswith("No context fits: lower --max-batch")


def test_what_a_function_allocates_and_what_a_kernel_takes():
    x = te.placeholder((256_000, 4096), HALF, name="x")
    kernel = te.create_prim_func([x, te.compute((256_000,), lambda i: x[i, 0], name="first")])
    with pytest.raises(EdgeTransactError, match=r"buffer x of kernel first takes 2,000\.0 MiB"):
        require_buffers(GENERIC, tvm.IRModule({"first": kernel}))

    builder = relax.BlockBuilder()
    with builder.function("prefill", []):
        size = relax.ShapeExpr([(512 << 20) + 1])
        builder.emit_func_output(builder.emit(relax.op.memory.alloc_storage(size, 0, "global", "uint8")))
    with pytest.raises(EdgeTransactError, match="a buffer of function prefill takes 512") as no:
        require_buffers(GENERIC, builder.finalize())
    assert "--prefill-chunk" in no.value.fix
