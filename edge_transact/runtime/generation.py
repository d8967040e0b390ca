"""Continues several prompts at once with a host library."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from edge_transact.runtime.host import Batch, HostModel


def generate(
    model: HostModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    ends: Callable[[int, list[int]], bool],
    shared: int = 0,
) -> Iterator[tuple[int, list[int]]]:
    """Continue prompts greedily, as many at once as the library allows; when one ends, the next starts.

    Args:
        model: The library. Its own sequence isn't changed.
        max_tokens: The most tokens after a prompt, at least 1. A full context window ends it, too.
        ends: Called after each token with the prompt's index and the tokens after it; true ends it.
        shared: Length of a common prefix of all prompts that is computed once; less than the shortest prompt.

    Yields:
        Each prompt's index and the tokens after it, in the order in which they end.
    """
    size = min(model.max_batch_size, len(prompts))
    batch = Batch(model, size, max(map(len, prompts)) + max_tokens)
    waiting = deque(enumerate(prompts))
    free = list(range(size))
    followed: dict[int, tuple[int, list[int]]] = {}  # a prompt's index and what follows it, by sequence
    while waiting or followed:
        if waiting and free:
            sequence = free.pop()
            index, prompt = waiting.popleft()
            followed[sequence] = index, []
            computed = [sequence]
            batch.rewind(sequence, shared)
            if batch.lengths[sequence] < shared:
                batch.prefill(sequence, prompt[:shared])
            logits = batch.prefill(sequence, prompt[shared:])[None]
        else:
            computed = list(followed)
            logits = batch.decode({sequence: tokens[-1] for sequence, (_, tokens) in followed.items()})
        for sequence, token in zip(computed, logits.argmax(axis=-1).tolist(), strict=True):
            index, tokens = followed[sequence]
            tokens.append(token)
            if ends(index, tokens) or len(tokens) == max_tokens or batch.is_full(sequence):
                del followed[sequence]
                free.append(sequence)
                yield index, tokens
