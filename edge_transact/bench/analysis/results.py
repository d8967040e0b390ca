"""Results: the repetitions of one model on one device at one pair of lengths, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

THROTTLING = 1
"""``ThermalStatus`` LIGHT: from here on Android says that it throttles."""

DURATIONS = ("load_s", "kernel_build_s", "ttft_s", "prefill_s", "decode_s", "e2e_s")


def make_results(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One result for each (device, model build, target, lengths), in the order in which they were first measured.

    Every field of the contract is there: medians with a ``*_std`` (sample standard deviation, null for one
    repetition); llama-bench's fields (``test``, ``n_prompt``, ``n_gen``, ``n_depth``, ``avg_ns``, ``stddev_ns``,
    ``avg_ts``, ``stddev_ts``, ``samples_ns``, ``samples_ts`` ...), which describe a whole repetition as its ``pg``
    tests do; and what a phone adds. ``samples`` are the repetitions themselves.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        if record["kind"] == "repetition":
            names = ("serial", "model_digest", "target", "prefill_tokens", "decode_tokens")
            groups.setdefault(tuple(record[name] for name in names), []).append(record)
    return [_result(group) for group in groups.values()]


def _result(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, last = samples[0], samples[-1]
    prompt, decode = first["prefill_tokens"], first["decode_tokens"]
    e2e = [sample["e2e_s"] for sample in samples]
    speeds = [(prompt + decode) / seconds for seconds in e2e]
    steps = sorted(step for sample in samples for step in sample["decode_steps_s"])
    prefill_tok_s = prompt / median(sample["prefill_s"] for sample in samples)
    decode_s = median(sample["decode_s"] for sample in samples)
    decode_tok_s = (decode - 1) / decode_s if decode_s > 0 else None
    read = first["decode_read_bytes"] * decode_tok_s / 1e9 if decode_tok_s else None
    energy = _median(samples, "energy_j")
    statuses = [sample["thermal_status"] for sample in samples if sample["thermal_status"] is not None]
    result: dict[str, Any] = {
        "model": first["model"],
        "model_digest": first["model_digest"],
        "device": first["device"],
        "serial": first["serial"],
        "target": first["target"],
        "quantization": first["quantization"],
        "prefill_tokens": prompt,
        "decode_tokens": decode,
        "repetitions": len(samples),
        "warmups": first["warmups"],
    }
    built = [sample for sample in samples if not sample["kernels_restored"]]
    for name in DURATIONS:
        # The first visit compiles what later ones restore: a median of both would be neither.
        measured = built or samples if name == "kernel_build_s" else samples
        result[name] = _median(measured, name)
        result[f"{name}_std"] = _spread(measured, name)
    result |= {
        "kernels_restored": not built,
        "prefill_tok_s": prefill_tok_s,
        "decode_tok_s": decode_tok_s,
        "decode_step_p50_s": _percentile(steps, 50),
        "decode_step_p90_s": _percentile(steps, 90),
        "decode_step_p99_s": _percentile(steps, 99),
        "peak_rss_mib": _extreme(samples, "peak_rss_mib", max),
        "kv_mib": first["kv_mib"],
        "weights_mib": first["weights_mib"],
        "temp_start_c": first["temp_start_c"],
        "temp_end_c": last["temp_end_c"],
        "temp_peak_c": _extreme(samples, "temp_peak_c", max),
        "throttled": max(statuses) >= THROTTLING if statuses else None,
        "cpu_mhz": _median(samples, "cpu_mhz"),
        "gpu_mhz": _median(samples, "gpu_mhz"),
        "battery_percent": last["battery_percent"],
        "fixed_performance": first["fixed_performance"],
        "decode_read_gb_s": read,
        "bandwidth_share": read / first["bandwidth_gb_s"] if read and first["bandwidth_gb_s"] else None,
        "energy_per_token_j": energy / decode if energy is not None else None,
        "prefill_slow": decode_tok_s is not None and prefill_tok_s < decode_tok_s,
        "tokens": list(first["tokens"]),
        "tokens_equal": all(sample["tokens"] == first["tokens"] for sample in samples),
        "tokens_checked": first["tokens_checked"],
        "tokens_agreed": _extreme(samples, "tokens_agreed", min),
        "soc": first["soc"],
        "android": first["android"],
        "device_fingerprint": first["device_fingerprint"],
        "build": first["build"],
        # llama-bench's names
        "test": f"pp{prompt}+tg{decode}",
        "n_prompt": prompt,
        "n_gen": decode,
        "n_depth": 0,
        "n_threads": first["threads"],
        "backends": first["target"],
        "model_type": first["model_type"],
        "model_size": round(first["weights_mib"] * 2**20),
        "model_n_params": first["parameters"],
        "build_commit": first["model_digest"][:12],
        "test_time": first["time"],
        "avg_ns": round(fmean(e2e) * 1e9),
        "stddev_ns": round(stdev(e2e) * 1e9) if len(e2e) > 1 else 0,
        "avg_ts": fmean(speeds),
        "stddev_ts": stdev(speeds) if len(speeds) > 1 else 0.0,
        "samples_ns": [round(seconds * 1e9) for seconds in e2e],
        "samples_ts": speeds,
        "samples": [_sample(sample) for sample in samples],
    }
    return result


_SAMPLE_FIELDS = (
    "round", "index", "time", "load_s", "kernel_build_s", "kernels_restored", "ttft_s", "prefill_s", "decode_s",
    "decode_steps_s", "e2e_s", "peak_rss_mib", "temp_start_c", "temp_end_c", "temp_peak_c", "thermal_status", "cpu_mhz",
    "gpu_mhz", "energy_j",
)  # fmt: skip


def _sample(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in _SAMPLE_FIELDS}


def _known(samples: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [sample[name] for sample in samples if sample[name] is not None]


def _median(samples: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = _known(samples, name)
    return median(values) if values else None


def _spread(samples: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = _known(samples, name)
    return stdev(values) if len(values) > 1 else None


def _extreme(samples: Sequence[Mapping[str, Any]], name: str, choose: Any) -> Any:
    values = _known(samples, name)
    return choose(values) if values else None


def _percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Of ordered values, linear between neighbours; None of none."""
    if not ordered:
        return None
    position = percent / 100 * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
