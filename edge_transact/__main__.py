"""``python -m edge_transact`` is ``edge-transact``."""

from edge_transact.cli import main

main()
