"""MODEL and TEXT on the command line: a MODEL becomes a local directory, a TEXT becomes documents."""

from edge_transact.inputs.models import resolve_model
from edge_transact.inputs.texts import read_text

__all__ = ["read_text", "resolve_model"]
