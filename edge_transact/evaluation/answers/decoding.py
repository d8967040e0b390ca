"""Greedy decoding of several prompts side by side, in torch or in a host library."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from edge_transact.evaluation.answers.degenerate import cycles
from edge_transact.runtime.generation import generate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edge_transact.runtime.host import HostModel

BATCH = 18
"""Prompts that torch answers at once."""

TOKENS_PER_ROUND = 40
"""Tokens of prompts that torch computes in the time of a round, in which each answer gets a token: a round takes about
as long as reading all weights. Measured with SmolLM2 in fp32 on a thread."""

Ids = list[int]


def decode_in_library(
    library: HostModel,
    prompts: Sequence[Sequence[int]],
    stops: Collection[int],
    max_tokens: int,
    advance: Callable[[float], None],
) -> list[Ids]:
    """The likeliest tokens after each prompt, the token that ends them included.

    As many prompts are answered at once as the library takes. What all prompts begin with, such as the system message,
    stays in the KV cache.

    Raises:
        EdgeTransactError: A prompt doesn't fit into the context window.
    """
    answers: list[Ids] = [[] for _ in prompts]
    decoded = generate(library, prompts, max_tokens, lambda _, so_far: _is_last(so_far, stops), _shared(prompts))
    for index, tokens in decoded:
        answers[index] = tokens
        advance(1)
    return answers


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, fewer than any of them has."""
    # Whatever the first and the last of the sorted prompts begin with, those between them do, too.
    ordered = sorted(map(list, prompts))
    pairs = zip(ordered[0][:-1], ordered[-1][:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_last(tokens: Ids, stops: Collection[int]) -> bool:
    """Whether an answer ends with its last token, or goes in circles."""
    return tokens[-1] in stops or cycles(tokens)


def decode_in_torch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stops: Collection[int],
    max_tokens: int,
    advance: Callable[[float], None],
) -> list[Ids]:
    """The likeliest tokens after each prompt, the token that ends them included, `BATCH` prompts at once.

    Args:
        model: A causal language model on any device. Whether it is in training mode stays as it is.
        advance: Called with what was done, in answers. Work counts rather than answers: most end early, and those that
            don't take as long as all.
    """
    import torch

    # Of similar length, so that little is padded.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[Ids] = [[] for _ in prompts]
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                decoded = _decode_batch(model, [prompts[row] for row in rows], stops, max_tokens, advance)
                for row, tokens in zip(rows, decoded, strict=True):
                    answers[row] = tokens
    finally:
        model.train(training)
    return answers


def _decode_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stops: Collection[int],
    max_tokens: int,
    advance: Callable[[float], None],
) -> list[Ids]:
    """Prompts are padded on the left. Rows that have ended leave the batch."""
    import torch
    from transformers import DynamicCache

    device = model.get_input_embeddings().weight.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=model.config)
    answers: list[Ids] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    first = 1 + ids.numel() / TOKENS_PER_ROUND
    answers_per_round = len(prompts) / (first + max_tokens - 1)
    done = 0.0
    for count in range(1, max_tokens + 1):
        # By place: transformers 5.16 renamed the cache's argument.
        logits = model(ids, mask, positions, cache, use_cache=True, logits_to_keep=1).logits[
            :, -1
        ]  # [rows, vocab_size]
        tokens = logits.argmax(dim=-1).tolist()
        worked = answers_per_round * (first if count == 1 else 1)
        advance(worked)
        done += worked
        going = []
        for place, (row, token) in enumerate(zip(active, tokens, strict=True)):
            answers[row].append(token)
            if not (count == max_tokens or _is_last(answers[row], stops)):
                going.append(place)
        if not going:
            break
        if len(going) < len(active):
            chosen = torch.tensor(going, device=device)
            cache.batch_select_indices(chosen)
            mask, positions = mask[chosen], positions[chosen]
            active, tokens = [active[place] for place in going], [tokens[place] for place in going]
        ids = torch.tensor(tokens, device=device)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        positions = positions[:, -1:] + 1
    advance(len(prompts) - done)  # of the rounds that nobody needed
    return answers
