"""Records as a bench writes them, for tests of what is made from them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from edge_transact.benchmarking.records.log import read_records, to_line
from edge_transact.benchmarking.records.readings import Reading
from edge_transact.benchmarking.records.record import Record, RepetitionRecord, VisitContext, VisitRecord


def repetition(seconds: float = 1.0, **changed: Any) -> RepetitionRecord:
    """The record of one repetition that took `seconds`, a fifth of it for the prompt."""
    decode = changed.get("decode_tokens", 5)
    steps = (0.8 * seconds / (decode - 1),) * (decode - 1)
    record = {
        "model": "m", "model_digest": "d" * 64, "model_type": "edge_llama", "parameters": 1_000_000,
        "quantization": "q4f16_0", "decode_read_bytes": 600_000_000, "build": {}, "serial": "s1", "device": "Phone",
        "soc": "SM8650", "android": "14", "device_fingerprint": "f", "bandwidth_gb_s": 76.8, "fixed_performance": True,
        "target": "android", "prefill_tokens": 64, "decode_tokens": decode, "warmups": 1, "round": 0,
        "time": "2026-01-01T00:00:00+00:00", "index": 0, "ttft_s": 0.2 * seconds, "prefill_s": 0.2 * seconds,
        "decode_s": sum(steps), "decode_steps_s": steps, "e2e_s": seconds, "peak_rss_mib": 500.0, "load_s": 2.0,
        "kernel_build_s": 9.0, "kernels_restored": False, "threads": 4, "kv_mib": 40.0, "weights_mib": 600.0,
        "tokens_checked": 17, "tokens_agreed": 17, "tokens": tuple(range(decode)), "temp_start_c": 30.0,
        "temp_end_c": 34.0, "temp_peak_c": 35.0, "thermal_status": 0, "cpu_mhz": 3000.0, "gpu_mhz": None,
        "battery_percent": 80, "energy_j": None,
    }  # fmt: skip
    return RepetitionRecord(**{**record, **changed})


def in_rounds(*seconds: float, **changed: Any) -> list[RepetitionRecord]:
    """Repetitions that took so long, one in each round of a bench."""
    return [repetition(value, round=number, session="a", **changed) for number, value in enumerate(seconds)]


def visit(trace: Sequence[Reading] = (), **changed: Any) -> VisitRecord:
    """The record of the end of a visit."""
    context = repetition(**changed)
    values = {each.name: getattr(context, each.name) for each in fields(VisitContext)}
    return VisitRecord(**values, error=None, trace=tuple(trace))


def bench_of(seconds: Mapping[str, Sequence[float]]) -> list[Record]:
    """What a bench of models writes whose repetitions take so long with a prompt of 64 tokens, and 4 times with 256."""
    trace = [Reading(at_s=float(second), temp_c=30 + second / 10) for second in range(60)]
    records: list[Record] = []
    for model, each in seconds.items():
        for prefill in (64, 256):
            common = {"model": model, "model_digest": model, "prefill_tokens": prefill, "build": {"torch": "2"}}
            records += [*in_rounds(*(prefill / 64 * one for one in each), **common), visit(trace, **common)]
    return records


def write_log(path: Path, records: Sequence[Record]) -> Path:
    """Write a log with these records."""
    path.write_text("".join(map(to_line, records)))
    return path


def repetitions(log: Path) -> list[RepetitionRecord]:
    """The repetitions in a log."""
    return [record for record in read_records(log) if isinstance(record, RepetitionRecord)]
