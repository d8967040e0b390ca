"""What a runner in Python or in an app is asked to run, as a JSON object. The C++ runner has a command line instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """One run: one model at one pair of lengths. Every line repeats the name of the `run`.

    `check` is the prompt and the greedy tokens of the parity record.
    """

    run: str
    prompt: list[int]
    decode_tokens: int
    repetitions: int
    warmups: int
    check: tuple[list[int], list[int]] | None


@dataclass(frozen=True, kw_only=True)
class HostRequest(RunRequest):
    """A run of a DIST on this host. `threads` is None for one for each big core."""

    dist: str
    batch_size: int
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class AppRequest(RunRequest):
    """A run in an app, of one of the libraries in its ``mlc-package-config.json``."""

    model_lib: str
    timeout_s: float
