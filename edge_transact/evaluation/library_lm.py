"""A host library as lm-evaluation-harness's model. Imports lm-eval."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch.nn.utils.rnn import pad_sequence

from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.generation import generate

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedTokenizerBase

    from edge_transact.runtime.host import HostModel

PROMPTS_PER_SEQUENCE = 16
"""Prompts that lm-eval hands over at once, for each sequence that the library takes: at their end, as few sequences as
are left are decoded."""


class LibraryLM(HFLM):
    """A host library that generates several answers at once, if it takes several sequences, and scores one text at a
    time: logits of every token of several texts would take gigabytes.
    """

    def __init__(self, library: HostModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(
            LibraryNetwork(library),
            backend="causal",
            tokenizer=tokenizer,
            max_length=library.context_window_size,
            batch_size=1,
        )
        self._library = library

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        if self._library.max_batch_size > 1:
            self.batch_size_per_gpu = PROMPTS_PER_SEQUENCE * self._library.max_batch_size
        try:
            return super().generate_until(requests, disable_tqdm)
        finally:
            self.batch_size_per_gpu = 1

    def _model_generate(
        self,
        context: torch.Tensor,
        max_length: int,
        stop: list[str],
        *,
        attention_mask: torch.Tensor,
        do_sample: bool = False,
        **_: Any,
    ) -> torch.Tensor:
        """Prompts, padded on the left, with their answers, padded on the right: ids ``[n, at most max_length]``."""
        if do_sample:
            raise EdgeTransactError(
                "the task samples its answers, but a DIST takes the likeliest token",
                fix="Set do_sample: false in the task's generation_kwargs, or evaluate the checkpoint.",
            )
        prompts = [row[mask.bool()].tolist() for row, mask in zip(context, attention_mask, strict=True)]
        # One for each prompt: a criterion of several ends only when all of them have.
        criteria = [stop_sequences_criteria(self.tokenizer, stop, 0, 1) for _ in prompts]

        def ends(index: int, tokens: list[int]) -> bool:
            return bool(criteria[index](torch.tensor([tokens]), None).all())

        answers = dict(generate(self._library, prompts, max_length - context.shape[1], ends))
        rows = [torch.tensor(answers[index]) for index in range(len(prompts))]
        padded = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        return torch.cat([context, padded], dim=1)


class LibraryNetwork:
    """A host library with the parts of a transformers model that `HFLM` calls to score a text."""

    config = None
    device = torch.device("cpu")

    def __init__(self, library: HostModel) -> None:
        self._library = library

    def __call__(self, ids: torch.Tensor) -> SimpleNamespace:
        """Returns ``logits``, float32 ``[1, n, vocab_size]``, for token ids ``[1, n]``."""
        return SimpleNamespace(logits=torch.from_numpy(self._library.window_logits(ids[0].tolist()))[None])
