"""``python -m benchmarks.model_coverage``: time and memory of Android builds of models of real sizes.

Each model gets random weights, which are written shard by shard and deleted after its build: 13.5 GB of disk for the
largest, plus its DIST. The table shows the build's wall time (including parity of two layers), its peak resident memory
(including mapped pages of the checkpoint), and the sizes of its shards and of its archive.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edge_transact.system.cpu import cpu_name

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

LLAMA_2_7B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def _llama(**changes: Any) -> dict[str, Any]:
    return {**LLAMA_2_7B, **changes}


def _pruned(heads: int, intermediate: int) -> dict[str, Any]:
    """LLaMA-2-7B with fewer heads and MLP dims in every layer, as in Table 1 of the TransAct paper."""
    return _llama(num_attention_heads=heads, num_key_value_heads=heads, intermediate_size=intermediate)


MODELS = {
    "Sheared-LLaMA-1.3B": _llama(
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
    ),
    "TransAct-1.3B": _pruned(heads=6, intermediate=1536),
    "TransAct-2.6B": _pruned(heads=16, intermediate=3072),
    "LLaMA-2-7B": LLAMA_2_7B,
}


@dataclass(frozen=True)
class Row:
    """Cost and sizes of one build."""

    model: str
    parameters: int
    seconds: float
    peak_rss_mib: float
    weights_bytes: int
    library_bytes: int
    prefill_error: float


def write_random(config: dict[str, Any], directory: Path) -> None:
    """Write a checkpoint with random bf16 weights and the tokenizer of ``demo:tiny``."""
    import torch

    from edge_transact.artifacts.dist_files import TOKENIZER_FILES
    from edge_transact.checkpoint.layout import tensor_shapes
    from edge_transact.checkpoint.writer import write_shards
    from edge_transact.inputs import resolve_model
    from edge_transact.widths import LayerWidths, WidthPlan

    heads, kv_heads, head_dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    widths = LayerWidths(heads, kv_heads, head_dim, head_dim, config["intermediate_size"])
    layers = (widths,) * config["num_hidden_layers"]
    shapes = tensor_shapes(WidthPlan(config["hidden_size"], config["vocab_size"], False, False, False, layers))
    random = torch.Generator().manual_seed(0)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in shapes.items():
            if len(shape) == 1:
                yield name, torch.ones(shape, dtype=torch.bfloat16)
            else:
                yield name, torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02, generator=random)

    directory.mkdir()
    write_shards(directory, shapes, tensors())
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        path = resolve_model("demo:tiny") / name
        if path.is_file():
            shutil.copyfile(path, directory / name)


def measure(name: str, checkpoint: Path, dist: Path) -> Row:
    """Build a checkpoint for Android. Call it in a process of its own, whose peak memory is then the build's."""
    from edge_transact.building.dist import build
    from edge_transact.building.options import BuildOptions
    from edge_transact.system.memory import peak_rss_mib

    made = build(str(checkpoint), dist, BuildOptions(target=["android"], quant="q4f16_0"))
    manifest = made.manifest
    return Row(
        model=name,
        parameters=manifest.parameters,
        seconds=made.seconds,
        peak_rss_mib=peak_rss_mib(),
        weights_bytes=manifest.weights_bytes,
        library_bytes=(dist / manifest.libraries["android"]).stat().st_size,
        prefill_error=manifest.parity["prefill_error"],
    )


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a fresh process, so that peak memory is the function's own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| model | parameters | build | peak memory | weights | bits a parameter | library | parity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bits = 8 * row.weights_bytes / row.parameters
        lines.append(
            f"| {row.model} | {row.parameters / 1e9:.2f} B | {row.seconds:.0f} s | {row.peak_rss_mib / 1024:.2f} GiB "
            f"| {row.weights_bytes / 2**20:.0f} MiB | {bits:.2f} | {row.library_bytes / 2**20:.2f} MiB "
            f"| {row.prefill_error:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"some of {', '.join(MODELS)}; by default all, the largest last")
    parser.add_argument("--scratch", type=Path, help="directory for checkpoints and DISTs")
    parser.add_argument("--json", type=Path, help="file to write the rows to after each model")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(MODELS):
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    rows: list[Row] = []
    for name in arguments.models or MODELS:
        with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="model-coverage-") as scratch:
            # Not the user's cache, so that nothing is reused, and no gigabytes of random weights stay there.
            os.environ["EDGE_TRANSACT_CACHE"] = f"{scratch}/cache"
            in_own_process(write_random, MODELS[name], Path(scratch) / "checkpoint")
            rows.append(in_own_process(measure, name, Path(scratch) / "checkpoint", Path(scratch) / "dist"))
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        print(table(rows), end="\n\n", flush=True)
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, {os.environ.get('OMP_NUM_THREADS', 'all')} threads for torch")


if __name__ == "__main__":
    main()
