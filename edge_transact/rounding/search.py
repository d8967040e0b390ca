"""The scale of every group by search: all 16 codes, either sign, weighted least squares.

A group's scale is tried at `STEPS` fractions of its largest weight. For each trial, the weights take their nearest
codes, and then the scale is solved for these codes::

    scale = sum h w q / sum h q q      q = clip(round(w / trial), -7, 8)

which leaves the squared error ``sum h w w - (sum h w q) ** 2 / sum h q q``, weighted by the inputs' importance h. The
trial with the least error wins. A positive step gives the largest weight a code near 8, so the scale has its sign; a
negative step gives it a code near -7.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import ROPE_PAIRS, tensor_shapes
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import Quantization
from edge_transact.rounding.importance import InputImportance
from edge_transact.weights import w4
from edge_transact.weights.convert import ParameterSources, RoundingOf

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm import tirx

STEPS = (6.3, 6.65, 7.0, 7.35, 7.7, 8.05, 8.4, 8.75, 9.1, 9.45, -6.3, -6.65, -7.0, -7.35)
"""What the largest weight is divided by. MLC's scale is 7, not solved again."""

FP16_OVERFLOW = 65520.0
"""The least number that is infinite in fp16."""

SEARCHED_ROWS = 4096
"""Rows of a matrix that are fp32 at once."""

LANES = 8
"""Groups that are searched together, one per lane. Fixed, so that every CPU adds in the same order."""


def searching(checkpoint: Checkpoint, sources: ParameterSources, quantization: Quantization) -> RoundingOf:
    """How `search` rounds the parameters of the definition, for `weights.convert.convert`."""
    importance_of = InputImportance(checkpoint)

    def rounding(name: str) -> w4.RoundRows:
        _kernel(quantization)  # compiled here, because rows are rounded in several threads
        # All parts of a joined parameter read the same inputs.
        importance = importance_of(sources[name][0][0])
        return functools.partial(search, importance=importance, quantization=quantization)

    return rounding


@torch.no_grad()
def searched_scales(checkpoint: Checkpoint, quantization: Quantization) -> dict[str, torch.Tensor]:
    """The scales that `search` finds for all matrices of a model, where training through the grid begins.

    ``[rows, groups]`` in the model's dtype, by the checkpoint's names. Raises an `EdgeTransactError` if one isn't
    finite.
    """
    importance_of = InputImportance(checkpoint)
    found = {}
    for name, shape in tensor_shapes(checkpoint.plan).items():
        if len(shape) == 2 and not name.endswith(ROPE_PAIRS):
            parts = checkpoint.tensor(name).split(SEARCHED_ROWS)
            scales = [search(rows, importance=importance_of(name), quantization=quantization)[1] for rows in parts]
            found[name] = torch.cat(scales)
            if not found[name].isfinite().all():
                error = w4.not_finite(quantization)
                raise EdgeTransactError(f"{name}: {error.message}", fix=error.fix)
    return found


def search(
    rows: torch.Tensor, first: int = 0, *, importance: torch.Tensor, quantization: Quantization
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounds rows ``[rows, in]`` with searched scales; with the keywords bound, a `w4.RoundRows`.

    Scales are rounded to the dtype in which `quantization` stores them before codes are chosen. The scale of a group
    that isn't finite in the model's dtype is NaN. `importance` is positive, fp32 ``[in]``; `first` is unused.
    """
    groups = w4.grouped(rows.float(), quantization)
    limit = FP16_OVERFLOW if quantization.model_dtype == "float16" else math.inf
    scales = stored(best_scales(groups, importance, quantization, limit), quantization)
    steps = torch.where(scales == 0, torch.inf, scales.float())[..., None]
    levels = (groups / steps).round_().clamp_(*quantization.levels)
    return levels.add_(quantization.zero_point).to(torch.int8).flatten(start_dim=1), scales


def stored(scales: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """Scales in the model's dtype, rounded to the dtype in which shards store them: bf16 stands for fp32."""
    dtype = getattr(torch, quantization.model_dtype)
    return scales.to(torch.bfloat16 if dtype == torch.float32 else dtype).to(dtype)


def best_scales(
    groups: torch.Tensor, importance: torch.Tensor, quantization: Quantization, limit: float = math.inf
) -> torch.Tensor:
    """Searches the scales of groups: fp32 ``[rows, groups]``.

    Args:
        groups: Weights, fp32 ``[rows, groups, 32]``.
        importance: fp32 ``[in]``, positive, where ``in`` is at most ``32 * groups``.
        limit: A group with a weight of this size, or with NaN, gets NaN.
    """
    rows, count, _ = groups.shape
    scales = torch.empty(count, rows + -rows % LANES)
    steps = torch.tensor([*STEPS, limit], dtype=torch.float32)
    kernel = _kernel(quantization)
    by_group = w4.grouped(importance[None], quantization)
    kernel(groups.flatten().contiguous(), by_group.flatten().contiguous(), steps, scales, rows)
    return scales.T[:rows].contiguous()


@functools.cache
def _kernel(quantization: Quantization) -> Callable[..., None]:
    """The search, compiled for this CPU: of weight, importance, steps with the limit, scale, and number of rows."""
    import tvm

    from edge_transact.compiler.lowering import PIPELINE
    from edge_transact.compiler.targets import get_target

    module = tvm.IRModule({"search_scales": _search_scales(quantization)})
    return tvm.compile(module, target=get_target("host").tvm_target(), tir_pipeline=PIPELINE)["search_scales"]


def _search_scales(quantization: Quantization) -> tirx.PrimFunc:
    from tvm import tirx
    from tvm.script import tirx as T
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script.builder import ir as builder

    from edge_transact.compiler.lowering import PLAIN_LOOPS
    from edge_transact.compiler.vector import load, splat, store

    group_size, (least, most) = quantization.group_size, quantization.levels

    def constant(number: float) -> tirx.Expr:
        return splat(T.float32(number), LANES)

    with IRBuilder() as ib, builder.prim_func(private=False, s_tir=True):
        T.func_attr({**PLAIN_LOOPS, "global_symbol": "search_scales"})
        size, groups, columns, trials = T.int64(), T.int64(), T.int64(), T.int64()
        handles = [T.arg(name, T.handle()) for name in ("weight", "importance", "steps", "scale")]
        rows = T.arg("rows", T.int64())
        weight = T.match_buffer(handles[0], (size,), "float32")
        importance = T.match_buffer(handles[1], (groups * group_size,), "float32")
        steps = T.match_buffer(handles[2], (trials,), "float32")
        scale = T.match_buffer(handles[3], (groups, columns), "float32")
        values = T.alloc_buffer((group_size * LANES,), "float32", scope="local")
        gain, best, largest = (T.alloc_buffer((LANES,), "float32", scope="local") for _ in range(3))
        with T.serial(0, columns // LANES) as block, T.serial(0, groups) as group:
            # One row per lane; lanes beyond the last row repeat it.
            row = T.bind(T.min(T.ramp(block * LANES, T.int64(1), LANES), splat(rows - 1, LANES)))
            start = T.bind((row * splat(groups, LANES) + splat(group, LANES)) * splat(T.int64(group_size), LANES))
            high, low = constant(0), constant(0)
            for i in range(group_size):
                w = T.bind(weight[start + splat(T.int64(i), LANES)])
                store(values, w, [i * LANES])
                high, low = T.bind(T.max(high, w)), T.bind(T.min(low, w))
            # In a group of zeros, every code is 0 whatever the step.
            extreme = T.bind(T.Select(high >= -low, high, low))
            store(largest, T.Select(tirx.EQ(extreme, constant(0)), constant(1), extreme), [0])
            store(gain, constant(-1), [0])
            store(best, constant(0), [0])
            with T.serial(0, trials - 1) as trial:
                inverse = T.bind(splat(steps[trial], LANES) / load(largest, [0], LANES))
                # Two sums of each, of which one waits for the other's addition.
                by_weight, by_code = [constant(0), constant(0)], [constant(1e-30), constant(0)]
                for i in range(group_size):
                    w = T.bind(load(values, [i * LANES], LANES))
                    code = T.bind(T.max(T.min(T.nearbyint(w * inverse), constant(most)), constant(least)))
                    weighted = T.bind(code * splat(importance[group * group_size + i], LANES))
                    by_weight[i % 2] = T.bind(by_weight[i % 2] + weighted * w)
                    by_code[i % 2] = T.bind(by_code[i % 2] + weighted * code)
                product = T.bind(by_weight[0] + by_weight[1])
                solved = T.bind(product / (by_code[0] + by_code[1]))
                # What the solution takes off the squared error; NaN if a weight is, and then nothing is gained.
                gained, before = T.bind(product * solved), T.bind(load(gain, [0], LANES))
                store(best, T.Select(gained > before, solved, load(best, [0], LANES)), [0])
                store(gain, T.Select(gained > before, gained, before), [0])
            size_of = load(largest, [0], LANES)
            beyond = T.max(size_of, -size_of) >= splat(steps[trials - 1], LANES)
            refused = tirx.Or(load(gain, [0], LANES) < constant(0), beyond)
            store(scale, T.Select(refused, constant(float("nan")), load(best, [0], LANES)), [group, block * LANES])
    return ib.get()
