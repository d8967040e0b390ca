"""What a bench needs to know of a DIST."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_transact import costs
from edge_transact.artifacts.cache import sha256
from edge_transact.artifacts.manifest import MANIFEST, Manifest
from edge_transact.bench.drivers.link import link_archive
from edge_transact.bench.records.plan import Lengths
from edge_transact.compiler.targets import system_lib_prefix
from edge_transact.errors import UsageError
from edge_transact.quantization import get_quantization

INDEX = "tensor-cache.json"


@dataclass(frozen=True)
class BenchModel:
    """A DIST that is to be measured.

    Attributes:
        name: For tables: the directory's name, with its parents where two would be alike.
        path: The DIST.
        digest: sha256 of its manifest, which holds that of every file: results of another build never mix with these.
        manifest: Its manifest.
    """

    name: str
    path: Path
    digest: str
    manifest: Manifest

    @property
    def model_type(self) -> str:
        return self.manifest.model_type

    @property
    def parameters(self) -> int:
        return self.manifest.parameters

    @property
    def quantization(self) -> str:
        return self.manifest.quantization

    @property
    def weights_bytes(self) -> int:
        return self.manifest.weights_bytes

    @property
    def build(self) -> dict[str, str]:
        """Versions that the DIST was built with."""
        return dict(self.manifest.versions)

    @property
    def vocab_size(self) -> int:
        return self.manifest.plan.vocab_size

    @property
    def system_lib_prefix(self) -> str:
        """How a library made from an archive registers itself."""
        return system_lib_prefix(self.manifest.model_lib)

    @property
    def needed_mib(self) -> float:
        """Memory for the weights and a whole context's KV cache."""
        per_token = costs.kv_bytes_per_token(self.manifest.plan, get_quantization(self.quantization))
        return (self.weights_bytes + per_token * self.manifest.context_window_size) / 2**20

    def decode_read_bytes(self, lengths: Lengths) -> int:
        """Bytes that a decoded token must read, at the context's mean length over the answer."""
        context = lengths.prefill_tokens + lengths.decode_tokens // 2
        return costs.decode_read_bytes(self.manifest.plan, get_quantization(self.quantization), context)

    def check(self) -> tuple[list[int], list[int]] | None:
        """The parity record's prompt and the greedy tokens that torch found to follow.

        `None` where the build compared a cut of the model only.
        """
        parity = self.manifest.parity
        if parity.get("layers") != self.manifest.plan.num_hidden_layers or not parity.get("greedy_ids"):
            return None
        return list(parity["prompt_ids"]), list(parity["greedy_ids"])

    def weight_files(self) -> dict[str, Path]:
        """The parameter shards and their index, by name."""
        shards = sorted(self.path.glob("params_shard_*.bin"))
        return {INDEX: self.path / INDEX, **{shard.name: shard for shard in shards}}

    def library(self, target: str) -> Path:
        """The library for a target; an archive is linked into a shared library first.

        Raises:
            UsageError: The DIST has none for it.
        """
        libraries = self.manifest.libraries
        if target not in libraries:
            raise UsageError(
                f"{self.path} has no library for {target}, only for {', '.join(libraries) or 'nothing'}",
                fix=f"Build it again with `--target {','.join([*libraries, target])}`.",
            )
        path = self.path / libraries[target]
        return link_archive(path) if path.suffix == ".tar" else path


def open_models(paths: Sequence[Path], lengths: Sequence[Lengths]) -> list[BenchModel]:
    """The DISTs of a plan.

    Raises:
        EdgeTransactError: A path is no DIST, or is named twice, or its context is too short for the lengths.
    """
    models = []
    names = _names(paths)
    for path, name in zip(paths, names, strict=True):
        manifest = Manifest.read(path)
        for pair in lengths:
            if pair.prefill_tokens + pair.decode_tokens - 1 > manifest.context_window_size:
                raise UsageError(
                    f"{path} has a context of {manifest.context_window_size} tokens, too short for {pair}",
                    fix="Shorten --lengths, or build with a longer --context.",
                )
        models.append(BenchModel(name, path, sha256(path / MANIFEST), manifest))
    if len({model.digest for model in models}) != len(models):
        raise UsageError("two of the DISTs are one build", fix="Name each once.")
    return models


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    length = 1
    while len({part[-length:] for part in parts}) < len(set(parts)):
        length += 1
    return ["/".join(part[-length:]) for part in parts]
