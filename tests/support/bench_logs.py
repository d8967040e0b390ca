"""Records as a bench writes them, for tests of what is made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_transact.bench.records.log import read_records


def repetition(seconds: float = 1.0, **changed: Any) -> dict[str, Any]:
    """A record of one repetition that took so long: a fifth of it for the prompt."""
    prompt, decode = changed.get("prefill_tokens", 64), changed.get("decode_tokens", 5)
    steps = [0.8 * seconds / (decode - 1)] * (decode - 1)
    record = {
        "schema": 2, "kind": "repetition", "model": "m", "model_digest": "d" * 64, "model_type": "edge_llama",
        "parameters": 1_000_000, "quantization": "q4f16_0", "decode_read_bytes": 600_000_000, "build": {},
        "serial": "s1", "device": "Phone", "soc": "SM8650", "android": "14", "device_fingerprint": "f",
        "bandwidth_gb_s": 76.8, "fixed_performance": True, "target": "android", "prefill_tokens": prompt,
        "decode_tokens": decode, "warmups": 1, "round": 0, "time": "2026-01-01T00:00:00+00:00", "index": 0,
        "ttft_s": 0.2 * seconds, "prefill_s": 0.2 * seconds, "decode_s": sum(steps), "decode_steps_s": steps,
        "e2e_s": seconds, "peak_rss_mib": 500.0, "load_s": 2.0, "kernel_build_s": 9.0, "kernels_restored": False,
        "threads": 4, "kv_mib": 40.0,
        "weights_mib": 600.0, "tokens_checked": 17, "tokens_agreed": 17, "tokens": list(range(decode)),
        "temp_start_c": 30.0, "temp_end_c": 34.0, "temp_peak_c": 35.0, "thermal_status": 0, "cpu_mhz": 3000.0,
        "gpu_mhz": None, "battery_percent": 80, "energy_j": None,
    }  # fmt: skip
    return {**record, **changed}


def write_log(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def repetitions(log: Path) -> list[dict[str, Any]]:
    """The repetitions that a log holds."""
    return [record for record in read_records(log) if record["kind"] == "repetition"]
