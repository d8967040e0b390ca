"""What llama.cpp's ``llama-bench -o jsonl`` measured, as the lines of a bench.

It measures a prompt of n tokens (``pp``) and, after a context of d tokens, n decoded ones (``tg``) each for itself. A
repetition of a bench is both: a prompt, which gives the first token, and the tokens after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from edge_transact.benchmarking.records.lines import FinalLine, Line, LoadLine, RepetitionLine
from edge_transact.reading import checked, parsed

LLAMA_CPP = "llama.cpp"
"""The target of what llama.cpp measures in turns with DISTs."""

_Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class Test(BaseModel):
    """A test as ``llama-bench`` prints it; it has more fields."""

    model_size: _Count
    n_threads: _Count
    n_prompt: _Count
    n_gen: _Count
    n_depth: _Count = 0
    samples_ns: list[Annotated[int, Field(gt=0, lt=1 << 63)]]


def lines_of(rows: Sequence[str], run: str) -> list[Line]:
    """The lines of a run of a prompt, and of an answer after it; a `ValueError` or `EdgeTransactError` for others."""
    where = "llama-bench's output"
    prompt, answer = checked(list[Test], [parsed(row, where) for row in rows], where)
    if prompt.n_gen or answer.n_prompt or len(prompt.samples_ns) != len(answer.samples_ns):
        raise ValueError("not a prompt and an answer")
    size_mib = prompt.model_size / 2**20
    lines: list[Line] = [LoadLine(run=run, threads=prompt.n_threads, weights_mib=size_mib)]
    for index, samples in enumerate(zip(prompt.samples_ns, answer.samples_ns, strict=True)):
        known = {"prefill_tokens": answer.n_depth, "decode_tokens": answer.n_gen, **_seconds(*samples, answer.n_gen)}
        lines.append(RepetitionLine(run=run, index=index, tokens=None, **known))
    return [*lines, FinalLine(run=run)]


def _seconds(prompt_ns: int, answer_ns: int, tokens: int) -> dict[str, Any]:
    """The durations of a repetition. Its first token comes from the prompt."""
    prefill_s, steps = prompt_ns / 1e9, (answer_ns / 1e9 / tokens,) * (tokens - 1)
    durations = {"ttft_s": prefill_s, "prefill_s": prefill_s, "decode_s": sum(steps), "e2e_s": prefill_s + sum(steps)}
    return {**durations, "decode_steps_s": steps}
