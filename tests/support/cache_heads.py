"""Heads as the KV cache takes them, in numpy."""

import numpy as np

from edge_transact.compiler.matmul import CacheHeads


def of_cache(
    heads: CacheHeads, qkv: np.ndarray, angles: np.ndarray, pairs: np.ndarray, qk: int, d_v: int, layer: int
) -> np.ndarray:
    """``[rows, heads, head_dim]`` of a virtual KV layer, from the rows of all, ``[rows, columns]``.

    `angles` are ``[rows, pairs before pruning]``, `pairs` those that each KV head of all virtual layers kept; `qk` and
    `d_v` are dims of queries with keys and of values, and `layer` is the virtual layer's number within its layer.
    """
    h_q, h_kv = heads.num_attention_heads, heads.num_key_value_heads
    size = (h_q + h_kv) * qk + h_kv * d_v
    part = qkv[:, layer * size : (layer + 1) * size]
    out = np.zeros((len(qkv), h_q + 2 * h_kv, heads.head_dim))
    for head in range(h_q + h_kv):
        low, high = np.split(part[:, head * qk : (head + 1) * qk], 2, -1)
        kv_head = layer * h_kv + (head // (h_q // h_kv) if head < h_q else head - h_q)
        turn = angles[:, pairs[kv_head]]
        out[:, head, : qk // 2] = low * np.cos(turn) - high * np.sin(turn)
        out[:, head, qk // 2 : qk] = high * np.cos(turn) + low * np.sin(turn)
    out[:, h_q + h_kv :, :d_v] = part[:, (h_q + h_kv) * qk :].reshape(len(qkv), h_kv, d_v)
    return out
