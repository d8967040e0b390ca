"""``python -m benchmarks.phone_gpu``: the figures of ``docs/lab/phone-gpu.md``.

Perplexity: a model and the same model pruned are built for this computer's CPU and for OpenCL. The kernels of the
second library run on an OpenCL device of this CPU; both read the same weights. Windows are prefilled in chunks.

Machine code: Mesa compiles the kernels for phones' GPUs (`benchmarks.mesa`), and what a decoded token takes follows
(`benchmarks.roofline`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine_code, opencl, page
from edge_transact.build.dist import build
from edge_transact.build.options import BuildOptions
from edge_transact.cli.logs import show_logs
from edge_transact.definition import load
from edge_transact.inputs import resolve_model
from edge_transact.inputs.texts import read_text
from edge_transact.progress import track
from edge_transact.prune import PruneOptions, prune
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.runtime.host import HostModel

RATIO, WINDOW = 0.3, 512
MACHINE_CODE = page.RESULTS / "phone_gpu_machine_code.jsonl"
BEFORE = page.RESULTS / "phone_gpu_machine_code_333a127.jsonl"
"""The same rows of the kernels of an earlier commit, measured once."""


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phone_gpu", description=__doc__)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--pruned", help="the model pruned; by default it is pruned by 30 %% first")
    parser.add_argument("--quant", default="q4f16_0", choices=QUANTIZATIONS)
    parser.add_argument("--text", default="demo:sotu")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--only", choices=("perplexity", "machine-code"))
    arguments = parser.parse_args()
    show_logs()
    if arguments.only != "machine-code":
        _perplexity(arguments)
    if arguments.only != "perplexity":
        rows = machine_code.measure()
        _write_rows(rows, MACHINE_CODE)
        machine_code.draw(rows, machine_code.PICTURE)
        for section, text in machine_code.sections(rows, read_rows(BEFORE)).items():
            page.write(section, text, page.DOCS / "lab" / "phone-gpu.md")
            print(text)


def _perplexity(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="edge-transact-phone-gpu-") as temporary:
        scratch = Path(temporary)
        if arguments.pruned is None:
            arguments.pruned = str(scratch / "pruned")
            prune(arguments.model, Path(arguments.pruned), PruneOptions(ratio=RATIO))
        models = {"dense": arguments.model, "pruned": arguments.pruned}
        rows = [{"model": name, **_measured(model, arguments, scratch / name)} for name, model in models.items()]
    text = _table(rows)
    print(text)
    page.write("phone-gpu", text, page.DOCS / "lab" / "phone-gpu.md")
    _write_rows(rows, page.RESULTS / "phone_gpu.jsonl")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of results."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _measured(model: str, arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    dist = directory / "dist"
    build(model, dist, BuildOptions(target=["host"], quant=arguments.quant))
    config = json.loads((dist / "mlc-chat-config.json").read_text())["model_config"]
    path = directory / "phone.so"
    with opencl.executed_here():
        opencl.build_library(load(dist / "definition", config), QUANTIZATIONS[arguments.quant], path)
        phone, host = HostModel(path, dist), HostModel.load(dist)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(resolve_model(model))
        tokens = tokenizer(read_text(arguments.text, "evaluation"))["input_ids"]
        windows = [tokens[i * WINDOW : (i + 1) * WINDOW] for i in range(arguments.windows)]
        losses, divergences = Counter[str](), []
        for window in track(windows, "windows"):
            ours, theirs = _predictions(phone, window), _predictions(host, window)
            ids = np.arange(WINDOW - 1), np.array(window[1:])
            losses.update(phone=-float(ours[ids].mean()), host=-float(theirs[ids].mean()))
            divergences.append(float((np.exp(theirs) * (theirs - ours)).sum(-1).mean()))
        phone.reset()
        phone.prefill(tokens[:8])
        with opencl.counted() as launches:
            phone.decode(tokens[8])
    count = len(windows)
    return {
        "quant": arguments.quant,
        "text": arguments.text,
        "windows": count,
        "host_perplexity": float(np.exp(losses["host"] / count)),
        "phone_perplexity": float(np.exp(losses["phone"] / count)),
        "log_perplexity_difference": (losses["phone"] - losses["host"]) / count,
        "kl_mean": float(np.mean(divergences)),
        "layers": config["num_hidden_layers"],
        "launches_per_token": launches.total(),
        "kernels_per_token": len(launches),
    }


def _predictions(model: HostModel, window: list[int]) -> np.ndarray:
    """Log probabilities of all tokens but the first, float32 ``[WINDOW - 1, vocab_size]``."""
    logits = model.window_logits(window)[:-1]
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _table(rows: list[dict[str, Any]]) -> str:
    head = "| model | host | phone's kernels | difference of log-perplexity | KL | launches a token, layers |"
    lines = [
        f"| {row['model']} | {row['host_perplexity']:.3f} | {row['phone_perplexity']:.3f} "
        f"| {row['log_perplexity_difference']:+.1e} | {row['kl_mean']:.1e} "
        f"| {row['launches_per_token']}, {row['layers']} |"
        for row in rows
    ]
    return "\n".join([head, "|---|---|---|---|---|---|", *lines])


if __name__ == "__main__":
    main()
