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
    """All fields of a result, in the order of CSV columns. ``docs/bench-reference.md`` explains each."""

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
