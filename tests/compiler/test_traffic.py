"""What kernels touch: closed forms for dense ones, TVM's own kernels, and expressions counted one by one."""

from __future__ import annotations

import itertools
import math
from random import Random

import numpy as np
import pytest
from tvm import relax, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn.llm import kv_cache as llm
from tvm.s_tir import dlight

from edge_transact import costs
from edge_transact.artifacts.kernels import DecodeKernels
from edge_transact.compiler.gpu.attention import decode, rotated_before
from edge_transact.compiler.gpu.kernels import OpenCLKernels
from edge_transact.compiler.gpu.schedules import rules
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.targets import get_target
from edge_transact.compiler.traffic.kernel import traffic
from edge_transact.compiler.traffic.token import DecodedToken
from edge_transact.compiler.traffic.values import Bounds, Grid, Scope, Values
from edge_transact.quantization import QUANTIZATIONS
from tests.support.odd_models import SIZES

HALF = "float16"


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


MATMULS = {
    "KN": Matmul("KN", HALF, HALF, HALF, residual=True),
    "KN, normalized and gated, a bias": Matmul("KN", HALF, HALF, HALF, norm_eps=1e-5, gated=True, bias=True),
    "NK": Matmul("NK", "float32", "float32", "float32"),
    "NK, normalized": Matmul("NK", HALF, HALF, "float32", norm_eps=1e-5),
}


@pytest.mark.parametrize("matmul", MATMULS.values(), ids=MATMULS)
@pytest.mark.parametrize(("features", "width"), [(576, 962), (64, 33), (360, 66)])
def test_a_matmul_of_one_row_touches_each_argument_once(matmul, features, width):
    one = [tirx.const(n, "int64") for n in (1, 1, features)]
    _, make = OpenCLKernels().select(matmul, one, width)
    tensors = list(matmul.tensors((1, 1), features, width * matmul.sections, width).values())
    function = make()
    (found,) = traffic(function, [shape for shape, _ in tensors], {})
    *inputs, out = zip(function.params, tensors, strict=True)
    assert found.read == {parameter: nbytes(*tensor) for parameter, tensor in inputs}
    assert found.written == {out[0]: nbytes(*out[1])}
    # Groups of 32 are complete; each of the 16 threads of a column adds, and each work group normalizes.
    products = 2 * 32 * math.ceil(features / 32) * width * matmul.sections
    assert products <= found.flops <= 1.3 * products + 16 * width + math.prod(found.groups) * 12_000 + 5_000 * 32


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
    table = {2: [0, pages], 4: [context - (pages - 1) * 16]}
    for function in attention:
        (found,) = traffic(function, shapes, table)
        read = {i: found.read.get(parameter, 0) for i, parameter in enumerate(function.params)}
        tokens = read[1] / nbytes((2, 3, 64), HALF)
        assert context <= tokens <= 16 * pages
        assert read[3] == 4 * pages and read[0] == sum(list(found.written.values())[:1]) == nbytes((9, 64), HALF)
        assert found.flops >= 2 * context * 9 * 2 * 64


class Embedding(nn.Module):
    """SmolLM2's."""

    def __init__(self) -> None:
        self.embed_tokens = nn.Embedding(49_152, 576)

    def embed(self, ids: nn.Tensor) -> nn.Tensor:
        """``[n]`` to ``[n, 576]``."""
        return self.embed_tokens(ids)


def test_a_kernel_that_dequantizes_the_vocabulary_is_caught():
    """TVM's own kernels: one writes the whole matrix, the other takes the token's row from it."""
    model = quantize_modules(Embedding(), QUANTIZATIONS["q4f16_0"], HALF)
    packed = {"param_mode": "packed", "effect_mode": "none"}
    spec = {"embed": {"ids": nn.spec.Tensor(["n"], "int32"), "$": packed}}
    mod, parameters, _ = model.export_tvm(spec, allow_extern=True)
    with get_target("android").tvm_target():
        mod = relax.transform.LegalizeOps()(mod)
        mod = dlight.ApplyDefaultSchedule(*rules("opencl"))(mod)
    mod = relax.transform.CallTIRRewrite()(relax.transform.ToNonDataflow()(mod))
    token = DecodedToken(mod, [name for name, _ in parameters], 1)
    token.run(mod["embed"], rows_only=True)
    row = 4 * 72 + 2 * 18
    read, written = (sum(getattr(kernel, of) for kernel in token.kernels.values()) for of in ("read", "written"))
    assert read >= 49_152 * row and written >= 49_152 * 576 * 2
    # One token needs a row of the weight; what is made of weights alone, it doesn't need at all.
    assert sum(kernel.least for kernel in token.kernels.values()) <= row + 4 + 2 * 576


OPERATIONS = [
    (lambda a, b, n: a + b, lambda a, b, n: a + b),
    (lambda a, b, n: a - b, lambda a, b, n: a - b),
    (lambda a, b, n: a * n, lambda a, b, n: a * n),
    (lambda a, b, n: tirx.floordiv(a, n), lambda a, b, n: a // n),
    (lambda a, b, n: tirx.floormod(a, n), lambda a, b, n: a % n),
    (lambda a, b, n: tirx.min(a, b), lambda a, b, n: min(a, b)),
    (lambda a, b, n: tirx.max(a, b + n), lambda a, b, n: max(a, b + n)),
    (lambda a, b, n: tirx.Select(a < b, a, b * n), lambda a, b, n: a if a < b else b * n),
    (lambda a, b, n: tirx.Select(tirx.Not(a >= b), b, a), lambda a, b, n: b if a < b else a),
]
"""In TIR and in Python."""

LOOPS = {tirx.Var(name, "int32"): size for name, size in (("i", 3), ("j", 5), ("k", 4))}


def random_expression(random: Random, depth: int):
    """An expression such as an index, and the same as a function of the loops' values."""
    if depth == 0 or random.random() < 0.1:
        position = random.randrange(len(LOOPS))
        return list(LOOPS)[position], lambda point: point[position]
    (a, f), (b, g) = (random_expression(random, depth - 1) for _ in range(2))
    n = random.randint(1, 9)
    in_tir, in_python = random.choice(OPERATIONS)
    return in_tir(a, b, n), lambda point: in_python(f(point), g(point), n)


def test_bounds_hold_and_means_are_exact():
    scope, random = Scope({}, {}), Random(0)
    scope.loops |= {var: Values.between(0, size - 1) for var, size in LOOPS.items()}
    points = list(itertools.product(*map(range, LOOPS.values())))
    for _ in range(200):
        expression, function = random_expression(random, 3)
        values = [function(point) for point in points]
        bounds = Bounds(scope)(expression)
        assert bounds.low <= min(values) and max(values) <= bounds.high, expression
        assert len(set(values)) <= bounds.count <= bounds.span, expression
        assert Grid(scope).mean(expression) == pytest.approx(np.mean(values)), expression


@pytest.mark.slow
@pytest.mark.parametrize("name", ["android", "iphone"])
def test_a_token_moves_little_more_than_weights_cache_and_activations(archives, source, name):
    """These layers are so small that activations are a tenth of the bytes."""
    kernels = DecodeKernels.read(archives[name].path)
    plan, quantization = source.checkpoint.plan, QUANTIZATIONS["q4f16_0"]
    assert kernels.context == SIZES["context_window_size"]
    least = costs.decode_bytes(plan, quantization, kernels.context)
    assert least <= kernels.bytes <= 1.1 * least
    # Nobody reads a parameter twice, and nobody leaves one out.
    activations = costs.decode_activation_bytes(plan, quantization)
    weights_and_cache = costs.decode_read_bytes(plan, quantization, kernels.context)
    assert weights_and_cache <= sum(kernel.read_bytes for kernel in kernels.kernels) <= weights_and_cache + activations
    assert all(kernel.least_bytes <= kernel.bytes <= 1.01 * kernel.least_bytes for kernel in kernels.kernels)
