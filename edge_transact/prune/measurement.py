"""Scores every layer of a model on calibration windows, holding one layer's weights at a time.

The hidden states of all windows go through layer after layer. Each layer is read from the checkpoint, already cut to
what is kept of it so far, and what it computes is what the whole pruned model would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import layer_config, load_layer
from edge_transact.errors import EdgeTransactError
from edge_transact.progress import bar
from edge_transact.prune.methods import Method
from edge_transact.prune.salience import LayerScores
from edge_transact.prune.selection import LayerSelection
from edge_transact.prune.surgery import pruned_layer
from edge_transact.widths import WidthPlan

BATCH_TOKENS = 2048
"""Tokens of a forward pass: enough for full matrix products, few enough for the activations of a 7B model."""


def measure(
    checkpoint: Checkpoint,
    plan: WidthPlan,
    selections: Sequence[LayerSelection],
    windows: torch.Tensor,
    method: Method,
    description: str,
) -> Iterator[LayerScores]:
    """The scores of layer 0, 1, ... of the model that `selections` leave of a checkpoint.

    Args:
        checkpoint: The source.
        plan: The widths that the selections leave.
        selections: What is kept of each layer.
        windows: int64 token ids, ``[windows, window]``.
        method: Makes each layer's scorer.
        description: For the progress bar.

    Raises:
        EdgeTransactError: The model computes NaN or infinity, named by layer.
    """
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    # fp16 overflows where bf16 and fp32 don't: what was stored in it is computed in fp32.
    dtype = torch.float32 if embedding.dtype == torch.float16 else embedding.dtype
    hidden = embedding[windows].to(dtype)
    del embedding
    batches = hidden.split(max(1, BATCH_TOKENS // windows.shape[1]))
    positions = torch.arange(windows.shape[1])[None]
    rotary = LlamaRotaryEmbedding(layer_config(checkpoint, plan.layers[0]))(hidden, positions)
    with bar(description, plan.num_hidden_layers * len(batches)) as advance:
        for index, (widths, selection) in enumerate(zip(plan.layers, selections, strict=True)):
            layer = load_layer(checkpoint, widths, pruned_layer(checkpoint, index, selection), dtype)
            scorer = method(widths)
            layer.self_attn.o_proj.register_forward_pre_hook(lambda _, inputs, s=scorer: s.add_attention(inputs[0]))
            layer.mlp.down_proj.register_forward_pre_hook(lambda _, inputs, s=scorer: s.add_mlp(inputs[0]))
            for batch in batches:
                with torch.inference_mode():
                    batch.copy_(layer(batch, attention_mask=None, position_embeddings=rotary))
                advance(1)
            scores = scorer.scores()
            if not (scores.heads.isfinite().all() and scores.intermediate.isfinite().all()):
                raise EdgeTransactError(
                    f"{checkpoint.path}: layer {index} computes NaN or infinity on the calibration text",
                    fix="Its weights are damaged, or overflow: convert them to float32 or download them again.",
                )
            yield scores
