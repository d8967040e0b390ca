"""Bytes that kernels read and write for a token: closed forms for dense ones, TVM's own kernels, whole models."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tvm import relax, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn.llm import kv_cache as llm
from tvm.s_tir import dlight

from edge_transact import costs
from edge_transact.compiler.gpu.attention import decode, rotated_before
from edge_transact.compiler.gpu.kernels import OpenCLKernels
from edge_transact.compiler.gpu.schedules import rules
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.pipeline import phases
from edge_transact.compiler.targets import get_target
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.definitions import config_of, emit
from tests.support.odd_models import SIZES
from tests.support.packed import W4F16, W4F32
from tests.support.traffic import DecodedToken, traffic

HALF = "float16"


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


MATMULS = {
    "KN": Matmul("KN", HALF, W4F16, HALF, residual=True),
    "KN, normalized and gated, a bias": Matmul("KN", HALF, W4F16, HALF, norm_eps=1e-5, gated=True, bias=True),
    "NK": Matmul("NK", "float32", W4F32, "float32"),
    "NK, normalized": Matmul("NK", HALF, W4F16, "float32", norm_eps=1e-5),
}


@pytest.mark.parametrize("matmul", MATMULS.values(), ids=MATMULS)
@pytest.mark.parametrize(("features", "width"), [(576, 962), (64, 33), (360, 66)])
def test_a_matmul_of_one_row_touches_each_argument_once(matmul, features, width):
    one = [tirx.const(n, "int64") for n in (1, 1, features)]
    _, make = OpenCLKernels().select(matmul, one, width)
    tensors = list(matmul.tensors((1, 1), features, width * matmul.sections, width).values())
    function = make()
    (found,) = traffic(function, [shape for shape, _ in tensors])
    *inputs, out = zip(function.params, tensors, strict=True)
    assert found.read == {parameter: nbytes(*tensor) for parameter, tensor in inputs}
    assert found.written == {out[0]: nbytes(*out[1])}


@pytest.fixture(scope="module")
def attention():
    """Ours and TVM's."""
    target = get_target("android").tvm_target()
    return decode(9, 3, 64, HALF), rotated_before(llm._attention_decode(3, 9, 64, HALF, False, {}, target))


@pytest.mark.parametrize("context", [1, 100, 2048])
def test_attention_reads_the_pages_of_the_context_and_no_more(attention, context):
    """Ours, a work group for each query head, and TVM's, one for each KV head, read the same."""
    pages = math.ceil(context / 16)
    shapes = [(1, 9, 64), (500, 2, 3, 16, 64), (2,), (pages,), (1,), (1,), (1,), (1, 9, 64), (1, 9), 0, 0, 0, 0]
    table = {2: [0, pages], 3: range(pages), 4: [context - (pages - 1) * 16]}
    for function in attention:
        (found,) = traffic(function, shapes, table)
        read = {i: found.read.get(parameter, 0) for i, parameter in enumerate(function.params)}
        tokens = read[1] / nbytes((2, 3, 64), HALF)
        assert context <= tokens <= 16 * pages
        assert read[3] == 4 * pages and read[0] == sum(list(found.written.values())[:1]) == nbytes((9, 64), HALF)


class Embedding(nn.Module):
    """As wide as SmolLM2's."""

    def __init__(self) -> None:
        self.embed_tokens = nn.Embedding(4096, 576)

    def embed(self, ids: nn.Tensor) -> nn.Tensor:
        """``[n]`` to ``[n, 576]``."""
        return self.embed_tokens(ids)


def test_a_kernel_that_dequantizes_the_vocabulary_is_caught():
    """TVM's own kernels: one writes the whole matrix, the other takes the token's row from it."""
    model = quantize_modules(Embedding(), QUANTIZATIONS["q4f16_0"], HALF)
    packed = {"param_mode": "packed", "effect_mode": "none"}
    spec = {"embed": {"ids": nn.spec.Tensor(["n"], "int32"), "$": packed}}
    mod, _, _ = model.export_tvm(spec, allow_extern=True)
    with get_target("android").tvm_target():
        mod = relax.transform.LegalizeOps()(mod)
        mod = dlight.ApplyDefaultSchedule(*rules("opencl"))(mod)
    mod = relax.transform.CallTIRRewrite()(relax.transform.ToNonDataflow()(mod))
    token = DecodedToken(mod, 1).run("embed")
    row = 4 * 72 + 2 * 18
    assert token.read >= 4096 * row
    assert sum(kernel.written for kernel in token.kernels.values()) >= 4096 * 576 * 2


CONTEXT = 500
"""Tokens that the decoded one attends to, with itself; the last page isn't full."""

SMOLLM2 = WidthPlan(576, 49_152, True, False, False, (LayerWidths(9, 3, 64, 64, 1536),) * 30)
CONFIG = config_of(SMOLLM2, context_window_size=1024, prefill_chunk_size=128)
PRUNED = {
    str(i): {
        "intermediate_size": 1536 - 37 * i,
        "num_attention_heads": 9 - 3 * (i % 3),
        "num_key_value_heads": 3 - i % 3,
        **({"qk_head_dim": 64 - i, "v_head_dim": 60 - i} if i % 4 == 0 else {}),
    }
    for i in range(1, 30)
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "widths", [pytest.param({}, id="uniform", marks=pytest.mark.soak), pytest.param(PRUNED, id="pruned")]
)
def test_a_token_of_smollm2_reads_its_weights_and_cache_once(widths, tmp_path):
    config, quantization = CONFIG | {"per_layer_config": widths}, QUANTIZATIONS["q4f16_0"]
    plan, target = WidthPlan.from_config(config), get_target("android").tvm_target()
    model = quantize_modules(emit(tmp_path, plan, config).model(), quantization, HALF)
    sizes = {name: config[name] for name in SIZES}
    bounds = {"total_seq_len": 1024, "seq_len": 128, "vocab_size": 49_152}
    bounds |= dict.fromkeys(("batch_size", "num_samples", "num_positions"), 1)
    with target:
        mod, _, _ = model.export_tvm(spec=model.get_default_spec(), allow_extern=True)
        for name in ("prefill", "batch_prefill", "batch_decode", "batch_verify"):
            del mod[name]
        for name, passes in phases(target, sizes, bounds).items():
            for run in passes:
                mod = run(mod)
            if name == "planned":
                break
    least = costs.decode_read_bytes(plan, quantization, CONTEXT)
    token = DecodedToken(mod, CONTEXT).run("embed", "decode")
    assert least <= token.read <= 1.1 * least


@pytest.mark.slow
@pytest.mark.parametrize("name", ["android", "iphone"])
def test_a_token_of_layers_with_biases_that_all_differ(archives, source, name):
    """Activations are so many here as the layers are small."""
    context = SIZES["context_window_size"]
    token = DecodedToken(archives[name].planned, context).run("embed", "decode")
    least = costs.decode_read_bytes(source.checkpoint.plan, QUANTIZATIONS["q4f16_0"], context)
    assert least <= token.read <= 1.1 * least
