"""Runs llama.cpp from a prebuilt package, node-llama-cpp, with SmolLM2 in its own 4-bit format."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.subjects import Subject
from edge_transact.errors import EdgeTransactError

VERSION = "3.22.1"
PACKAGES = (f"node-llama-cpp@{VERSION}", f"@node-llama-cpp/linux-x64@{VERSION}")
SCRIPT = Path(__file__).parent / "native" / "llama.mjs"


def start(model: Path, directory: Path, threads: int) -> Subject:
    """Start llama.cpp with a GGUF.

    Args:
        model: A ``.gguf`` file.
        directory: Directory into which npm installs the package once.
        threads: Threads for prefill and decode.

    Raises:
        EdgeTransactError: node or npm is missing, or the packages can't be installed.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise EdgeTransactError(f"{program} is missing", fix="Install Node.js 20 or newer with npm.")
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "node_modules" / "node-llama-cpp").is_dir():
        (directory / "package.json").write_text("{}\n")
        # No scripts: they would download or compile, and the prebuilt binary is a package of its own.
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", *PACKAGES]
        if subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL).returncode:
            raise EdgeTransactError(f"npm can't install {' and '.join(PACKAGES)}", fix="See its output above.")
    return Subject(["node", str(SCRIPT.resolve()), str(model.resolve()), str(threads)], cwd=directory)


def write_q4_0(source: Path, target: Path) -> None:
    """Write a GGUF whose matrices, including the embedding, are all Q4_0: 4.5 bits per weight, as in q4f16_0.

    Args:
        source: A GGUF with matrices of any type.
        target: The file to write.
    """
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize, quantize

    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        element = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], element)
    writer.add_file_type(2)  # LLAMA_FTYPE_MOSTLY_Q4_0
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = GGMLQuantizationType.Q4_0 if len(tensor.shape) > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
