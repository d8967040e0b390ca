"""Several sequences of a library at once: a token of each of them reads the weights once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.host import HostModel, require_room


class Batch:
    """Sequences of a host library, each with tokens of its own, beside the library's own sequence.

    Args:
        model: The library.
        size: How many sequences. They are empty, and their numbers are 0, 1, ...
        tokens: The most tokens of each. Where that is more than the context window, the window is the most.

    Attributes:
        lengths: How many tokens each sequence has.

    Raises:
        EdgeTransactError: The library takes fewer sequences.
    """

    def __init__(self, model: HostModel, size: int, tokens: int) -> None:
        if size > model.max_batch_size:
            raise EdgeTransactError(
                f"the library decodes {model.max_batch_size} sequences at once, not {size}",
                fix=f"Build it again with --max-batch {size}.",
            )
        self.lengths = [0] * size
        self._model = model
        self._tokens = min(tokens, model.context_window_size)
        self._cache = model.make_cache(size, self._tokens)

    def is_full(self, sequence: int) -> bool:
        """Whether a sequence takes no more tokens."""
        return self.lengths[sequence] >= self._tokens

    def rewind(self, sequence: int, length: int) -> None:
        """Forget all tokens of a sequence but the first `length`."""
        if length < self.lengths[sequence]:
            self._model.pop(self._cache, sequence, self.lengths[sequence] - length)
            self.lengths[sequence] = length

    def prefill(self, sequence: int, ids: Sequence[int]) -> np.ndarray:
        """Append tokens to a sequence, in chunks.

        Args:
            sequence: Its number.
            ids: At least one token id.

        Returns:
            Logits after the last one, float32 ``[vocab_size]``.

        Raises:
            EdgeTransactError: The tokens don't fit.
        """
        require_room(self.lengths[sequence] + len(ids), self._tokens)
        for chunk in self._model.chunks(ids):
            logits = self._model.call("prefill", chunk, self._cache, self._model.shape([sequence]))
        self.lengths[sequence] += len(ids)
        return logits.reshape(-1)

    def decode(self, tokens: Mapping[int, int]) -> np.ndarray:
        """Append a token to each of some sequences.

        Args:
            tokens: At least one token id, by the number of its sequence.

        Returns:
            Logits after each, in that order, float32 ``[len(tokens), vocab_size]``.

        Raises:
            EdgeTransactError: One of the sequences is full.
        """
        require_room(1 + max(self.lengths[sequence] for sequence in tokens), self._tokens)
        function = "batch_decode" if len(tokens) > 1 else "decode"
        logits = self._model.call(function, list(tokens.values()), self._cache, self._model.shape(tokens))
        for sequence in tokens:
            self.lengths[sequence] += 1
        return logits.reshape(len(tokens), -1)


def generate(
    model: HostModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    ends: Callable[[int, list[int]], bool],
    shared: int = 0,
) -> Iterator[tuple[int, list[int]]]:
    """Continue prompts with the likeliest tokens, as many prompts at once as the library takes.

    A prompt takes the place of one that has ended. The tokens are the same however many sequences that are: each prompt
    is computed by itself, and a library's ``batch_decode`` gives the logits of its ``decode`` to the bit.

    Args:
        model: The library. Its own sequence stays as it is.
        prompts: Token ids.
        max_tokens: The most tokens that follow a prompt, at least 1. A full context window ends it, too.
        ends: Called with the index of a prompt and the tokens so far that follow it, after each token; whether that was
            the last.
        shared: How many tokens all prompts begin with that are computed only once in each sequence, such as those of a
            system message; fewer than the shortest prompt has.

    Yields:
        The index of each prompt, and the tokens that follow it, in the order in which they end.

    Raises:
        EdgeTransactError: A prompt doesn't fit into the context window.
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
