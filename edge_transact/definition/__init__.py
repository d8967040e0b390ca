"""The MLC-LLM model definition: rendered from ``templates/``, and loaded back to be compiled.

What is compiled is the emitted file itself. It reads the widths from a config.json, like MLC's own definitions, and
a layer with ``k`` times as many KV heads as the cache's layers becomes ``k`` *virtual KV layers* (see
`widths.WidthPlan`).
"""

from edge_transact.definition.emit import MODEL_TYPE, load, render
from edge_transact.definition.loaded import Definition

__all__ = ["MODEL_TYPE", "Definition", "load", "render"]
