"""``python -m benchmarks.gguf DIST...``: the perplexity of DISTs in their host libraries and, as GGUF, in llama.cpp.

Both compute with the same codes and scales on the same windows of ``demo:sotu``. What they differ in is arithmetic:
llama.cpp rounds the inputs of Q4_0 matrices to 8 bits.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from benchmarks import llama_cpp, page
from benchmarks.subjects import Subject
from edge_transact.cache import cache_directory
from edge_transact.evaluate.models import evaluate_models
from edge_transact.evaluate.perplexity import windows_of
from edge_transact.export.gguf import export_gguf
from edge_transact.inputs import read_text
from edge_transact.runtime.text import TextCodec

TEXT, WINDOW = "demo:sotu", 512


def perplexity(running: Subject, token_ids: list[int], window: int, windows: int) -> float:
    """The perplexity of llama.cpp's model, as `edge_transact.evaluate.perplexity` defines it."""
    cut = windows_of(token_ids, window, windows)
    logprobs = [value for ids in cut for value in running.ask(logprobs=list(ids))["logprobs"]]
    return math.exp(-sum(logprobs) / len(logprobs))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dists", nargs="+", type=Path, help="DISTs with a library for this host")
    parser.add_argument("--windows", type=int, default=4, help=f"windows of {WINDOW} tokens")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="edge-transact-") as scratch:
        for dist in arguments.dists:
            exported = export_gguf(str(dist), Path(scratch) / f"{dist.name}.gguf")
            (ours,) = evaluate_models([str(dist)], text=TEXT, window=WINDOW, max_windows=arguments.windows)
            ids = TextCodec(dist).encode(read_text(TEXT, "evaluation"))
            running = llama_cpp.start(exported.path, cache_directory() / "node-llama-cpp", threads=2)
            try:
                theirs = perplexity(running, ids, WINDOW, arguments.windows)
            finally:
                running.close()
            size = f"{exported.size_bytes / 2**20:.1f} MiB"
            rows.append([dist.name, exported.architecture, size, f"{ours['perplexity']:.3f}", f"{theirs:.3f}"])
    print(page.table(["DIST", "architecture", "GGUF", "host library", "llama.cpp"], rows))


if __name__ == "__main__":
    main()
