"""A GGUF file's metadata: the model's name, source, licence, and how it was pruned."""

from __future__ import annotations

import json
from pathlib import Path

import gguf

from edge_transact import costs
from edge_transact.cache.sources import public
from edge_transact.checkpoint.writer import license_of, provenance_of
from edge_transact.exporting.model import Model
from edge_transact.gguf import layout
from edge_transact.hub.download import HUB_ID
from edge_transact.version import __version__
from edge_transact.widths import describe


def add_metadata(writer: gguf.GGUFWriter, model: Model, name: str) -> None:
    """Adds metadata for people and apps, which show `name`, and for restoring the checkpoint (`layout.CONFIG`)."""
    parameters = costs.parameters(model.plan)
    provenance = public(provenance_of(model.directory))
    metadata = gguf.Metadata(name=name, size_label=gguf.size_label(parameters, 0, 0, 0))
    metadata.license = provenance.get("license") or license_of(model.directory) or license_of(Path(model.source))
    metadata.description = f"{parameters:,} parameters; {'; '.join(describe(model.plan))}"
    metadata.quantized_by = f"edge-transact {__version__}"
    if base := provenance.get("source"):
        budget = ", ".join(f"{key} {value}" for key, value in provenance.get("budget", {}).items())
        how = f"Pruned from {base} ({provenance.get('method')}, {budget})"
        metadata.description = f"{how}: {metadata.description}"
        metadata.base_models = [_base(base)]
    metadata.set_gguf_meta_model(writer)
    writer.add_string(
        layout.CONFIG, json.dumps({key: value for key, value in model.config.items() if key != "_name_or_path"})
    )
    pairs = {
        str(index): table.tolist()
        for index, (layer, table) in enumerate(zip(model.plan.layers, model.rope_pairs, strict=True))
        if model.plan.has_rope_pairs(layer)
    }
    if pairs:
        writer.add_string(layout.PAIRS, json.dumps(pairs))
    if provenance:
        writer.add_string(layout.PROVENANCE, json.dumps(provenance))


def _base(source: str) -> dict[str, str]:
    match = HUB_ID.fullmatch(source)
    if match is None:
        return {"name": Path(source).name}
    organization, name = match["repository"].split("/")
    url = f"https://huggingface.co/{match['repository']}"
    return {"name": name, "organization": organization, "repo_url": url}
