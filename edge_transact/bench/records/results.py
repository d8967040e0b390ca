"""The results of a bench, as tables and ``--json`` show them: the one list of their fields, and of their order.

A result summarizes the repetitions of one model build on one device, with one target, at one pair of lengths.
Durations are medians of its repetitions, in seconds; ``*_std`` is the sample standard deviation, None for a single
repetition. ``*_low`` and ``*_high`` are the ends of 95 % confidence intervals, None for a single round. ``*_speedup``
is how many times as fast as the baseline. Speeds count the tokens of all sequences of a batch; a step decodes one token
of each. What a device doesn't report is None.
"""

from __future__ import annotations

from typing import Any, TypedDict

SAMPLE_FIELDS = (
    "session", "round", "index", "time", "load_s", "kernel_build_s", "kernels_restored", "ttft_s", "prefill_s",
    "decode_s", "decode_steps_s", "e2e_s", "peak_rss_mib", "temp_start_c", "temp_end_c", "temp_peak_c",
    "thermal_status", "cpu_mhz", "gpu_mhz", "energy_j", "other_cpu_share",
)  # fmt: skip
"""The fields of a `RepetitionRecord` that `Result.samples` shows of each repetition."""


class Result(TypedDict):
    """All fields of a result, in the order of CSV columns.

    Attributes:
        load_s: Library, weights and KV cache, without kernels.
        kernel_build_s: Kernels compiled on the device, or restored; part of no other duration.
        ttft_s: Time to the first token; of a batch, until each answer has it.
        prefill_s: The prompts and the choice of the first tokens.
        decode_s: The tokens after the first.
        e2e_s: The complete repetition.
        kernels_restored: Whether no visit had to compile kernels.
        baseline: Name of the first model; None if this result is its own, or if there is none to compare with.
        pairs: Rounds in which both took turns. 0 if they didn't: then the repetitions are compared without pairs.
        verdict: Of `e2e_speedup`: ``faster``, ``slower``, ``noise`` if the interval holds 1, ``unknown`` without one.
        warnings: Imprecise results or ratios: how imprecise, and the likely cause.
        decode_tok_s: Speed of the tokens after the first; None if there are none.
        decode_step_p50_s: Percentiles over the decoded tokens of all repetitions.
        peak_rss_mib: Peak resident memory of the process.
        kv_mib: KV cache of a full context.
        weights_mib: Shards on disk.
        throttled: Whether Android's ``ThermalStatus`` was LIGHT or worse.
        cpu_mhz: Median clock of the fastest core.
        gpu_mhz: Median clock of the GPU.
        other_cpu_share: Median share of all CPU cores that other processes took; hosts only.
        decode_read_gb_s: Bytes that a decoded token must read, divided by its time.
        bandwidth_share: The same as a share of the chip's peak bandwidth.
        energy_per_token_j: Energy of a repetition divided by its generated tokens.
        prefill_slow: Whether prefill is slower than decoding as many tokens, the sign of a bad kernel.
        tokens: Token ids of the first repetition; None from an app, whose engine tells only their text.
        tokens_equal: Whether all repetitions generated the same.
        tokens_checked: Tokens of the build's parity record.
        tokens_agreed: Tokens of it that the library generated before the first difference.
        build: Versions that the DIST was built with.
        test: This and the following fields are those of llama.cpp's llama-bench, for a complete repetition, as in its
            ``pg`` tests.
        samples: The repetitions, each with `SAMPLE_FIELDS`.
    """

    model: str
    model_digest: str
    device: str
    serial: str
    target: str
    quantization: str
    prefill_tokens: int
    decode_tokens: int
    batch_size: int
    repetitions: int
    warmups: int
    load_s: float | None
    load_s_std: float | None
    kernel_build_s: float | None
    kernel_build_s_std: float | None
    ttft_s: float
    ttft_s_std: float | None
    ttft_s_low: float | None
    ttft_s_high: float | None
    prefill_s: float
    prefill_s_std: float | None
    prefill_s_low: float | None
    prefill_s_high: float | None
    decode_s: float
    decode_s_std: float | None
    decode_s_low: float | None
    decode_s_high: float | None
    e2e_s: float
    e2e_s_std: float | None
    e2e_s_low: float | None
    e2e_s_high: float | None
    kernels_restored: bool
    baseline: str | None
    pairs: int
    verdict: str | None
    warnings: list[str]
    ttft_speedup: float | None
    ttft_speedup_low: float | None
    ttft_speedup_high: float | None
    decode_speedup: float | None
    decode_speedup_low: float | None
    decode_speedup_high: float | None
    e2e_speedup: float | None
    e2e_speedup_low: float | None
    e2e_speedup_high: float | None
    prefill_tok_s: float
    decode_tok_s: float | None
    decode_step_p50_s: float | None
    decode_step_p90_s: float | None
    decode_step_p99_s: float | None
    peak_rss_mib: float | None
    kv_mib: float | None
    weights_mib: float
    temp_start_c: float | None
    temp_end_c: float | None
    temp_peak_c: float | None
    throttled: bool | None
    cpu_mhz: float | None
    gpu_mhz: float | None
    battery_percent: int | None
    fixed_performance: bool | None
    other_cpu_share: float | None
    decode_read_gb_s: float | None
    bandwidth_share: float | None
    energy_per_token_j: float | None
    prefill_slow: bool
    tokens: list[int] | None
    tokens_equal: bool
    tokens_checked: int | None
    tokens_agreed: int | None
    soc: str | None
    android: str | None
    device_fingerprint: str | None
    build: dict[str, str]
    test: str
    n_prompt: int
    n_gen: int
    n_depth: int
    n_threads: int | None
    backends: str
    model_type: str
    model_size: int
    model_n_params: int
    build_commit: str
    test_time: str
    avg_ns: int
    stddev_ns: int
    avg_ts: float
    stddev_ts: float
    samples_ns: list[int]
    samples_ts: list[float]
    samples: list[dict[str, Any]]
