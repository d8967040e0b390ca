"""What identifies a checkpoint's content in keys of the cache."""

from __future__ import annotations

from edge_transact.artifacts.digests import files_digest
from edge_transact.checkpoint.reader import Checkpoint


def digest_of(checkpoint: Checkpoint, *names: str) -> str:
    """Of its configuration and weights, and of the files of these names that it has."""
    files = [path for path in map(checkpoint.path.joinpath, ("config.json", *names)) if path.is_file()]
    return files_digest([*files, *checkpoint.path.glob("*.safetensors")])
