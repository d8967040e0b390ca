"""``python -m benchmarks.batches DIST...``: how fast host libraries decode several sequences together.

The libraries are built with ``--max-batch 8``. Numbers of sequences take turns. At real-time priority (``chrt -f 50``)
other programs don't disturb it. Prints a row of Markdown for each library: the tokens a second of the best step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from edge_transact.bench.records.plan import prompt_ids
from edge_transact.runtime.host import Batch, HostModel

SIZES = (1, 2, 4, 8)
PROMPT_TOKENS, STEPS, ROUNDS = 64, 24, 3


def tokens_per_s(model: HostModel, rounds: int = ROUNDS) -> dict[int, float]:
    """Tokens of all sequences that the best step decodes a second, by the number of sequences.

    Args:
        model: A library; numbers of sequences that it doesn't take are left out.
        rounds: How often each number has its turn.
    """
    prompt = prompt_ids(model.metadata["active_vocab_size"], PROMPT_TOKENS)
    fastest_s: dict[int, float] = {}
    for _ in range(rounds):
        for size in SIZES:
            if size > model.max_batch_size:
                continue
            batch = Batch(model, size, PROMPT_TOKENS + STEPS)
            for sequence in range(size):
                batch.prefill(sequence, prompt)
            for _ in range(STEPS):
                started = time.perf_counter()
                batch.decode(dict.fromkeys(range(size), prompt[0]))
                fastest_s[size] = min(time.perf_counter() - started, fastest_s.get(size, float("inf")))
    return {size: size / seconds for size, seconds in fastest_s.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the libraries that are named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches", description=__doc__)
    parser.add_argument("dists", nargs="+", type=Path, metavar="DIST")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    for dist in given.dists:
        speeds = tokens_per_s(HostModel.load(dist, threads=given.threads))
        print(f"| {dist.name} | {' | '.join(f'{speeds[size]:,.0f}' for size in speeds)} |", flush=True)


if __name__ == "__main__":
    main()
