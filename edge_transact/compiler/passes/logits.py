"""Functions on logits that MLC's engine calls between the model and the sampler, on every target.

Names, parameters and effects are those of MLC-LLM's ``compiler_pass/attach_logit_processor.py`` and
``attach_softmax_with_temperature.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import IRModule, relax, s_tir, te, tirx
from tvm.script import tirx as T

GREEDY_TEMPERATURE = 1e-5
"""At temperatures up to this one, the likeliest token is taken."""

SOFTMAX_PARTS = 256
"""Partial maxima and sums of a softmax, which a GPU's threads compute in parallel, as MLC-LLM's softmax does.

A single running sum in fp32 would also lose the low bits of small terms. The number of parts is fixed, so that no
kernel takes the size of the vocabulary as an argument of its own.
"""


def attach_logit_processors(mod: IRModule, target: tvm.target.Target) -> IRModule:
    """Add ``apply_logit_bias_inplace``, ``apply_penalty_inplace`` and ``apply_bitmask_inplace``."""
    mod = mod.clone()
    for function in (_logit_bias, _penalty, _bitmask):
        name = function.attrs["global_symbol"]
        mod[name] = scheduled(function, target).with_attr("global_symbol", name)
    return mod


def scheduled(function: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc:
    """Schedule a kernel whose only block is ``update``: on a GPU, each iteration is a thread."""
    if target.kind.name == "llvm":
        return function.with_attr("tirx.is_scheduled", True)
    schedule = s_tir.Schedule(function)
    block = schedule.get_sblock("update")
    loops = schedule.split(schedule.fuse(*schedule.get_loops(block)), [None, int(target.attrs["max_num_threads"])])
    names = [schedule.get(loop).loop_var.name for loop in loops]
    # `Schedule.bind` rejects kernels that update their input in place, so the loops are bound by hand.
    threads = dict(zip(names, ("blockIdx.x", "threadIdx.x"), strict=True))
    return _bind(schedule.mod["main"], threads).with_attr("tirx.is_scheduled", True)


def _bind(function: tirx.PrimFunc, threads: dict[str, str]) -> tirx.PrimFunc:
    """Turn the loops over these variables into GPU threads."""

    def bound(loop: tirx.For) -> tirx.For | None:
        tag = threads.get(loop.loop_var.name)
        if tag is None:
            return None
        thread = tirx.IterVar(None, tirx.Var("", loop.loop_var.ty), tirx.IterVar.ThreadIndex, tag)
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.THREAD_BINDING, loop.body, thread)

    body = tirx.stmt_functor.ir_transform(function.body, None, bound, ["tirx.For"])
    return function.with_body(body)


# TVM's parser records the lines of the following kernels, and libraries for CPUs keep them as debug information. So
# when the number of lines above changes, the bytes of those libraries do, too, though their code stays the same: look
# for differences in `.debug_line` before anywhere else. Kernels that are emitted by `kernel_body` aren't parsed, and
# have no lines.
@T.prim_func(s_tir=True)
def _logit_bias(logits_: T.handle, rows_: T.handle, tokens_: T.handle, bias_: T.handle) -> None:
    """Add `bias[i]` to the logit of token `tokens[i]` in row `rows[i]`."""
    T.func_attr({"global_symbol": "apply_logit_bias_inplace", "tirx.noalias": True})
    batch_size, vocab_size, n = T.int32(), T.int32(), T.int32()
    logits = T.match_buffer(logits_, (batch_size, vocab_size), "float32")
    rows = T.match_buffer(rows_, (n,), "int32")
    tokens = T.match_buffer(tokens_, (n,), "int32")
    bias = T.match_buffer(bias_, (n,), "float32")
    for i in range(n):
        with T.sblock("update"):
            v = T.axis.spatial(n, i)
            logits[rows[v], tokens[v]] = logits[rows[v], tokens[v]] + bias[v]


@T.prim_func(s_tir=True)
def _penalty(
    logits_: T.handle, rows_: T.handle, sequences_: T.handle, tokens_: T.handle, counts_: T.handle, penalties_: T.handle
) -> None:
    """For each token seen, subtract presence + count * frequency, then apply the repetition penalty.

    `penalties` is ``[sequences, 3]``: presence, frequency, repetition.
    """
    T.func_attr({"global_symbol": "apply_penalty_inplace", "tirx.noalias": True})
    batch_size, vocab_size, n, m = T.int32(), T.int32(), T.int32(), T.int32()
    logits = T.match_buffer(logits_, (batch_size, vocab_size), "float32")
    rows = T.match_buffer(rows_, (m,), "int32")
    sequences = T.match_buffer(sequences_, (n,), "int32")
    tokens = T.match_buffer(tokens_, (n,), "int32")
    counts = T.match_buffer(counts_, (n,), "int32")
    penalties = T.match_buffer(penalties_, (m, 3), "float32")
    for i in range(n):
        with T.sblock("update"):
            v = T.axis.spatial(n, i)
            logits[rows[sequences[v]], tokens[v]] = logits[rows[sequences[v]], tokens[v]] - (
                penalties[sequences[v], 0] + T.cast(counts[v], "float32") * penalties[sequences[v], 1]
            )
            logits[rows[sequences[v]], tokens[v]] = T.if_then_else(
                logits[rows[sequences[v]], tokens[v]] < T.float32(0),
                logits[rows[sequences[v]], tokens[v]] * penalties[sequences[v], 2],
                logits[rows[sequences[v]], tokens[v]] / penalties[sequences[v], 2],
            )


@T.prim_func(s_tir=True)
def _bitmask(logits_: T.handle, rows_: T.handle, mask_: T.handle) -> None:
    """In each of `rows`, set logits whose bit in `mask` is 0 to the minimum. Bit j of word i is token 32 i + j."""
    T.func_attr({"global_symbol": "apply_bitmask_inplace", "tirx.noalias": True})
    batch_size, vocab_size, m = T.int32(), T.int32(), T.int32()
    logits = T.match_buffer(logits_, (batch_size, vocab_size), "float32")
    rows = T.match_buffer(rows_, (m,), "int32")
    mask = T.match_buffer(mask_, (batch_size, (vocab_size + 31) // 32), "int32")
    for i, j in T.grid(m, vocab_size):
        with T.sblock("update"):
            vi, vj = T.axis.remap("SS", [i, j])
            logits[rows[vi], vj] = T.if_then_else(
                (mask[rows[vi], vj // 32] >> (vj % 32)) & 1 == 1, logits[rows[vi], vj], T.min_value("float32")
            )


def _parts(terms: te.Tensor, reduce: Callable[..., tirx.Expr], neutral: tirx.Expr) -> te.Tensor:
    """Equal chunks of ``[batch, 1, vocab]``, reduced: ``[batch, 1, SOFTMAX_PARTS]``."""
    *rows, vocab = terms.shape
    length = tirx.ceildiv(vocab, SOFTMAX_PARTS)
    k = te.reduce_axis((0, length), name="k")

    def part(b: tirx.Var, i: tirx.Var, p: tirx.Var) -> tirx.Expr:
        column = p * length + k
        return reduce(tirx.if_then_else(column < vocab, terms[b, i, column], neutral), axis=k)

    return te.compute((*rows, SOFTMAX_PARTS), part, name="parts")


def _partial_sums(terms: te.Tensor) -> te.Tensor:
    return _parts(terms, te.sum, tirx.const(0, terms.dtype))


def _partial_maxima(terms: te.Tensor) -> te.Tensor:
    return _parts(terms, te.max, tirx.min_value(terms.dtype))


def attach_softmax(mod: IRModule) -> IRModule:
    """Add ``softmax_with_temperature``: logits ``[batch, 1, vocab]`` and temperatures ``[batch]`` to probabilities.

    At temperature 0, the likeliest tokens share the probability equally.
    """
    batch_size, vocab_size = tirx.Var("batch_size", "int64"), tirx.Var("vocab_size", "int64")
    logits = relax.Var("logits", relax.TensorType([batch_size, 1, vocab_size], "float32"))
    temperature = relax.Var("temperature", relax.TensorType([batch_size], "float32"))
    one = relax.const(1.0, "float32")
    builder = relax.BlockBuilder(mod)

    with builder.function("softmax_with_temperature", [logits, temperature]):
        with builder.dataflow():
            scale = builder.emit(relax.op.reshape(temperature, (batch_size, 1, 1)))
            random = builder.emit(relax.op.greater(scale, relax.const(GREEDY_TEMPERATURE, "float32")))
            scaled = builder.emit(logits / relax.op.where(random, scale, one))
            maxima = builder.emit_te(_partial_maxima, scaled, primfunc_name_hint="softmax_partial_maxima")
            most = builder.emit(relax.op.max(maxima, axis=-1, keepdims=True))
            likeliest = builder.emit(relax.op.astype(relax.op.equal(scaled, most), "float32"))
            terms = builder.emit(relax.op.where(random, relax.op.exp(scaled - most), likeliest))
            sums = builder.emit_te(_partial_sums, terms, primfunc_name_hint="softmax_partial_sums")
            total = builder.emit(relax.op.sum(sums, axis=-1, keepdims=True))
            output = builder.emit_output(terms / total)
        builder.emit_func_output(output)
    return builder.finalize()
