"""What MODEL and TEXT may be on the command line: each becomes a local directory, or a string."""

from edge_transact.inputs.models import resolve_model
from edge_transact.inputs.texts import read_documents, read_text

__all__ = ["read_documents", "read_text", "resolve_model"]
