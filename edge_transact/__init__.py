"""edge-transact: a LLaMA checkpoint to a phone in one command.

Importing it lets transformers' Auto classes load the checkpoints that `edge-transact prune` writes.
"""

from edge_transact.registration import register_auto_classes

__version__ = "0.1.0"

register_auto_classes()
