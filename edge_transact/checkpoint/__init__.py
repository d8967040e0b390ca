"""The Hugging Face side: checkpoints whose layers differ in width, read lazily and written streamed."""

from edge_transact.checkpoint.reader import Checkpoint
from edge_transact.checkpoint.writer import write_checkpoint

__all__ = ["Checkpoint", "write_checkpoint"]
