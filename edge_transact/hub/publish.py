"""A checkpoint to the model hub, with its model card, through huggingface_hub."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from edge_transact import progress
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.hub.download import HUB_ID, refused

logger = logging.getLogger(__name__)

CARD = "README.md"
UNPUBLISHED = (".*", "*.bin", "*.pt", "*.pth", "*.pkl")
"""Hidden files and pickles stay here."""


@dataclass(frozen=True)
class Published:
    """What was pushed.

    Attributes:
        repository: ``organisation/name``.
        url: Its page.
        commit: The commit that was made.
        files: How many files the repository got.
    """

    repository: str
    url: str
    commit: str
    files: int


def push_checkpoint(directory: Path, hub_id: str, *, private: bool = False) -> Published:
    """Upload a checkpoint that `prune` wrote; the repository is made where there is none.

    The card that is uploaded names the repository where the one on disk names the directory, and the source as
    ``base_model`` where that is on the hub.

    Args:
        directory: The checkpoint; every tensor is checked against its configuration before anything is sent.
        hub_id: ``organisation/name``, or ``organisation/name@branch``.
        private: Make a new repository private.

    Raises:
        UsageError: `hub_id` isn't one.
        EdgeTransactError: The checkpoint is damaged or has no card; the hub can't be reached or refuses.
    """
    match = HUB_ID.fullmatch(hub_id)
    if match is None:
        raise UsageError(f"{hub_id!r} is not a hub id", fix="Write it as organisation/name.")
    repository, revision = match["repository"], match["revision"]
    Checkpoint.open(directory)
    card = _card(directory, repository)

    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    if not get_token():
        raise EdgeTransactError("not logged in to the hub", fix="Log in with a token that may write: hf auth login.")
    if not progress.drawable():
        disable_progress_bars()
    files = [path for path in directory.rglob("*") if path.is_file() and not _stays(path.relative_to(directory))]
    logger.info(f"push {directory}: {len(files)} files to {repository}")
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repository,
            [_addition(path, directory, card) for path in files],
            commit_message=f"Push {directory.name} with edge-transact",
            revision=revision,
        )
    except OfflineModeIsEnabled as error:
        raise EdgeTransactError("HF_HUB_OFFLINE is set", fix="Unset it to push.") from error
    except (HTTPError, OSError) as error:
        raise refused(error) or EdgeTransactError(
            f"pushing to {repository} at {constants.ENDPOINT} failed: {error}",
            fix="Run it again: what arrived is not sent twice.",
        ) from error
    return Published(repository, f"{constants.ENDPOINT}/{repository}", commit.oid, len(files))


def _stays(path: Path) -> bool:
    return any(path.match(pattern) for pattern in UNPUBLISHED) or any(part.startswith(".") for part in path.parts)


def _addition(path: Path, directory: Path, card: bytes):
    from huggingface_hub import CommitOperationAdd

    name = path.relative_to(directory).as_posix()
    return CommitOperationAdd(path_in_repo=name, path_or_fileobj=card if name == CARD else path)


def _card(directory: Path, repository: str) -> bytes:
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        card = ModelCard((directory / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EdgeTransactError(
            f"{directory} has no model card ({CARD})",
            fix="Push a directory that prune wrote, or write a card: what the model is and is not for.",
        ) from error
    except (ValueError, YAMLError) as error:
        raise EdgeTransactError(
            f"{directory / CARD} has no valid YAML between its --- lines: {error}", fix="Mend the card's head."
        ) from error
    card.text = re.sub(rf'from_pretrained\("{re.escape(directory.name)}"', f'from_pretrained("{repository}"', card.text)
    source = _source(directory)
    if source and not card.data.get("base_model"):
        card.data["base_model"] = source
    return str(card).encode()


def _source(directory: Path) -> str | None:
    """The model on the hub that this one was made of, if it is on the hub."""
    try:
        source = json.loads((directory / PROVENANCE_FILE).read_text()).get("source")
    except (OSError, ValueError, AttributeError):
        return None
    match = HUB_ID.fullmatch(source) if isinstance(source, str) else None
    return match["repository"] if match and not Path(source).exists() else None
