"""What a runner in Python or in an app is asked to run, as a JSON object. The C++ runner has a command line instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """One run: one model at one pair of lengths.

    Attributes:
        run: Name of the run; every line repeats it.
        prompt: Token ids to prefill.
        decode_tokens: Length of the answer.
        repetitions: Measured repetitions.
        warmups: Repetitions that don't count.
        check: Prompt and greedy tokens of the parity record, or None.
    """

    run: str
    prompt: list[int]
    decode_tokens: int
    repetitions: int
    warmups: int
    check: tuple[list[int], list[int]] | None


@dataclass(frozen=True, kw_only=True)
class HostRequest(RunRequest):
    """A run on this host.

    Attributes:
        dist: Path of the DIST.
        batch_size: How many sequences have the prompt and are decoded together.
        threads: CPU threads, or None for one for each big core.
    """

    dist: str
    batch_size: int
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class AppRequest(RunRequest):
    """A run in an app.

    Attributes:
        model_lib: Which of the app's libraries to run, as in its ``mlc-package-config.json``.
        timeout_s: The longest that the run may take.
    """

    model_lib: str
    timeout_s: float
