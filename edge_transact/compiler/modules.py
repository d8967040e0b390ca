"""Quantized linears and embeddings: MLC-LLM's packed parameters, dequantized inside the matmul."""

from __future__ import annotations

from tvm import te, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from edge_transact.compiler.matmul import EMBEDDING, MATMUL, Layout
from edge_transact.quantization import Quantization

OUT_ELEMENTWISE_FUSABLE = 4
"""TVM's pattern of a matmul: element-wise operators may be fused behind it."""


def quantize_modules(model: nn.Module, quantization: Quantization, accumulate: str) -> nn.Module:
    """Replace linears and embeddings by quantized ones, in place; results in the model's dtype sum in `accumulate`."""
    model.to(dtype=quantization.model_dtype)
    return _Mutator(quantization, accumulate).visit("", model)


class _Mutator(nn.Mutator):
    def __init__(self, quantization: Quantization, accumulate: str) -> None:
        super().__init__()
        self.quantization = quantization
        self.accumulate = accumulate

    def visit_module(self, name: str, node: nn.Module) -> nn.Module:
        if isinstance(node, nn.Linear):
            return QuantizedLinear(node, self.quantization, self.accumulate)
        if isinstance(node, nn.Embedding):
            return QuantizedEmbedding(node, self.quantization)
        return self.visit(name, node)


class _QuantizedWeight(nn.Module):
    """A matrix ``[out_features, in_features]`` as the quantization stores it."""

    def __init__(self, out_features: int, in_features: int, quantization: Quantization, layout: Layout) -> None:
        self.out_features, self.in_features = int(out_features), int(in_features)
        self.quantization = quantization
        if quantization.bits is None:
            self.layout: Layout = "NK"
            self.weight = nn.Parameter((self.out_features, self.in_features), quantization.model_dtype)
        else:
            self.layout = layout
            groups = -(-self.in_features // quantization.group_size)
            self.q_weight = nn.Parameter(self._shape(groups * quantization.words_per_group), "uint32")
            self.q_scale = nn.Parameter(self._shape(groups), quantization.model_dtype)

    def _shape(self, k: int) -> tuple[int, int]:
        """The shape in memory, with `k` elements along the input features."""
        return (k, self.out_features) if self.layout == "KN" else (self.out_features, k)

    @property
    def stored(self) -> list[Tensor]:
        """The parameters, in the order of `dequantized`'s arguments."""
        return [self.weight] if self.quantization.bits is None else [self.q_weight, self.q_scale]

    @property
    def annotation(self) -> dict[str, str]:
        """The value of a `MATMUL` or `EMBEDDING` annotation."""
        return {"layout": self.layout, "quantization": self.quantization.name}

    def dequantized(self, stored: list[te.Tensor]) -> te.Tensor:
        """The matrix in the model's dtype and in its layout: ``[in, out]`` for KN, ``[out, in]`` for NK."""
        quantization, bits = self.quantization, self.quantization.bits
        if bits is None:
            return stored[0]
        q_weight, q_scale = stored
        dtype, per_word = quantization.model_dtype, quantization.values_per_word
        input_major = self.layout == "KN"

        def value(i: tirx.Var, j: tirx.Var) -> tirx.Expr:
            k = i if input_major else j
            word = (k // per_word, j) if input_major else (i, k // per_word)
            group = (k // quantization.group_size, j) if input_major else (i, k // quantization.group_size)
            shift = (k % per_word * bits).astype("uint32")
            code = tirx.bitwise_and(tirx.shift_right(q_weight(*word), shift), tirx.const(2**bits - 1, "uint32"))
            return (code.astype(dtype) - tirx.const(quantization.zero_point, dtype)) * q_scale(*group)

        return te.compute(self._shape(self.in_features), value, name="dequantize")

    def multiply(self, x: Tensor, out_dtype: str, accumulate: str) -> Tensor:
        """``x @ weight.T``, summed in `accumulate`."""
        input_major = self.layout == "KN"

        def matmul(x: te.Tensor, *stored: te.Tensor) -> te.Tensor:
            weight = self.dequantized(list(stored))
            k = te.reduce_axis((0, self.in_features), name="k")

            def product(*index: tirx.Var) -> tirx.Expr:
                row = (k, index[-1]) if input_major else (index[-1], k)
                return te.sum(x(*index[:-1], k).astype(accumulate) * weight(*row).astype(accumulate), axis=k)

            name = "matmul" if input_major else "NT_matmul"
            shape = (*x.shape[:-1], self.out_features)
            out = te.compute(shape, product, name=name, attrs={MATMUL: self.annotation})
            if out_dtype == accumulate:
                return out
            return te.compute(out.shape, lambda *index: out(*index).astype(out_dtype), name="cast")

        name = "matmul" if self.quantization.bits is None else "dequantize_matmul"
        return op.tensor_expr_op(
            matmul, name_hint=name, args=[x, *self.stored], attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE}
        )


class QuantizedLinear(_QuantizedWeight):
    def __init__(self, source: nn.Linear, quantization: Quantization, accumulate: str) -> None:
        out_features, in_features = source.weight.shape
        super().__init__(out_features, in_features, quantization, quantization.linear_layout)
        self.out_dtype = source.out_dtype or quantization.model_dtype
        self.accumulate = "float32" if self.out_dtype == "float32" else accumulate
        self.bias = source.bias

    def forward(self, x: Tensor) -> Tensor:
        """``x``: ``[..., in_features]`` to ``[..., out_features]``."""
        x = self.multiply(x, self.out_dtype, self.accumulate)
        return x if self.bias is None else x + self.bias


class QuantizedEmbedding(_QuantizedWeight):
    """An embedding on a stored weight, which may also be the lm_head's. Always NK, as in MLC."""

    def __init__(self, source: nn.Embedding, quantization: Quantization) -> None:
        rows, features = source.weight.shape
        super().__init__(rows, features, quantization, "NK")

    def forward(self, ids: Tensor) -> Tensor:
        """``ids``: ``[n]`` int32 to ``[n, in_features]``."""

        def take(ids: te.Tensor, *stored: te.Tensor) -> te.Tensor:
            weight = self.dequantized(list(stored))
            shape = (ids.shape[0], self.in_features)
            return te.compute(shape, lambda i, j: weight(ids(i), j), name="take", attrs={EMBEDDING: self.annotation})

        return op.tensor_expr_op(take, name_hint="embed", args=[ids, *self.stored])

    def lm_head_forward(self, x: Tensor) -> Tensor:
        """The hidden states' logits, in float32."""
        return self.multiply(x, "float32", "float32")
