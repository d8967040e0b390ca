"""What a product is made of, and what is done around it: RMSNorm before, bias, gate and residual after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tvm.script import tirx as T

from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import cast, exp, load, splat, store, sum_lanes
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP


class Operands:
    """A product's buffers and their sizes (int32).

    Args:
        matmul: The product.
        arguments: The kernel's arguments by name. Without ``out`` the result is kept inside the kernel.
        one_row: Batch and tokens are 1.
        given: Buffers that are no arguments, but results of products before.

    Attributes:
        x, weight, scale, norm, bias, residual, out: The buffers, or nothing where the product has none.
        rows, features, width: Of the result and `x`: n, K, and N or N / 2.
        groups, words: Along K, in the packed weight.
    """

    def __init__(
        self,
        matmul: Matmul,
        arguments: Mapping[str, Any],
        *,
        one_row: bool,
        given: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        def tensor(name: str, shape: tuple[Any, ...], dtype: str) -> Any:
            return given[name] if name in given else T.match_buffer(arguments[name], shape, dtype)

        n = T.int64()
        width = n // matmul.sections if matmul.gated else n
        k = given["x"].shape[-1] if "x" in given else T.int64()
        leading = (T.int64(1), T.int64(1)) if one_row else (T.int64(), T.int64())
        groups = (k + (GROUP_SIZE - 1)) // GROUP_SIZE
        self.x = tensor("x", (*leading, k), matmul.dtype)
        packed, scales = (n, groups * WORDS_PER_GROUP), (n, groups)
        if matmul.layout == "KN":
            packed, scales = packed[::-1], scales[::-1]
        self.weight = tensor("weight", packed, "uint32")
        self.scale = tensor("scale", scales, matmul.scale_dtype)
        self.norm = tensor("norm", (k,), matmul.dtype) if matmul.norm_eps is not None else None
        self.bias = tensor("bias", (n,), matmul.dtype) if matmul.bias else None
        self.residual = tensor("residual", (*leading, width), matmul.dtype) if matmul.residual else None
        out = (*leading, width)
        self.out = tensor("out", out, matmul.out_dtype) if "out" in arguments else T.alloc_buffer(out, matmul.out_dtype)

        self.rows, self.tokens, self.features, self.width, self.groups = (
            T.bind(cast("int32", size)) for size in (leading[0] * leading[1], leading[1], k, width, groups)
        )
        self.words = T.bind(self.groups * WORDS_PER_GROUP)

    def at(self, row: Any, column: Any) -> list[Any]:
        """The indices of a row and a column in `x`, `residual` and `out`."""
        return [row // self.tokens, row % self.tokens, column]


def each_group(a: Operands, row: Any, factor: Any, emit: Callable[[Any, Any], None]) -> None:
    """Call ``emit(group, x)`` for all groups of a row, `x` its 32 activations in fp32, normalized; zero beyond K."""
    whole = T.bind(a.features // GROUP_SIZE)

    def read(index: Any, lanes: int) -> Any:
        x = cast("float32", load(a.x, a.at(row, index), lanes))
        if a.norm is None:
            return x
        return x * splat(factor, lanes) * cast("float32", load(a.norm, [index], lanes))

    with T.serial(0, whole) as group:
        emit(group, T.bind(read(group * GROUP_SIZE, GROUP_SIZE)))
    with T.serial(whole, a.groups) as group:
        x = T.alloc_buffer((GROUP_SIZE,), "float32", scope="local")
        store(x, splat(T.float32(0), GROUP_SIZE), [0])
        with T.serial(0, a.features - whole * GROUP_SIZE) as i:
            T.buffer_store(x, read(whole * GROUP_SIZE + i, 1), [i])
        emit(group, T.bind(load(x, [0], GROUP_SIZE)))


def inverse_rms(matmul: Matmul, a: Operands, row: Any) -> Any:
    """One over the root mean square of a row, or nothing where there is no norm."""
    if matmul.norm_eps is None:
        return None
    lanes = 16
    squares = T.alloc_buffer((lanes,), "float32", scope="local")
    store(squares, splat(T.float32(0), lanes), [0])
    whole = T.bind(a.features // lanes)
    with T.serial(0, whole) as i:
        x = T.bind(cast("float32", load(a.x, a.at(row, i * lanes), lanes)))
        store(squares, load(squares, [0], lanes) + x * x, [0])
    total = T.alloc_buffer((1,), "float32", scope="local")
    T.buffer_store(total, sum_lanes([load(squares, [0], lanes)]), [0])
    with T.serial(whole * lanes, a.features) as i:
        x = T.bind(cast("float32", load(a.x, a.at(row, i), 1)))
        T.buffer_store(total, total[0] + x * x, [0])
    mean = total[0] / cast("float32", a.features)
    return T.bind(T.float32(1) / T.sqrt(mean + T.float32(matmul.norm_eps)))


def finish(matmul: Matmul, a: Operands, row: Any, column: Any, sums: list[Any]) -> None:
    """Bias, gate and residual on the sums of one vector of columns, one vector a section; then the store."""
    lanes = int(sums[0].ty.dtype.lanes)
    if a.bias is not None:
        sums = [
            y + cast("float32", load(a.bias, [column + section * a.width], lanes)) for section, y in enumerate(sums)
        ]
    y = sums[0]
    if matmul.gated:
        gate = T.bind(sums[0])
        one = splat(T.float32(1), lanes)
        y = gate / (one + exp(splat(T.float32(0), lanes) - gate)) * sums[1]
    if a.residual is not None:
        y = y + cast("float32", load(a.residual, a.at(row, column), lanes))
    store(a.out, cast(matmul.out_dtype, y), a.at(row, column))
