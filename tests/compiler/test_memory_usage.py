"""``memory_usage`` counts what functions allocate, and a build fails if a GPU kernel allocates anything else."""

import pytest
import tvm
from tvm import IRModule, relax, tirx
from tvm.script import tirx as T

from edge_transact import costs
from edge_transact.compiler.passes.memory import check_temporaries, memory_usage
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import QUANTIZATIONS
from tests.support.gpu_kernels import lowered
from tests.support.odd_models import SIZES

BOUNDS = {"batch_size": 4, "vocab_size": 300}


@T.prim_func(private=True, s_tir=True)
def squared(x_: T.handle, out_: T.handle) -> None:
    """Two kernels, and what one leaves for the other in global memory."""
    T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
    n, m = T.int64(), T.int64()
    x = T.match_buffer(x_, (n, m), "float32")
    out = T.match_buffer(out_, (n, m), "float32")
    with T.sblock("root"):
        square = T.sblock_alloc_buffer((n, m), "float32")
        for i in T.thread_binding(n, thread="blockIdx.x"):
            for j in T.thread_binding(m, thread="threadIdx.x"):
                with T.sblock("square"):
                    a, b = T.axis.remap("SS", [i, j])
                    square[a, b] = x[a, b] * x[a, b]
        for i in T.thread_binding(n, thread="blockIdx.x"):
            for j in T.thread_binding(m, thread="threadIdx.x"):
                with T.sblock("reversed"):
                    a, b = T.axis.remap("SS", [i, j])
                    out[a, b] = square[n - 1 - a, m - 1 - b]


def planned(*, calls: int) -> IRModule:
    """A function that calls the kernel so many times, memory planned."""
    builder = relax.BlockBuilder()
    kernel = builder.add_func(squared, "squared")
    batch, vocab = (tirx.Var(name, "int64") for name in BOUNDS)
    x = relax.Var("x", relax.TensorType([batch, vocab], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            value = x
            for _ in range(calls):
                value = builder.emit(relax.call_tir(kernel, [value], relax.TensorType([batch, vocab], "float32")))
            value = builder.emit_output(value)
        builder.emit_func_output(value)
    mod = builder.finalize()
    mod["main"] = mod["main"].with_attrs({"tir_var_upper_bound": BOUNDS, "relax.memory_plan_dynamic_func_output": True})
    passes = [
        relax.transform.ToNonDataflow(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
    ]
    return tvm.transform.Sequential(passes)(mod)


def test_planned_tensors_and_the_temporaries_of_the_largest_kernel_are_counted():
    tensor = 4 * 300 * 4
    # Each call frees its temporary before the next one begins.
    assert memory_usage(planned(calls=1), BOUNDS) == {"main": 2 * tensor}
    assert memory_usage(planned(calls=2), BOUNDS) == {"main": 3 * tensor}


def test_a_size_without_a_bound_is_no_zero():
    with pytest.raises(EdgeTransactError, match=r"no bound limits what main allocates.*vocab_size"):
        memory_usage(planned(calls=1), {"batch_size": 4})


def test_a_kernel_whose_temporaries_nobody_counts_fails_the_build():
    mod = planned(calls=1)
    made = lowered(mod["squared"], "x_squared")
    check_temporaries(mod, made, "x_")
    # As the KV cache's kernels, which the runtime calls.
    del mod["main"]
    with pytest.raises(EdgeTransactError, match="squared allocates square on the GPU"):
        check_temporaries(mod, made, "x_")


@pytest.mark.soak
def test_sorting_on_an_iphone_is_counted_with_its_temporaries(archives):
    """Sorted tokens and their probabilities; values twice and indices once more while it sorts."""
    rows = 4 * 300 * 4
    assert archives["iphone"].metadata["memory_usage"]["argsort_probs"] == (2 + 3) * rows


@pytest.mark.slow
def test_softmax_of_the_whole_vocabulary_is_counted(archives):
    usage = archives["android"].metadata["memory_usage"]["softmax_with_temperature"]
    assert 3 * 4 * 300 * 4 <= usage <= 3 * 4 * 300 * 4 + 5_000


@pytest.mark.slow
def test_the_estimate_of_workspace_is_close_to_what_is_allocated(archives, source):
    usage, plan = archives["android"].metadata["memory_usage"], source.checkpoint.plan
    chunk, batch = SIZES["prefill_chunk_size"], SIZES["max_batch_size"]
    heads, kv_heads = plan.q_per_kv * plan.virtual_num_key_value_heads, plan.virtual_num_key_value_heads
    # Of a chunk, in fp16: q, k, v and the output; and two log-sum-exps.
    in_cache = chunk * (4 * (heads + kv_heads) * plan.cache_head_dim + 8 * heads)
    functions = ("alloc_embedding_tensor", "embed", "batch_prefill", "softmax_with_temperature")
    allocated = in_cache + sum(usage[name] for name in functions)
    assert costs.workspace_bytes(plan, QUANTIZATIONS["q4f16_0"], chunk, batch) == pytest.approx(allocated, rel=0.2)
