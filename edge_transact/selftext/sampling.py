"""Samples rows of tokens from a model, many at once, so that each weight that is read serves all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch

TOP = 200
"""Only the likeliest tokens are drawn: beyond them is noise that no prompt would lead to."""


Turns = tuple[list[int], list[int]]
"""The tokens of a chat template from a question to its answer, and from an answer to the next question.

They are not sampled: they follow the first one of them that is drawn.
"""


@torch.inference_mode()
def sample(
    model: torch.nn.Module,
    prompts: torch.Tensor,
    length: int,
    generator: torch.Generator,
    turns: Turns | None = None,
    advance: Callable[[float], None] = lambda tokens: None,
) -> torch.Tensor:
    """Continues prompts ``[rows, prompt]`` at temperature 1 to int64 ``[rows, length]``, prompts included.

    Of chats, prompts end where the user's first question begins. `advance` moves a progress bar by a number of tokens.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    # `past_key_values` is the argument's name before transformers 5.16.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    arguments = {name: DynamicCache(config=model.config), "use_cache": True, "logits_to_keep": 1}
    rows = torch.empty(len(prompts), length, dtype=torch.int64)
    rows[:, : prompts.shape[1]] = prompts
    forced: list[list[int]] = [[] for _ in prompts]
    roles = [0] * len(prompts)
    output = model(prompts.to(device), **arguments)
    for position in range(prompts.shape[1], length):
        likely, tokens = output.logits[:, -1].float().topk(min(TOP, output.logits.shape[-1]))
        drawn = torch.multinomial(likely.softmax(dim=-1).cpu(), 1, generator=generator)
        column = tokens.cpu().gather(1, drawn)[:, 0]
        if turns:
            for row, token in enumerate(column.tolist()):
                if not forced[row] and token == turns[roles[row]][0]:
                    forced[row] = list(turns[roles[row]])
                    roles[row] = 1 - roles[row]
                if forced[row]:
                    column[row] = forced[row].pop(0)
        rows[:, position] = column
        advance(len(prompts))
        if position + 1 < length:
            output = model(column[:, None].to(device), **arguments)
    return rows
