"""What llama.cpp's ``llama-bench -o json`` measured, as the records of a bench.

``llama-bench -m FILE.gguf -p 64,256 -n 64 -d 0,64,256 -o json`` measures a prompt of n tokens (``pp``) and, after a
context of d tokens, n decoded ones (``tg``) each for itself. A repetition of a bench is both: a prompt, of which the
first token is chosen, and the tokens after it in the context of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from edge_transact.benchmarking.records.lines import FinalLine, Line, LoadLine, RepetitionLine
from edge_transact.benchmarking.records.record import Record, RepetitionRecord
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.reading import checked, parsed, read_model

LLAMA_CPP = "llama.cpp"
"""The target of what llama.cpp measures in turns with DISTs."""


_Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class Test(BaseModel):
    """A test as ``llama-bench`` prints it; it has more fields."""

    model_filename: str
    model_type: str
    model_size: _Count
    model_n_params: _Count
    backends: str
    build_commit: str
    n_threads: _Count
    n_prompt: _Count
    n_gen: _Count
    n_depth: _Count = 0
    test_time: str
    samples_ns: list[Annotated[int, Field(gt=0, lt=1 << 63)]]


def read_llama_bench(path: Path) -> list[Test]:
    """The tests in a file; an `EdgeTransactError` if it isn't llama-bench's."""
    try:
        return read_model(list[Test], path, "Write it again.", "what llama-bench -o json prints")
    except FileNotFoundError as error:
        raise EdgeTransactError(f"{path} does not exist", fix="Write it with llama-bench -o json.") from error


def repetitions_of(tests: Sequence[Test], measured: Sequence[Record]) -> list[RepetitionRecord]:
    """The repetitions that `tests` add to those of a bench on one device, at the lengths that the bench `measured`.

    Raises:
        UsageError: The bench was on several devices.
        EdgeTransactError: They have no prompt and answer of the bench's lengths.
    """
    places = {(record.serial, record.device) for record in measured}
    if len(places) != 1:
        raise UsageError(
            f"--llama-bench is for one device, and this log has {len(places)}", fix="Name one with --device."
        )
    lengths = sorted({(record.prefill_tokens, record.decode_tokens) for record in measured})
    (place,) = places
    found = [
        record
        for prefill, decode in lengths
        for prompt in tests
        if (prompt.n_prompt, prompt.n_gen, prompt.n_depth) == (prefill, 0, 0)
        for record in _repetitions(prompt, _answer(tests, prompt, decode), *place)
    ]
    if not found:
        wanted = " or ".join(f"-p {prefill} -n {decode} -d 0,{prefill}" for prefill, decode in lengths)
        raise EdgeTransactError(
            "the --llama-bench file has none of the bench's lengths", fix=f"Run llama-bench with {wanted}."
        )
    return found


def lines_of(rows: Sequence[str], run: str) -> list[Line]:
    """The lines of a run that ``llama-bench -o jsonl`` has made: of a prompt alone, and of an answer after it.

    Raises:
        EdgeTransactError: A line isn't llama-bench's.
        ValueError: They aren't the lines of these two tests.
    """
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


def _answer(tests: Sequence[Test], prompt: Test, decode_tokens: int) -> Test | None:
    """The test of decoding after a prompt, with the same file on the same backend."""
    same = prompt.model_filename, prompt.backends, prompt.n_threads
    for test in tests:
        alike = (test.model_filename, test.backends, test.n_threads) == same
        if alike and (test.n_prompt, test.n_gen, test.n_depth) == (0, decode_tokens, prompt.n_prompt):
            return test
    return None


def _repetitions(prompt: Test, answer: Test | None, serial: str, device: str) -> Iterator[RepetitionRecord]:
    if answer is None:
        return
    name = Path(prompt.model_filename).stem
    for index, (prompt_ns, answer_ns) in enumerate(zip(prompt.samples_ns, answer.samples_ns, strict=False)):
        yield RepetitionRecord(
            model=name,
            model_digest=f"{name} {prompt.backends} {prompt.build_commit}",
            model_type=prompt.model_type,
            parameters=prompt.model_n_params,
            quantization="",
            decode_read_bytes=prompt.model_size,
            build={"llama.cpp": prompt.build_commit},
            serial=serial,
            device=device,
            target=f"llama.cpp {prompt.backends}",
            prefill_tokens=prompt.n_prompt,
            decode_tokens=answer.n_gen,
            warmups=1,
            round=0,
            time=prompt.test_time,
            index=index,
            **_seconds(prompt_ns, answer_ns, answer.n_gen),
            tokens=(),
            threads=prompt.n_threads,
            weights_mib=prompt.model_size / 2**20,
        )
