"""What kernels for heads that lost dims have in common on CPUs and GPUs: their arguments.

Such kernels rotate and pad heads for the KV cache, and take padding out. One serves all widths, which are arguments;
the definition has a function for each combination of widths.
"""

from __future__ import annotations

from tvm.script import tirx as T

from edge_transact.compiler.matmul import CacheHeads
from edge_transact.compiler.vector import cast

_OPAQUE = 8

OPAQUE = {"op_pattern": _OPAQUE}
"""TVM would otherwise take these kernels for element-wise functions, and fuse others into them."""


class RopeArguments:
    """The arguments of a kernel ``rope``, for the heads of a virtual KV layer.

    ``qkv [b, s, rows of qkv_proj]``, ``rotation [2, b s, pairs before pruning]``, with `pairs` also ``rope_pairs
    [num_key_value_heads of the layer, pairs]``; ``qk_head_dim``, ``v_head_dim`` and the number of the virtual layer
    within its layer, int64; the result ``[b s, heads, head_dim]``.

    Args:
        cache_heads: Those of a virtual layer.
        dtype: The activations' dtype.
        pairs: The layer kept some of the RoPE pairs only.

    Attributes:
        qkv, rotation, out: The buffers of that name.
        pairs: ``rope_pairs``, int32, or `None`.
        tokens, rows: ``b s``, and the rows of ``qkv_proj``, int32.
        qk, d_v, layer: The three numbers, int32.
    """

    def __init__(self, cache_heads: CacheHeads, dtype: str, *, pairs: bool) -> None:
        h_q, h_kv = cache_heads.num_attention_heads, cache_heads.num_key_value_heads
        b, s, rows, before = (T.int64() for _ in range(4))
        handles = {name: T.arg(name, T.handle()) for name in ("qkv", "rotation", *(["pairs"] if pairs else []))}
        numbers = [T.arg(name, T.int64()) for name in ("qk_head_dim", "v_head_dim", "layer")]
        out = T.arg("out", T.handle())
        self.qkv = T.match_buffer(handles["qkv"], (b, s, rows), dtype)
        self.rotation = T.match_buffer(handles["rotation"], (2, b * s, before), "float32")
        # Their shape follows from the others, so that the library of a model refuses another one's.
        virtual_layers = rows // ((h_q + h_kv) * numbers[0] + h_kv * numbers[1])
        kept = (virtual_layers * h_kv, numbers[0] // 2)
        self.pairs = T.match_buffer(handles["pairs"], kept, "int32") if pairs else None
        self.out = T.match_buffer(out, (b * s, h_q + 2 * h_kv, cache_heads.head_dim), dtype)
        self.qk, self.d_v, self.layer = (cast("int32", number) for number in numbers)
        self.tokens, self.rows = cast("int32", b * s), cast("int32", rows)


class PaddingArguments:
    """The arguments of a kernel ``without_padding``.

    ``x [b, s, heads, head_dim]``; ``v_head_dim``, int64; the result ``[b, s, columns]``.

    Args:
        dtype: The activations' dtype.

    Attributes:
        x, out: The buffers.
        tokens, heads, head_dim, columns: ``b s`` and the sizes of that name, int32.
        d_v: ``v_head_dim``, int32.
    """

    def __init__(self, dtype: str) -> None:
        b, s, heads, head_dim, columns = (T.int64() for _ in range(5))
        self.x = T.match_buffer(T.arg("x", T.handle()), (b, s, heads, head_dim), dtype)
        self.d_v = cast("int32", T.arg("v_head_dim", T.int64()))
        self.out = T.match_buffer(T.arg("out", T.handle()), (b, s, columns), dtype)
        self.tokens = cast("int32", b * s)
        self.heads, self.head_dim, self.columns = (cast("int32", size) for size in (heads, head_dim, columns))
