"""Attention in blocks of queries is attention, forward and backward: against the definition, in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_transact.checkpoint import causal_attention
from edge_transact.checkpoint.causal_attention import QUERIES


def by_definition(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int
) -> torch.Tensor:
    query, key, value = (t.double() for t in (query, key, value))
    key, value = (t.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for t in (key, value))
    scores = query @ key.transpose(-1, -2) * scaling
    position = torch.arange(scores.shape[-1])
    behind = position[:, None] - position
    return (scores.masked_fill((behind < 0) | (behind >= window), -torch.inf).softmax(dim=-1) @ value).transpose(1, 2)


@settings(max_examples=30)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 4),
    per_group=st.integers(1, 4),
    tokens=st.sampled_from([1, 5, QUERIES, QUERIES + 1, 2 * QUERIES + 17]),
    qk_head_dim=st.sampled_from([2, 6, 16]),
    v_head_dim=st.sampled_from([1, 8, 16]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scores=st.sampled_from([1, 1 << 14, 1 << 18]),
    window=st.sampled_from([None, 1, 4, QUERIES - 1, QUERIES + 2, 1000]),
)
def test_equals_attention(batch, kv_heads, per_group, tokens, qk_head_dim, v_head_dim, dtype, scores, window) -> None:
    generator = torch.Generator().manual_seed(tokens * 1000 + batch * 100 + kv_heads)

    def drawn(heads: int, size: int) -> torch.Tensor:
        # As projections give them: heads are the third dimension in memory.
        return torch.randn(batch, tokens, heads, size, generator=generator).to(dtype).transpose(1, 2)

    query, key, value = (
        drawn(kv_heads * per_group, qk_head_dim),
        drawn(kv_heads, qk_head_dim),
        drawn(kv_heads, v_head_dim),
    )
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_attention, "SCORES", scores)
        found, _ = causal_attention.causal_attention(
            torch.nn.Module(), *inputs, None, scaling=0.3, sliding_window=window
        )
        direction = torch.randn(found.shape, generator=generator)
        gradients = torch.autograd.grad(found, inputs, direction.to(dtype))
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    expected = by_definition(*inputs, 0.3, window or tokens)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    wanted = torch.autograd.grad(expected, inputs, direction.to(dtype).double())
    # What is zero by definition is a difference of rounded numbers, as large as the other gradients.
    largest = max(1, *(of_definition.abs().max().item() for of_definition in wanted))
    for gradient, of_definition in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, of_definition, rtol=tolerance, atol=tolerance * largest)
