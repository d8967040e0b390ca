"""What surrounds a matmul with packed weights in the model becomes part of the matmul's kernel."""

import pytest
import tvm

from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.passes.fuse_matmuls import fuse_matmuls
from edge_transact.quantization import get_quantization
from tests.support.cpu_kernels import HOST
from tests.support.relax_calls import calls


def fused(source, name: str, max_batch_size: int = 1) -> tvm.IRModule:
    model = quantize_modules(source.definition.model(), get_quantization(name), "float32")
    mod, _, _ = model.export_tvm(spec=model.get_default_spec(), allow_extern=True)
    return fuse_matmuls(mod, CPUKernels(HOST, max_batch_size), {})


@pytest.mark.parametrize(("function", "prefix"), [("decode", "w4_decode"), ("batch_decode", "w4_batch")])
@pytest.mark.parametrize("name", ["q4f16_0", "q4f32_1"])
def test_decode_is_one_matmul_and_a_chain_after_each_attention(source, name, function, prefix):
    mod = fused(source, name, max_batch_size=2)
    called = [call for call in calls(mod[function]) if call.startswith("w4_")]
    chain, layers = f"{prefix}_chain", source.definition.config.num_hidden_layers
    assert all(call.startswith(prefix) for call in called)
    assert (len(called), sum(call.startswith(chain) for call in called)) == (layers + 1, layers)
    # One chain follows the attention of the last layer, the other those of all other layers. Each reads four packed
    # weights: o_proj, gate_up_proj, down_proj, and the logits or the next qkv_proj.
    chains = [mod[var] for var in mod.get_global_vars() if var.name_hint.startswith(chain)]
    assert [sum(param.ty.dtype == "uint32" for param in chain.params) for chain in chains] == [4, 4]
    left = {"relax.nn.rms_norm", "relax.nn.silu", "relax.add", "relax.multiply"} & set(calls(mod[function]))
    assert not left, f"{left} not fused"


def test_the_logits_after_prompts_are_of_a_batch(source):
    mod = fused(source, "q4f16_0", max_batch_size=2)
    assert sum(call.startswith("w4_batch") for call in calls(mod["batch_prefill"])) == 1  # the last tokens' logits


def test_kernels_are_shared_by_layers_of_all_widths(source):
    # One row: qkv, two chains, and the logits of a prompt. Any rows, and a batch if the library takes one: qkv, o and
    # down, gate and up, and the logits with and without the norm. And the embedding.
    for max_batch_size, most in ((1, 10), (2, 15)):
        mod = fused(source, "q4f16_0", max_batch_size)
        kernels = [var.name_hint for var in mod.get_global_vars() if var.name_hint.startswith("w4_")]
        assert len(kernels) <= most, kernels
    assert not [var.name_hint for var in mod.get_global_vars() if var.name_hint.startswith("dequantize_matmul")]
