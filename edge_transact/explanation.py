"""Explains where costs and losses are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import provenance_of
from edge_transact.costs.profile import Part, Profile, parts_of, parts_of_layer, read_profile
from edge_transact.inputs.models import resolve_model
from edge_transact.inspection import plotted
from edge_transact.options import Count, OneOf, Option, Options
from edge_transact.quantization import QUANTIZATIONS, default_quantization, get_quantization
from edge_transact.widths import LayerWidths, WidthPlan, read_widths


class ExplainOptions(Options):
    """What bytes and times are counted for."""

    context: Annotated[Count, Option("Tokens in the KV cache, for decode.")] = costs.DEFAULT_CONTEXT
    prefill: Annotated[Count, Option("Tokens of a prompt, for prefill.")] = 256
    quant: Annotated[
        Annotated[str, OneOf(tuple(QUANTIZATIONS), "quantization")],
        Option("Quantization in which bytes are counted: {choices}."),
    ] = default_quantization(["android"])
    profile: Annotated[
        Annotated[Path, Field(strict=False)] | None,
        Option("Profile that predicts times, as edge-transact profile writes it.", example="phone.json"),
    ] = None
    widths: Annotated[
        Annotated[Path, Field(strict=False)] | None,
        Option("Explain MODEL with the widths of this file instead.", example="widths.json"),
    ] = None


@dataclass(frozen=True)
class Block:
    """What an attention or an MLP of a plan takes, or what a model has once (``layer`` is `None`).

    Times are in seconds, with a profile. `relative_loss` is the block's share of the loss by which pruning chose its
    widths, where it recorded one: it ranks cuts, and isn't calibrated to what a plan loses in the end.
    """

    layer: int | None
    block: str
    parameters: int
    weight_bytes: int
    kv_bytes: int = 0
    decode_s: float | None = None
    prefill_s: float | None = None
    relative_loss: float | None = None


def explain_model(model: str, options: ExplainOptions) -> dict[str, Any]:
    """A model's blocks, sums and limits of pruning as JSON; a `UsageError` for a profile or widths of another."""
    checkpoint = Checkpoint.open(resolve_model(model))
    plan = read_widths(options.widths, checkpoint.plan) if options.widths else checkpoint.plan
    profile = read_profile(options.profile) if options.profile else None
    if profile:
        profile.check(plan, options.quant, [options.context, options.prefill])
    made = {} if options.widths else provenance_of(checkpoint.path)
    blocks = blocks_of(plan, options, profile, made.get("losses") or [])
    names = ("parameters", "weight_bytes", "kv_bytes", *(("decode_s", "prefill_s") if profile else ()))
    limits = made.get("limits") or []
    return {
        "model": model,
        "context": options.context,
        "prefill": options.prefill,
        "quantization": options.quant,
        "blocks": [vars(block) for block in blocks],
        "total": {name: sum(getattr(block, name) for block in blocks) for name in names},
        "limits": limits,
        "binds": max(limits, key=lambda limit: limit["measured"] / limit["allowed"])["limit"] if limits else None,
    }


def blocks_of(
    plan: WidthPlan, options: ExplainOptions, profile: Profile | None, losses: Sequence[dict[str, float]]
) -> list[Block]:
    """The blocks in order of layers, and then what the model has once."""
    quantization = get_quantization(options.quant)

    def sizes(block: LayerWidths) -> tuple[int, int]:
        # Beside the widest layer, because a plan has at least one attention and one MLP.
        both, one = plan.with_layers([plan.widest, block]), plan.with_layers([plan.widest])
        weights = costs.weight_bytes(both, quantization) - costs.weight_bytes(one, quantization)
        return costs.parameters(both) - costs.parameters(one), weights

    def times(parts: Sequence[Part]) -> tuple[float | None, float | None]:
        if profile is None:
            return None, None
        return profile.decode_s(parts, options.context), profile.prefill_s(parts, options.prefill)

    blocks = []
    whole = math.fsum(value for of_layer in losses for value in of_layer.values()) or 1.0
    for index, (layer, calls) in enumerate(zip(plan.layers, plan.virtual_layers, strict=True)):
        loss = {name: value / whole for name, value in losses[index].items()} if index < len(losses) else {}
        for name, block in (
            ("attention", replace(layer, intermediate_size=0)),
            ("mlp", LayerWidths(0, 0, 0, 0, layer.intermediate_size)),
        ):
            per_token = 2 * block.num_key_value_heads * plan.cache_head_dim * quantization.model_dtype_bytes
            (parameters, weights), (decode_s, prefill_s) = sizes(block), times(parts_of_layer(plan, block, calls))
            kv_bytes = per_token * options.context
            blocks.append(Block(index, name, parameters, weights, kv_bytes, decode_s, prefill_s, loss.get(name)))
    parameters = costs.parameters(plan) - sum(block.parameters for block in blocks)
    weights = costs.weight_bytes(plan, quantization) - sum(block.weight_bytes for block in blocks)
    decode_s, prefill_s = times([part for part in parts_of(plan) if part.module == "model"])
    return [*blocks, Block(None, "embeddings, head and what is fixed", parameters, weights, 0, decode_s, prefill_s)]


def plot_blocks(explained: dict[str, Any], path: Path, *, force: bool = False) -> None:
    """Draws every quantity of the blocks as bars over the layers. Raises the errors of `plotted`."""
    blocks = [block for block in explained["blocks"] if block["layer"] is not None]
    titles = {
        "weight_bytes": ("weights, MB", 1e-6),
        "kv_bytes": ("KV cache, MB", 1e-6),
        "decode_s": ("decode, ms", 1e3),
        "prefill_s": ("prefill, ms", 1e3),
        "relative_loss": ("relative loss, %", 100.0),
    }
    shown = [name for name in titles if blocks[0][name] is not None]
    with plotted(path, (9, 2 * len(shown)), force=force) as figure:
        for axes, name in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
            title, factor = titles[name]
            attention, mlp = (
                [factor * block[name] for block in blocks if block["block"] == of] for of in ("attention", "mlp")
            )
            axes.bar(range(len(attention)), attention, label="attention")
            axes.bar(range(len(mlp)), mlp, bottom=attention, label="MLP")
            axes.set(ylabel=title, xlabel="layer")
            axes.legend()
