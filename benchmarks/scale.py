"""``python -m benchmarks.scale``: time and memory to prune a LLaMA-2-7B with random weights to the paper's two sizes.

It needs 13.5 GB of disk for the model, and a third of that for each pruned model; all are deleted at the end. The time
is also shown as a multiple of bare matrix products: those of one forward pass of the calibration tokens through the
projections of all layers, at the speed of torch here; and, with ``--profile``, the method's own products and
factorizations, from torch's profiler.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.model_coverage import LLAMA_2_7B, in_own_process, write_random

PRODUCTS = (
    "mm", "addmm", "addmm_", "bmm", "linalg_cholesky_ex", "cholesky_inverse", "linalg_solve_triangular",
    "_linalg_solve_ex", "linalg_lu_solve",
)  # fmt: skip
"""Torch's names of matrix products and factorizations."""

HEADER = ["", "parameters", "time", "times a forward pass's products", "times its own products", "peak memory"]

TARGET_PARAMS = 2.6e9
"""Target size with all layers."""


def budgets(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of `prune` for the paper's two sizes, by how they are typed; the second is scaled to the layers."""
    embeddings = 2 * config["vocab_size"] * config["hidden_size"]
    share = config["num_hidden_layers"] / LLAMA_2_7B["num_hidden_layers"]
    target = f"{round((embeddings + share * (TARGET_PARAMS - embeddings)) / 1e6)}M" if share < 1 else "2.6B"
    return {
        "--heads 6 --intermediate 1536": {"heads": 6, "intermediate": 1536},
        f"--target-params {target}": {"target_params": target},
    }


@dataclass(frozen=True)
class Run:
    """Cost of one pruning.

    Attributes:
        parameters: Remaining parameters.
        seconds: Total time.
        product_s: Time in `PRODUCTS`, if it was profiled.
        rss_mib: Peak resident memory.
    """

    parameters: int
    seconds: float
    product_s: float | None
    rss_mib: float


def prune_one(model: str, output: Path, budget: dict[str, Any], method: str, tokens: int, profiled: bool) -> Run:
    """Prune. Call it in a process of its own."""
    from torch.profiler import ProfilerActivity, profile

    from edge_transact import costs
    from edge_transact.prune import PruneOptions, prune
    from edge_transact.system.memory import peak_rss_mib

    with profile(activities=[ProfilerActivity.CPU]) if profiled else nullcontext() as profiler:
        result = prune(model, output, PruneOptions(**budget, method=method, calibration_tokens=tokens))
    rss_mib, product_s = peak_rss_mib(), None
    if profiler is not None:
        events = profiler.key_averages()
        product_s = sum(e.self_cpu_time_total for e in events if e.key.removeprefix("aten::") in PRODUCTS) / 1e6
    return Run(costs.parameters(result.checkpoint.plan), result.seconds, product_s, rss_mib)


def forward_products(layers: int, tokens: int) -> float:
    """Seconds of one forward pass's matrix products in pruning's dtype: the best of three for each shape."""
    import torch

    from edge_transact.layerwise.model import BATCH_TOKENS, computation_dtype

    dtype = computation_dtype(torch.bfloat16, torch.device("cpu"))
    hidden, mlp = LLAMA_2_7B["hidden_size"], LLAMA_2_7B["intermediate_size"]
    seconds = 0.0
    for inputs, outputs, count in ((hidden, hidden, 4), (hidden, mlp, 2), (mlp, hidden, 1)):
        batch, weight = (torch.randn(rows, inputs, dtype=dtype) for rows in (BATCH_TOKENS, outputs))
        times = []
        for _ in range(3):
            started = time.perf_counter()
            torch.nn.functional.linear(batch, weight)
            times.append(time.perf_counter() - started)
        seconds += count * min(times)
    return seconds * layers * tokens / BATCH_TOKENS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--method", default="obs")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--layers", type=int, default=32, help="fewer take less time, and as much memory each")
    parser.add_argument("--profile", action="store_true", help="also time its own products, which takes memory")
    parser.add_argument("--scratch", type=Path, help="directory for models")
    arguments = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="scale-") as scratch:
        os.environ["EDGE_TRANSACT_CACHE"] = f"{scratch}/cache"
        model = Path(scratch) / "llama-2-7b"
        config = {**LLAMA_2_7B, "num_hidden_layers": arguments.layers}
        in_own_process(write_random, config, model)
        forward = in_own_process(forward_products, arguments.layers, arguments.tokens)
        for name, budget in budgets(config).items():
            output = Path(scratch) / f"pruned-{len(rows)}"
            run = in_own_process(
                prune_one, str(model), output, budget, arguments.method, arguments.tokens, arguments.profile
            )
            figures = (
                f"{run.parameters / 1e9:.2f} B",
                f"{run.seconds:.0f} s",
                f"{run.seconds / forward:.1f}",
                "" if run.product_s is None else f"{run.seconds / run.product_s:.1f}",
                f"{run.rss_mib / 1024:.2f} GiB",
            )
            rows.append([f"`{name}`", *figures])
            print(page.table(HEADER, rows), flush=True)
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    print(f"\n{arguments.method}, {arguments.layers} layers, {arguments.tokens} tokens. {page.machine(threads)}")


if __name__ == "__main__":
    main()
