"""edge-transact: a LLaMA checkpoint to a phone in one command.

``import edge_transact.api as et`` offers what `docs/api.md` explains, such as ``et.prune("demo:smollm2", "small",
ratio=0.3)``. ``import edge_transact`` alone lets transformers' Auto classes load the checkpoints that
`edge-transact prune` writes.
"""

import logging
import sys
from pathlib import Path

from edge_transact.version import __version__ as __version__

# A program that sets up no logging hears nothing, warnings included.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def _is_command() -> bool:
    """Whether this process runs ``edge-transact`` or ``python -m edge_transact...``."""
    if sys.argv[0] == "-m":  # Python is looking for the module
        return any(word.partition(".")[0] == __name__ for word in sys.orig_argv)
    return Path(sys.argv[0]).stem == "edge-transact"


# A command registers when it loads a model, and doesn't wait for transformers before.
if not _is_command():
    from edge_transact.checkpoint.auto_classes import register

    register()
