"""The MLC-LLM model definition: rendered from ``templates/``, then loaded and compiled.

A layer with ``k`` times as many KV heads as the cache's becomes ``k`` virtual KV layers (see `widths.WidthPlan`).
"""

from edge_transact.definition.emit import MODEL_TYPE, load, render
from edge_transact.definition.loaded import Definition

__all__ = ["MODEL_TYPE", "Definition", "load", "render"]
