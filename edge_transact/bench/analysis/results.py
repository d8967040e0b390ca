"""Makes results from a log's records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import TypeVar, cast

from edge_transact.bench.analysis.doubts import THROTTLING, doubts
from edge_transact.bench.analysis.intervals import duration
from edge_transact.bench.analysis.precision import METRICS, speedups, turns_of
from edge_transact.bench.records.plan import Lengths
from edge_transact.bench.records.record import Record, RepetitionRecord, labels
from edge_transact.bench.records.results import (
    DeviceState,
    Durations,
    Efficiency,
    LlamaBench,
    Memory,
    Origin,
    Result,
    Sample,
    Speeds,
    Subject,
    Tokens,
    Versus,
)

DURATIONS = ("ttft_s", "prefill_s", "decode_s", "e2e_s")

Samples = Sequence[RepetitionRecord]
Value = TypeVar("Value")


def make_results(records: Iterable[Record], baseline: str | None = None) -> list[Result]:
    """One result for each device, model build, target and lengths, in the order in which they were first measured.

    Args:
        records: Records of a log.
        baseline: Digest of the model that the others are compared with; None for the first in the log.
    """
    groups: dict[tuple[str, str, str, Lengths], list[RepetitionRecord]] = {}
    for record in named_apart(records):
        if isinstance(record, RepetitionRecord):
            key = record.serial, record.model_digest, record.target, record.lengths
            groups.setdefault(key, []).append(record)
    first = next(iter(groups.values()))[0].model_digest if groups else ""
    return [_result(group, _baseline(group[0], groups.values(), baseline or first)) for group in groups.values()]


def named_apart(records: Iterable[Record]) -> list[Record]:
    """The records, with names that tell devices and builds apart.

    Devices of one name have their serial in it. Where a DIST was built again, its earlier builds have a part of the
    digest in their name.
    """
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
    speeds = _speeds(samples)
    return {
        **_subject(samples),
        **_durations(samples),
        **_versus(samples, baseline),
        **speeds,
        **_memory(samples),
        **_device_state(samples),
        **_efficiency(samples, speeds),
        **_tokens(samples),
        **_origin(samples[0]),
        **_llama_bench(samples),
        "samples": [_sample(sample) for sample in samples],
    }


def _subject(samples: Samples) -> Subject:
    first = samples[0]
    return {
        "model": first.model,
        "model_digest": first.model_digest,
        "device": first.device,
        "serial": first.serial,
        "target": first.target,
        "quantization": first.quantization,
        "prefill_tokens": first.prefill_tokens,
        "decode_tokens": first.decode_tokens,
        "batch_size": first.batch_size,
        "repetitions": len(samples),
        "warmups": first.warmups,
    }


def _durations(samples: Samples) -> Durations:
    load = _known(sample.load_s for sample in samples)
    # The first visit compiles the kernels that later ones restore. A median of both would be neither.
    compiled = [sample for sample in samples if not sample.kernels_restored]
    kernels = _known(sample.kernel_build_s for sample in compiled or samples)
    measured: dict[str, float | None] = {}
    for metric in DURATIONS:
        seconds = [getattr(sample, metric) for sample in samples]
        known = duration(turns_of(samples, metric))
        measured |= {
            metric: median(seconds),
            f"{metric}_std": _std(seconds),
            f"{metric}_low": known.low if known else None,
            f"{metric}_high": known.high if known else None,
        }
    loading = {
        "load_s": _median(load),
        "load_s_std": _std(load),
        "kernel_build_s": _median(kernels),
        "kernel_build_s_std": _std(kernels),
    }
    return cast("Durations", {**loading, **measured, "kernels_restored": not compiled})


def _versus(samples: Samples, baseline: Samples) -> Versus:
    own = baseline is samples or not baseline
    ratios = {} if own else speedups(baseline, samples)
    found: dict[str, float | None] = {}
    for metric in METRICS:
        ratio, name = ratios.get(metric), metric.removesuffix("_s")
        found |= {
            f"{name}_speedup": ratio.value if ratio else None,
            f"{name}_speedup_low": ratio.low if ratio else None,
            f"{name}_speedup_high": ratio.high if ratio else None,
        }
    total = ratios.get("e2e_s")
    said = {
        "baseline": None if own else baseline[0].model,
        "pairs": total.pairs if total else 0,
        "verdict": total.verdict if total else None,
        "warnings": doubts(samples, [] if own else baseline),
    }
    return cast("Versus", {**said, **found})


def _speeds(samples: Samples) -> Speeds:
    first = samples[0]
    decode_s = median(sample.decode_s for sample in samples)
    steps = sorted(step for sample in samples for step in sample.decode_steps_s or ())
    return {
        "prefill_tok_s": first.batch_size * first.prefill_tokens / median(sample.prefill_s for sample in samples),
        "decode_tok_s": first.batch_size * (first.decode_tokens - 1) / decode_s if decode_s > 0 else None,
        "decode_step_p50_s": _percentile(steps, 50),
        "decode_step_p90_s": _percentile(steps, 90),
        "decode_step_p99_s": _percentile(steps, 99),
    }


def _memory(samples: Samples) -> Memory:
    return {
        "peak_rss_mib": max(_known(sample.peak_rss_mib for sample in samples), default=None),
        "kv_mib": samples[0].kv_mib,
        "weights_mib": samples[0].weights_mib,
    }


def _device_state(samples: Samples) -> DeviceState:
    first, last = samples[0], samples[-1]
    statuses = _known(sample.thermal_status for sample in samples)
    return {
        "temp_start_c": first.temp_start_c,
        "temp_end_c": last.temp_end_c,
        "temp_peak_c": max(_known(sample.temp_peak_c for sample in samples), default=None),
        "throttled": max(statuses) >= THROTTLING if statuses else None,
        "cpu_mhz": _median(_known(sample.cpu_mhz for sample in samples)),
        "gpu_mhz": _median(_known(sample.gpu_mhz for sample in samples)),
        "battery_percent": last.battery_percent,
        "fixed_performance": first.fixed_performance,
        "other_cpu_share": _median(_known(sample.other_cpu_share for sample in samples)),
    }


def _efficiency(samples: Samples, speeds: Speeds) -> Efficiency:
    first = samples[0]
    decode_tok_s = speeds["decode_tok_s"]
    read_gb_s = first.decode_read_bytes * decode_tok_s / 1e9 if decode_tok_s else None
    energy_j = _median(_known(sample.energy_j for sample in samples))
    return {
        "decode_read_gb_s": read_gb_s,
        "bandwidth_share": read_gb_s / first.bandwidth_gb_s if read_gb_s and first.bandwidth_gb_s else None,
        "energy_per_token_j": energy_j / (first.batch_size * first.decode_tokens) if energy_j is not None else None,
        # A step of a batch decodes a token of each sequence, and one prompt could have a step for each of its tokens.
        "prefill_slow": decode_tok_s is not None and speeds["prefill_tok_s"] < decode_tok_s / first.batch_size,
    }


def _tokens(samples: Samples) -> Tokens:
    first = samples[0]
    return {
        "tokens": None if first.tokens is None else list(first.tokens),
        "tokens_equal": all((sample.tokens, sample.text) == (first.tokens, first.text) for sample in samples),
        "tokens_checked": first.tokens_checked,
        "tokens_agreed": min(_known(sample.tokens_agreed for sample in samples), default=None),
    }


def _origin(first: RepetitionRecord) -> Origin:
    return {
        "soc": first.soc,
        "android": first.android,
        "device_fingerprint": first.device_fingerprint,
        "build": first.build,
    }


def _llama_bench(samples: Samples) -> LlamaBench:
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


def _sample(record: RepetitionRecord) -> Sample:
    return {
        "session": record.session,
        "round": record.round,
        "index": record.index,
        "time": record.time,
        "load_s": record.load_s,
        "kernel_build_s": record.kernel_build_s,
        "kernels_restored": record.kernels_restored,
        "ttft_s": record.ttft_s,
        "prefill_s": record.prefill_s,
        "decode_s": record.decode_s,
        "decode_steps_s": None if record.decode_steps_s is None else list(record.decode_steps_s),
        "e2e_s": record.e2e_s,
        "peak_rss_mib": record.peak_rss_mib,
        "temp_start_c": record.temp_start_c,
        "temp_end_c": record.temp_end_c,
        "temp_peak_c": record.temp_peak_c,
        "thermal_status": record.thermal_status,
        "cpu_mhz": record.cpu_mhz,
        "gpu_mhz": record.gpu_mhz,
        "energy_j": record.energy_j,
        "other_cpu_share": record.other_cpu_share,
    }


def _known(values: Iterable[Value | None]) -> list[Value]:
    return [value for value in values if value is not None]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None of fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def _percentile(ordered: Sequence[float], percent: float) -> float | None:
    """A percentile of sorted values, linear between neighbours; None if there are no values."""
    if not ordered:
        return None
    position = percent / 100 * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
