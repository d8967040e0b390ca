"""Arguments of the kernels that rotate and pad heads that lost dims for the KV cache, and remove the padding."""

from __future__ import annotations

from tvm.script import tirx as T

from edge_transact.compiler.matmul import CacheHeads
from edge_transact.compiler.vector import cast, tensor

OPAQUE: dict[str, object] = {"op_pattern": 8}
"""TVM's pattern of functions that nothing is fused into; it would take these kernels for element-wise ones."""


class RopeArguments:
    """The arguments of a kernel ``rope``, for the heads of a virtual KV layer; its attributes.

    ``qkv [b, s, rows of qkv_proj]``, ``rotation [2, b s, pairs before pruning]``; if the layer kept only some RoPE
    pairs, ``pairs [num_key_value_heads of the layer, pairs]``, int32; ``qk_head_dim`` (`qk`), ``v_head_dim`` (`d_v`)
    and the virtual layer's number within its layer, int64; the result ``out [b s, heads, head_dim]``.
    """

    def __init__(self, cache_heads: CacheHeads, dtype: str, *, pairs: bool) -> None:
        h_q, h_kv = cache_heads.num_attention_heads, cache_heads.num_key_value_heads
        b, s, rows, before = (T.int64() for _ in range(4))
        self.qkv = tensor("qkv", (b, s, rows), dtype)
        self.rotation = tensor("rotation", (2, b * s, before), "float32")
        pairs_handle = T.arg("pairs", T.handle()) if pairs else None
        numbers = [T.arg(name, T.int64()) for name in ("qk_head_dim", "v_head_dim", "layer")]
        # A shape that follows from the others, so that a library refuses the pairs of another model.
        virtual_layers = rows // ((h_q + h_kv) * numbers[0] + h_kv * numbers[1])
        kept = (virtual_layers * h_kv, numbers[0] // 2)
        self.pairs = T.match_buffer(pairs_handle, kept, "int32") if pairs else None
        self.out = tensor("out", (b * s, h_q + 2 * h_kv, cache_heads.head_dim), dtype)
        self.qk, self.d_v, self.layer = (cast("int32", number) for number in numbers)
        self.tokens, self.rows = cast("int32", b * s), cast("int32", rows)


class PaddingArguments:
    """The arguments of a kernel ``without_padding``; its attributes.

    ``x [b, s, heads, head_dim]``; ``v_head_dim`` (`d_v`), int64; the result ``out [b, s, columns]``.
    """

    def __init__(self, dtype: str) -> None:
        b, s, heads, head_dim, columns = (T.int64() for _ in range(5))
        self.x = tensor("x", (b, s, heads, head_dim), dtype)
        self.d_v = cast("int32", T.arg("v_head_dim", T.int64()))
        self.out = tensor("out", (b, s, columns), dtype)
        self.tokens = cast("int32", b * s)
        self.heads, self.head_dim, self.columns = (cast("int32", size) for size in (heads, head_dim, columns))
