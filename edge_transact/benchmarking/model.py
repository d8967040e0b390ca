"""What a bench needs to know about a DIST."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_transact import costs
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.link import link_archive
from edge_transact.benchmarking.records.llama_bench import LLAMA_CPP
from edge_transact.benchmarking.records.plan import Lengths, prompt_ids
from edge_transact.compiler.targets import library_name
from edge_transact.errors import UsageError
from edge_transact.quantization import get_quantization


@dataclass(frozen=True)
class LlamaCpp:
    """A ``llama-bench`` for the device, and the model as GGUF."""

    program: Path
    gguf: Path


@dataclass(frozen=True)
class BenchModel:
    """A DIST to measure, in llama.cpp if it has a `peer`.

    Attributes:
        digest: The sha256 of its manifest; ``-2`` and so on follow for copies of a build, which show the noise.
        cores: Those that a candidate of ``--tune`` runs on, unless the runtime chooses them.
        target: Of a candidate of ``--tune``, if it isn't the device's.
    """

    name: str
    path: Path
    digest: str
    manifest: Manifest
    peer: LlamaCpp | None = None
    cores: str = ""
    target: str | None = None

    def target_on(self, target: str) -> str:
        """The target that results name, on a device that measures libraries for `target`."""
        return LLAMA_CPP if self.peer else self.target or target

    def on(self, label: str, *, cores: str = "", target: str | None = None) -> BenchModel:
        """The same model on some cores, or of another target, as a model that takes turns with this one."""
        return replace(
            self, name=f"{self.name}, {label}", digest=f"{self.digest}@{cores or target}", cores=cores, target=target
        )

    def in_llama_cpp(self, program: Path, gguf: Path) -> BenchModel:
        """The same model as ``llama-bench`` measures it, as a model that takes turns with this one."""
        digest = f"llama.cpp-{sha256(program)[:12]}-{self.digest}"
        return replace(self, name=f"{self.name}.gguf", digest=digest, peer=LlamaCpp(program, gguf))

    @property
    def needed_mib(self) -> float:
        """Memory for the weights and the KV cache of a full context."""
        per_token = costs.kv_bytes_per_token(self.manifest.plan, get_quantization(self.manifest.quantization))
        return (self.manifest.weights_bytes + per_token * self.manifest.context_window_size) / 2**20

    def decode_read_bytes(self, lengths: Lengths) -> int:
        """Bytes that a token reads at the answer's mean context: its share of the weights, and its sequence's KV."""
        context = lengths.batch_size * (lengths.prefill_tokens + lengths.decode_tokens // 2)
        read = costs.decode_read_bytes(self.manifest.plan, get_quantization(self.manifest.quantization), context)
        return read // lengths.batch_size

    def prompt(self, tokens: int) -> list[int]:
        return prompt_ids(self.manifest.plan.vocab_size, tokens)

    def library_name(self, target: str) -> str:
        return library_name(self.manifest.model_lib, target)

    def library(self, target: str, *, link: bool = True) -> Path:
        """The library for a target, an archive linked into a shared one unless it is only looked at.

        Raises a `UsageError` if the DIST has none, and an `EdgeTransactError` if it isn't the one in the manifest.
        """
        libraries = self.manifest.libraries
        if target not in libraries:
            raise UsageError(
                f"{self.path} has no library for {target}, only for {', '.join(libraries) or 'nothing'}",
                fix=f"Build it again with `--target {','.join([*libraries, target])}`.",
            )
        path = self.path / libraries[target]
        self.manifest.verify(self.path, libraries[target])
        return link_archive(path) if link and path.suffix == ".tar" else path


def open_models(paths: Sequence[Path], lengths: Sequence[Lengths]) -> list[BenchModel]:
    """The DISTs of a plan; an `EdgeTransactError` if one is named twice, or was built for less than `lengths`."""
    if len({path.resolve() for path in paths}) != len(paths):
        raise UsageError("a DIST is named twice", fix="Name each once; to see the noise, name a copy of it.")
    models: list[BenchModel] = []
    builds: Counter[str] = Counter()
    names = _names(paths)
    for path, name in zip(paths, names, strict=True):
        manifest = Manifest.read(path)
        for pair in lengths:
            if pair.prefill_tokens + pair.decode_tokens - 1 > manifest.context_window_size:
                raise UsageError(
                    f"{path} has a context of {manifest.context_window_size} tokens, too short for {pair}",
                    fix="Shorten --lengths, or build with a longer --context.",
                )
            if pair.batch_size > manifest.max_batch_size:
                raise UsageError(
                    f"{path} was built with --max-batch {manifest.max_batch_size}, too few for {pair}",
                    fix=f"Build it again with `--max-batch {pair.batch_size}`.",
                )
        digest = sha256(path / MANIFEST)
        builds[digest] += 1
        copy = f"-{builds[digest]}" if builds[digest] > 1 else ""
        models.append(BenchModel(name, path, digest + copy, manifest))
    return models


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest suffixes of the paths that differ."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    length = 1
    while len({part[-length:] for part in parts}) < len(set(parts)):
        length += 1
    return ["/".join(part[-length:]) for part in parts]
