"""edge-transact: a LLaMA checkpoint to a phone in one command.

Importing it lets transformers' Auto classes load the checkpoints that `edge-transact prune` writes.
"""

import logging

from edge_transact.registration import register_auto_classes

__version__ = "0.1.0"

# A program that sets up no logging hears nothing, warnings included.
logging.getLogger(__name__).addHandler(logging.NullHandler())
register_auto_classes()
