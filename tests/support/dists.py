"""Small DISTs without a model in them: real archives for phones, files of the right names, and their manifest."""

import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from edge_transact.artifacts.digests import SEAL
from edge_transact.artifacts.manifest import Manifest
from edge_transact.compiler.archive import LIBRARY_SYMBOL
from edge_transact.compiler.targets import library_name, system_lib_prefix
from edge_transact.widths import LayerWidths, WidthPlan

PLAN = WidthPlan(64, 100, True, False, False, (LayerWidths(4, 2, 16, 16, 96), LayerWidths(2, 1, 16, 16, 32)))
CLANG = ["clang-19", "--target=aarch64-linux-android28", "-ffreestanding", "-fPIC"]


def make_dist(
    path: Path,
    targets: Sequence[str] = ("android", "android-cpu"),
    model_lib: str = "edge_llama_q4f16_0_0123abcd",
    shards: Sequence[bytes] = (b"weights", b"more"),
    **sizes: int,
) -> Path:
    """A DIST at `path`, whose archives have one object each, with the symbol that engines look up."""
    for name in ("lib", "definition"):
        (path / name).mkdir(parents=True)
    context = sizes.get("context", 128)
    config = {
        "model_type": "edge_llama", "quantization": "q4f16_0", "model_config": {}, "vocab_size": 9,
        "context_window_size": context, "prefill_chunk_size": 64, "tokenizer_files": [], "conv_template": {},
    }  # fmt: skip
    records = [
        {"dataPath": f"params_shard_{index}.bin", "nbytes": len(shard), "records": []}
        for index, shard in enumerate(shards)
    ]
    contents = {"mlc-chat-config.json": json.dumps(config).encode(),
                "tensor-cache.json": json.dumps({"records": records}).encode(),
                "tokenizer.json": b"[]", "edge_transact.json": b"{}", "definition/model.py": b""}  # fmt: skip
    contents |= {f"params_shard_{index}.bin": shard for index, shard in enumerate(shards)}
    for name, content in contents.items():
        (path / name).write_bytes(content)
    libraries = {target: f"lib/{model_lib}-{target}.tar" for target in targets}
    for target, name in libraries.items():
        make_archive(path / name, library_name(model_lib, target), "x86_64" if target.endswith("x86_64") else "aarch64")
    manifest = Manifest(
        source="x", model_type="edge_llama", model_lib=model_lib, quantization="q4f16_0", rounding="search",
        calibration=None,
        context_window_size=context, prefill_chunk_size=64, max_batch_size=1, device_profile=None,
        plan=PLAN, parameters=1000, weights_bytes=sum(map(len, shards)), libraries=libraries, parity={},
        versions={},
    )  # fmt: skip
    manifest.write(path)
    return path


def make_archive(path: Path, name: str, machine: str = "aarch64") -> None:
    """An archive for Android with the library of this name, which also holds its symbol's name, as a real one does."""
    symbol = system_lib_prefix(name) + LIBRARY_SYMBOL
    source = f'const char {symbol}[] = "bytecode"; const char* {name.replace("-", "_")}_name = "{symbol}";'
    item = path.with_suffix(".o")
    command = [*CLANG, f"--target={machine}-linux-android28", "-x", "c", "-c", "-", "-o", str(item)]
    subprocess.run(command, input=source, text=True, check=True)
    with tarfile.open(path, "w") as archive:
        archive.add(item, "lib0.o")
    item.unlink()


def edit_json(path: Path, **changed: object) -> None:
    """Changes fields of a JSON file. It then has no digest of itself."""
    content = json.loads(path.read_text())
    content.pop(SEAL, None)
    path.write_text(json.dumps(content | changed))
