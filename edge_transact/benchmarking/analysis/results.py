"""The results of a bench, as tables and ``--json`` show them, made from a log's records.

``docs/bench-reference.md`` explains the fields. Durations are medians in seconds; ``*_std`` is None for one repetition,
``*_low`` and ``*_high`` for one round, and anything else for a device that doesn't report it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import Any, TypeVar

import numpy as np

from edge_transact.benchmarking.analysis.intervals import METRICS, THROTTLING, duration, speedups, turns_of, warnings_of
from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.benchmarking.records.record import Record, RepetitionRecord, labels

SAMPLE_FIELDS = (
    "session", "round", "index", "time", "load_s", "kernel_build_s", "kernels_restored", "ttft_s", "prefill_s",
    "decode_s", "decode_steps_s", "e2e_s", "peak_rss_mib", "temp_start_c", "temp_end_c", "temp_peak_c", "temp_source",
    "thermal_status", "cpu_mhz", "gpu_mhz", "energy_j", "on_battery", "screen_on", "other_cpu_share",
)  # fmt: skip
"""The fields of a `RepetitionRecord` that a result's ``samples`` show of each repetition."""

Result = Mapping[str, Any]
"""The fields of a result, in the order of CSV columns. ``docs/bench-reference.md`` explains each."""

DURATIONS = ("ttft_s", "prefill_s", "decode_s", "e2e_s")

Samples = Sequence[RepetitionRecord]
Value = TypeVar("Value")


def make_results(records: Iterable[Record], baseline: str | None = None) -> list[Result]:
    """One result for each device, model build, target and lengths, in the order in which they were first measured.

    Sustained visits make none: `sustained.make_sustained` reads them.

    `baseline` is the digest of the model that the others are compared with; None for the first in the log.
    """
    groups: dict[tuple[str, str, str, Lengths], list[RepetitionRecord]] = {}
    for record in named_apart(records):
        if isinstance(record, RepetitionRecord) and record.sustained_s is None:
            key = record.serial, record.model_digest, record.target, record.lengths
            groups.setdefault(key, []).append(record)
    first = next(iter(groups.values()))[0].model_digest if groups else ""
    return [_result(group, _baseline(group[0], groups.values(), baseline or first)) for group in groups.values()]


def named_apart(records: Iterable[Record]) -> list[Record]:
    """The records, with serials in the names of devices that share one, and digests in those of earlier builds."""
    records = list(records)
    devices = labels({record.serial: record.device for record in records})
    latest = {record.model: record.model_digest for record in records}
    return [
        replace(
            record,
            device=devices[record.serial],
            model=record.model
            if record.model_digest == latest[record.model]
            else f"{record.model} ({record.model_digest[:8]})",
        )
        for record in records
    ]


def _baseline(record: RepetitionRecord, groups: Iterable[Samples], digest: str) -> Samples:
    """The repetitions of the baseline that a record is compared with; with the same target, if there are such."""
    matching = [
        group
        for group in groups
        if (group[0].serial, group[0].model_digest, group[0].lengths) == (record.serial, digest, record.lengths)
    ]
    return next((group for group in matching if group[0].target == record.target), matching[0] if matching else [])


def _result(samples: Samples, baseline: Samples) -> Result:
    first, last = samples[0], samples[-1]

    def typical(name: str) -> float | None:
        """The median of a field, of the repetitions that know it."""
        values = _known(getattr(sample, name) for sample in samples)
        return median(values) if values else None

    def most(name: str) -> float | None:
        return max(_known(getattr(sample, name) for sample in samples), default=None)

    decode_s = median(sample.decode_s for sample in samples)
    prefill_tok_s = first.batch_size * first.prefill_tokens / median(sample.prefill_s for sample in samples)
    decode_tok_s = first.batch_size * (first.decode_tokens - 1) / decode_s if decode_s > 0 else None
    steps = [step for sample in samples for step in sample.decode_steps_s or ()]
    read_gb_s = first.decode_read_bytes * decode_tok_s / 1e9 if decode_tok_s else None
    energy_j, thermal_status = typical("energy_j"), most("thermal_status")
    return {
        **_copied(first, "model", "model_digest", "device", "serial", "target", "quantization"),
        **_copied(first, "prefill_tokens", "decode_tokens", "batch_size"),
        "repetitions": len(samples),
        "warmups": first.warmups,
        **_durations(samples),
        **_versus(samples, baseline),
        "prefill_tok_s": prefill_tok_s,
        "decode_tok_s": decode_tok_s,
        **{f"decode_step_p{each}_s": float(np.percentile(steps, each)) if steps else None for each in (50, 90, 99)},
        "peak_rss_mib": most("peak_rss_mib"),
        **_copied(first, "kv_mib", "weights_mib", "temp_start_c"),
        "temp_end_c": last.temp_end_c,
        "temp_peak_c": most("temp_peak_c"),
        "temp_source": last.temp_source,
        "throttled": None if thermal_status is None else thermal_status >= THROTTLING,
        "cpu_mhz": typical("cpu_mhz"),
        "gpu_mhz": typical("gpu_mhz"),
        "battery_percent": last.battery_percent,
        "fixed_performance": first.fixed_performance,
        "other_cpu_share": typical("other_cpu_share"),
        "decode_read_gb_s": read_gb_s,
        "bandwidth_share": read_gb_s / first.bandwidth_gb_s if read_gb_s and first.bandwidth_gb_s else None,
        "energy_per_token_j": energy_j / (first.batch_size * first.decode_tokens) if energy_j is not None else None,
        # A step of a batch decodes a token of each sequence, and one prompt could have a step for each of its tokens.
        "prefill_slow": decode_tok_s is not None and prefill_tok_s < decode_tok_s / first.batch_size,
        "tokens": None if first.tokens is None else list(first.tokens),
        "tokens_equal": all((sample.tokens, sample.text) == (first.tokens, first.text) for sample in samples),
        "tokens_checked": first.tokens_checked,
        "tokens_agreed": min(_known(sample.tokens_agreed for sample in samples), default=None),
        **_copied(first, "soc", "android", "device_fingerprint", "cpu", "runner", "build"),
        **_llama_bench(samples),
        "samples": [_copied(sample, *SAMPLE_FIELDS) for sample in samples],
    }


def _copied(record: RepetitionRecord, *names: str) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _durations(samples: Samples) -> dict[str, float | None]:
    load = _known(sample.load_s for sample in samples)
    # The first visit compiles the kernels that later ones restore. A median of both would be neither.
    compiled = [sample for sample in samples if not sample.kernels_restored]
    kernels = _known(sample.kernel_build_s for sample in compiled or samples)
    found: dict[str, float | None] = {}
    for name, values in (("load_s", load), ("kernel_build_s", kernels)):
        found |= {name: median(values) if values else None, f"{name}_std": _std(values)}
    for metric in DURATIONS:
        seconds = [getattr(sample, metric) for sample in samples]
        interval = duration(turns_of(samples, metric))
        found |= {
            metric: median(seconds),
            f"{metric}_std": _std(seconds),
            f"{metric}_low": interval.low if interval else None,
            f"{metric}_high": interval.high if interval else None,
        }
    return found | {"kernels_restored": not compiled}


def _versus(samples: Samples, baseline: Samples) -> dict[str, Any]:
    own = baseline is samples or not baseline
    ratios = {} if own else speedups(baseline, samples)
    total = ratios.get("e2e_s")
    found: dict[str, Any] = {
        "baseline": None if own else baseline[0].model,
        "pairs": total.pairs if total else 0,
        "verdict": total.verdict if total else None,
        "warnings": warnings_of(samples, [] if own else baseline),
    }
    for metric in METRICS:
        ratio, name = ratios.get(metric), metric.removesuffix("_s")
        found |= {
            f"{name}_speedup": ratio.value if ratio else None,
            f"{name}_speedup_low": ratio.low if ratio else None,
            f"{name}_speedup_high": ratio.high if ratio else None,
        }
    return found


def _llama_bench(samples: Samples) -> dict[str, Any]:
    first = samples[0]
    e2e = [sample.e2e_s for sample in samples]
    speeds = [first.batch_size * (first.prefill_tokens + first.decode_tokens) / seconds for seconds in e2e]
    test = f"pp{first.prefill_tokens}+tg{first.decode_tokens}"
    return {
        "test": test if first.batch_size == 1 else f"{first.batch_size} x {test}",
        "n_prompt": first.prefill_tokens,
        "n_gen": first.decode_tokens,
        "n_depth": 0,
        "n_threads": first.threads,
        "backends": first.target,
        "model_type": first.model_type,
        "model_size": round(first.weights_mib * 2**20),
        "model_n_params": first.parameters,
        "build_commit": first.model_digest[:12],
        "test_time": first.time,
        "avg_ns": round(fmean(e2e) * 1e9),
        "stddev_ns": round(stdev(e2e) * 1e9) if len(e2e) > 1 else 0,
        "avg_ts": fmean(speeds),
        "stddev_ts": stdev(speeds) if len(speeds) > 1 else 0.0,
        "samples_ns": [round(seconds * 1e9) for seconds in e2e],
        "samples_ts": speeds,
    }


def _known(values: Iterable[Value | None]) -> list[Value]:
    return [value for value in values if value is not None]


def _std(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None of fewer than two values."""
    return stdev(values) if len(values) > 1 else None
