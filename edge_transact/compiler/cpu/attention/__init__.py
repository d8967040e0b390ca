"""Paged attention on CPUs: the functions that TVM's paged KV cache calls, vectorized along keys or head dims.

A page holds 16 tokens, ``[pages, 2, kv_heads, 16, head_dim]``, keys before values. The scores of all keys are kept, so
that the softmax needs no running maximum and the output stays in registers. Scores and log-sum-exps are in base 2.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx

from edge_transact.compiler.cpu.attention.cache import append, merge, split_rotary
from edge_transact.compiler.cpu.attention.decode import decode
from edge_transact.compiler.cpu.attention.parts import PAGE_SIZE, Attention, inverse_frequencies, lanes_for
from edge_transact.compiler.cpu.attention.prefill import prefill_paged, prefill_ragged

__all__ = ["PAGE_SIZE", "Attention", "inverse_frequencies", "kernels", "lanes_for"]


def kernels(attention: Attention, inverse_frequencies: np.ndarray, threads: int) -> dict[str, tirx.PrimFunc]:
    """The kernels by name, for RoPE's inverse frequencies (float32 ``[head_dim / 2]``) and the target's threads."""
    made = {
        "append": append(attention),
        "split_rotary": split_rotary(attention, inverse_frequencies),
        "decode": decode(attention, threads),
        "prefill": prefill_paged(attention),
        "prefill_ragged": prefill_ragged(attention),
        "merge": merge(attention),
    }
    return {name: function.with_attr("global_symbol", f"attention_{name}") for name, function in made.items()}
