"""``android_bench/``'s runner for this machine: the same lines, from the host library, in a process of its own.

A process of its own so that peak memory is the model's, a hang can be ended, and a crash is only a failed run. The
request on stdin is a JSON object with ``dist``, ``run``, ``prompt``, ``decode_tokens``, ``repetitions``, ``warmups``
and ``check`` (null, or two lists of ids). ``TVM_NUM_THREADS`` sets the threads.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    """Entry point of ``python -m edge_transact.bench.drivers.host_runner``."""
    request = json.load(sys.stdin)

    def write(kind: str, **fields: Any) -> None:
        sys.stdout.write(json.dumps({"kind": kind, **fields, "run": request["run"]}) + "\n")
        sys.stdout.flush()

    write("start", pid=os.getpid())
    # Imports are this process's business, not the model's.
    import tvm

    from edge_transact import costs
    from edge_transact.artifacts.manifest import Manifest
    from edge_transact.quantization import get_quantization
    from edge_transact.runtime.host import PAGE_SIZE, HostModel

    dist = Path(request["dist"])
    manifest = Manifest.read(dist)
    start = time.perf_counter()
    model = HostModel.load(dist)
    load_s = time.perf_counter() - start
    pages = -(-model.context_window_size // PAGE_SIZE) + 1
    kv_bytes = pages * PAGE_SIZE * costs.kv_bytes_per_token(manifest.plan, get_quantization(manifest.quantization))
    threads = tvm.get_global_func("runtime.NumThreads")()
    write(
        "load",
        load_s=load_s,
        kernel_build_s=0.0,
        threads=threads,
        weights_mib=manifest.weights_bytes / 2**20,
        kv_mib=kv_bytes / 2**20,
        **_memory(),
    )
    if request["check"]:
        prompt, known = request["check"]
        tokens = repetition(model, prompt, len(known))["tokens"]
        agreed = next(
            (i for i, (ours, theirs) in enumerate(zip(tokens, known, strict=True)) if ours != theirs), len(known)
        )
        write("check", tokens_checked=len(known), tokens_agreed=agreed)
    for _ in range(request["warmups"]):
        write("warmup", e2e_s=repetition(model, request["prompt"], request["decode_tokens"])["e2e_s"])
    for index in range(request["repetitions"]):
        result = repetition(model, request["prompt"], request["decode_tokens"])
        write("repetition", index=index, prefill_tokens=len(request["prompt"]), **result, **_memory())
    write("final", **_memory())


def repetition(model: Any, prompt: Sequence[int], decode_tokens: int) -> dict[str, Any]:
    """One repetition, as the C++ runner does it: greedy, the first token from the prefill."""
    model.reset()
    start = time.perf_counter()
    tokens = [int(model.prefill(prompt).argmax())]
    prefill_s = time.perf_counter() - start
    steps = []
    for _ in range(decode_tokens - 1):
        since = time.perf_counter()
        tokens.append(int(model.decode(tokens[-1]).argmax()))
        steps.append(time.perf_counter() - since)
    return {
        "ttft_s": prefill_s,
        "prefill_s": prefill_s,
        "decode_s": sum(steps),
        "decode_steps_s": steps,
        "e2e_s": time.perf_counter() - start,
        "tokens": tokens,
    }


def _memory() -> dict[str, float]:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return {}
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    return {"rss_mib": int(found["VmRSS"]) / 1024, "peak_rss_mib": int(found["VmHWM"]) / 1024}


if __name__ == "__main__":
    main()
