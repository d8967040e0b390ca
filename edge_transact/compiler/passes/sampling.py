"""Sampling functions for targets where MLC's engine samples on the GPU, such as Metal.

Names, parameters and effects are those of MLC-LLM's ``compiler_pass/attach_sampler.py``, without those that only
speculative decoding needs. On OpenCL and on a CPU, the engine has its own sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import tvm
from tvm import IRModule, relax, te, tirx
from tvm.relax import op
from tvm.script import tirx as T

from edge_transact.compiler.passes.logits import scheduled

PIVOTS = 3
"""Guesses at the cutoff that the engine passes to ``renormalize_by_top_p`` for each row."""

LEAST_TOP_P = 1e-6

_PROBS = ("float32", "batch_size", "vocab_size")
_SORTED = ("int32", "batch_size", "vocab_size")
_ROWS = ("int32", "num_samples")
_UNIFORM = ("float32", "num_samples")
_TOP_P = ("float32", "batch_size")


def attach_sampling(mod: IRModule, target: tvm.target.Target) -> IRModule:
    """Add the functions that sample tokens from probabilities ``[batch, vocab]``.

    They are ``multinomial_from_uniform``, ``argsort_probs``, ``sample_with_top_p``, ``sampler_take_probs`` and
    ``renormalize_by_top_p``. Sample i is drawn from row `sample_indices[i]` by `uniform_samples[i]`, in [0, 1).
    """
    builder = relax.BlockBuilder(mod)
    draw = partial(_draw, builder, target)
    _function(builder, "multinomial_from_uniform", draw, probs=_PROBS, uniform_samples=_UNIFORM, sample_indices=_ROWS)
    _function(builder, "argsort_probs", lambda probs: relax.Tuple(_sorted(builder, probs)), probs=_PROBS)
    _sample_with_top_p(builder, target)
    _take_probs(builder)
    _renormalize(builder)
    return builder.finalize()


def _function(
    builder: relax.BlockBuilder, name: str, body: Callable[..., relax.Expr], **shapes: tuple[str | int, ...]
) -> None:
    """Emit a function. Each parameter is given as its dtype, followed by its sizes or their names."""
    sizes: dict[str, tirx.Var] = {}
    parameters = []
    for parameter, (dtype, *axes) in shapes.items():
        shape = [axis if isinstance(axis, int) else sizes.setdefault(axis, tirx.Var(axis, "int64")) for axis in axes]
        parameters.append(relax.Var(parameter, relax.TensorType(shape, dtype)))
    with builder.function(name, parameters):
        with builder.dataflow():
            output = builder.emit_output(body(*parameters))
        builder.emit_func_output(output)


def _sorted(builder: relax.BlockBuilder, probs: relax.Var) -> tuple[relax.Var, relax.Var]:
    """Each row's probabilities in descending order, and their tokens."""
    tokens = builder.emit(op.argsort(probs, descending=True, dtype="int32"))

    def take(probs: te.Tensor, tokens: te.Tensor) -> te.Tensor:
        return te.compute(probs.shape, lambda i, j: probs[i, tokens[i, j]], name="take_sorted_probs")

    return builder.emit_te(take, probs, tokens, primfunc_name_hint="take_sorted_probs"), tokens


def _in_top_p(builder: relax.BlockBuilder, ordered: relax.Var, top_p: relax.Var) -> relax.Var:
    """Mask of the smallest set of likeliest tokens whose probabilities reach top_p, in sorted rows."""
    before = builder.emit(op.cumsum(ordered, axis=1) - ordered)
    # A top_p of 0 selects the likeliest token.
    least = op.maximum(op.expand_dims(top_p, 1), relax.const(LEAST_TOP_P, "float32"))
    return builder.emit(op.less(before, least))


def _draw(
    builder: relax.BlockBuilder, target: tvm.target.Target, weights: relax.Var, uniform: relax.Var, rows: relax.Var
) -> relax.Var:
    """For each sample, the first column where its row's running sum exceeds `uniform` times the row's sum."""
    sums = builder.emit(op.cumsum(weights, axis=1))
    kernel = builder.add_func(scheduled(_first_beyond, target), "first_beyond")
    return builder.emit(relax.call_tir(kernel, [sums, uniform, rows], relax.TensorType(rows.ty.shape, "int32")))


@T.prim_func(private=True, s_tir=True)
def _first_beyond(sums_: T.handle, uniform_: T.handle, rows_: T.handle, columns_: T.handle) -> None:
    """A binary search from the highest bit of the column to the lowest. The last sum exceeds every sample's share."""
    T.func_attr({"tirx.noalias": True})
    batch_size, vocab_size, n = T.int32(), T.int32(), T.int32()
    sums = T.match_buffer(sums_, (batch_size, vocab_size), "float32")
    uniform = T.match_buffer(uniform_, (n,), "float32")
    rows = T.match_buffer(rows_, (n,), "int32")
    columns = T.match_buffer(columns_, (n,), "int32")
    for i in range(n):
        with T.sblock("update"):
            v = T.axis.spatial(n, i)
            columns[v] = 0
            for bit in range(31):
                columns[v] = T.if_then_else(
                    columns[v] < vocab_size - (1 << (30 - bit)),
                    T.if_then_else(
                        sums[rows[v], columns[v] + (1 << (30 - bit)) - 1] <= uniform[v] * sums[rows[v], vocab_size - 1],
                        columns[v] + (1 << (30 - bit)),
                        columns[v],
                    ),
                    columns[v],
                )


def _sample_with_top_p(builder: relax.BlockBuilder, target: tvm.target.Target) -> None:
    def body(probs: relax.Var, tokens: relax.Var, uniform: relax.Var, rows: relax.Var, top_p: relax.Var) -> relax.Expr:
        weights = builder.emit(op.where(_in_top_p(builder, probs, top_p), probs, relax.const(0.0, "float32")))
        drawn = _draw(builder, target, weights, uniform, rows)

        def take(tokens: te.Tensor, rows: te.Tensor, drawn: te.Tensor) -> te.Tensor:
            return te.compute(rows.shape, lambda i: tokens[rows[i], drawn[i]], name="take_tokens")

        return builder.emit_te(take, tokens, rows, drawn, primfunc_name_hint="take_tokens")

    _function(
        builder,
        "sample_with_top_p",
        body,
        sorted_probs=_PROBS,
        sorted_indices=_SORTED,
        uniform_samples=_UNIFORM,
        sample_indices=_ROWS,
        top_p=_TOP_P,
    )


def _take_probs(builder: relax.BlockBuilder) -> None:
    """Probabilities of the drawn tokens, and of those at `top_prob_offsets` in the concatenated sorted rows."""

    def take(
        probs: te.Tensor, tokens: te.Tensor, rows: te.Tensor, drawn: te.Tensor, offsets: te.Tensor
    ) -> list[te.Tensor]:
        vocab = probs.shape[1].astype("int32")

        def token(i: tirx.Var) -> tirx.Expr:
            return tokens[offsets[i] // vocab, offsets[i] % vocab]

        return [
            te.compute(rows.shape, lambda i: probs[rows[i], drawn[i]], name="sampled_probs"),
            te.compute(offsets.shape, lambda i: probs[offsets[i] // vocab, token(i)], name="top_probs"),
            te.compute(offsets.shape, token, name="top_tokens"),
        ]

    _function(
        builder,
        "sampler_take_probs",
        lambda *arguments: builder.emit_te(take, *arguments, primfunc_name_hint="take_probs"),
        unsorted_probs=_PROBS,
        sorted_indices=_SORTED,
        sample_indices=_ROWS,
        sampling_results=_ROWS,
        top_prob_offsets=("int32", "num_positions"),
    )


def _renormalize(builder: relax.BlockBuilder) -> None:
    """Scale the likeliest tokens, whose probabilities reach top_p, to sum to 1; set all others to 0.

    The engine's guesses at the cutoff are ignored, because rows are sorted.
    """

    def body(probs: relax.Var, top_p: relax.Var, _pivots: relax.Var) -> relax.Expr:
        ordered, _ = _sorted(builder, probs)
        kept = builder.emit(op.where(_in_top_p(builder, ordered, top_p), ordered, relax.const(1.0, "float32")))
        cutoff = builder.emit(op.min(kept, axis=1, keepdims=True))
        likely = builder.emit(op.where(op.greater_equal(probs, cutoff), probs, relax.const(0.0, "float32")))
        return likely / op.sum(likely, axis=1, keepdims=True)

    pivots = ("float32", "batch_size", PIVOTS)
    _function(builder, "renormalize_by_top_p", body, probs=_PROBS, top_p=_TOP_P, init_pivots=pivots)
