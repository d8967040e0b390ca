"""The MLC-LLM model definition: rendered from ``templates/``, then loaded and compiled."""

from edge_transact.definition.emit import MODEL_TYPE, load, render
from edge_transact.definition.loaded import Definition

__all__ = ["MODEL_TYPE", "Definition", "load", "render"]
