"""The model that a pruned checkpoint was made from, if it is on this machine."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.checkpoint.writer import HEALED, provenance_of
from edge_transact.errors import EdgeTransactError
from edge_transact.hub.download import HUB_ID
from edge_transact.inputs.models import DEMO_MODELS, resolve_model

logger = logging.getLogger(__name__)


def pruned_from(checkpoint: Checkpoint) -> Checkpoint | None:
    """The checkpoint that ``edge_transact.json`` names as its source; `None` if there is none or it isn't here.

    Nothing is downloaded. Pruning keeps the embedding, so a model with another one is not the source, unless the
    checkpoint was trained since.
    """
    try:
        provenance = provenance_of(checkpoint.path)
        name = provenance["source"]
        if not _is_here(name):
            logger.info(f"{name}, from which this model was pruned, is not on this machine")
            return None
        source = Checkpoint.open(resolve_model(name))
    except (OSError, ValueError, AttributeError, KeyError, TypeError, EdgeTransactError) as error:
        logger.debug(f"no source: {error}")
        return None
    same = checkpoint.shape(EMBEDDING) == source.shape(EMBEDDING) and (
        HEALED in provenance or torch.equal(checkpoint.tensor(EMBEDDING), source.tensor(EMBEDDING))
    )
    if not same:
        logger.info(f"{name} has another embedding: this model was not pruned from it as it is now")
    return source if same else None


def _is_here(name: str) -> bool:
    if name in DEMO_MODELS or Path(name).exists():
        return True
    from huggingface_hub import try_to_load_from_cache

    match = HUB_ID.fullmatch(name)
    if match is None:
        return False
    return isinstance(try_to_load_from_cache(match["repository"], "config.json", revision=match["revision"]), str)
