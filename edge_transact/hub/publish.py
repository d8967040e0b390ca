"""Uploads a checkpoint with its model card to the hub, through huggingface_hub."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edge_transact import progress
from edge_transact.artifacts.templates import python_string
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.hub.download import HUB_ID, refused
from edge_transact.reading import read_object

logger = logging.getLogger(__name__)

CARD = "README.md"
UNPUBLISHED = (".*", "*.bin", "*.pt", "*.pth", "*.pkl")
"""Files that aren't uploaded: hidden ones and pickles."""


@dataclass(frozen=True)
class Published:
    """An upload: the repository, the page of it or of its branch, the new commit's id, and the number of files."""

    repository: str
    url: str
    commit: str
    files: int


def push_checkpoint(directory: Path, hub_id: str, *, private: bool = False) -> Published:
    """Uploads a checkpoint that `prune` wrote into a new or existing repository, ``organisation/name[@branch]``.

    The uploaded model card names the repository and the branch instead of the directory, and a source model on the hub
    as ``base_model``. The checkpoint's headers are checked against its configuration before anything is sent.

    Raises:
        UsageError: `hub_id` isn't a hub id.
        EdgeTransactError: The checkpoint is damaged, has no card, or a link leads out of it; or the hub can't be
            reached or refuses.
    """
    match = HUB_ID.fullmatch(hub_id)
    if match is None:
        raise UsageError(f"{hub_id!r} is not a hub id", fix="Write it as organisation/name.")
    repository, revision = match["repository"], match["revision"]
    Checkpoint.open(directory)
    found = {
        path.relative_to(directory): path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    files = {name.as_posix(): path for name, path in found.items() if _is_published(name)}
    for path in files.values():
        if not path.is_file() or not path.resolve().is_relative_to(directory.resolve()):
            raise EdgeTransactError(
                f"{path} is no file of this directory, but leads to {path.resolve()}",
                fix="Replace it by a copy of what should be uploaded, or remove it.",
            )
    card = _card(directory, repository, revision)

    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    if not get_token():
        raise EdgeTransactError("not logged in to the hub", fix="Log in with a token that can write: hf auth login.")
    if not progress.drawable():
        disable_progress_bars()
    logger.info(f"push {directory}: {len(files)} files to {repository}")
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, card if name == CARD else path) for name, path in files.items()],
            commit_message=f"Push {directory.name} with edge-transact",
            revision=revision,
        )
    except OfflineModeIsEnabled as error:
        raise EdgeTransactError("HF_HUB_OFFLINE is set", fix="Unset it to push.") from error
    except (HTTPError, OSError) as error:
        raise refused(error) or EdgeTransactError(
            f"pushing to {repository} at {constants.ENDPOINT} failed: {error}",
            fix="Run it again: files that arrived are not sent twice.",
        ) from error
    tree = f"/tree/{quote(revision, safe='')}" if revision else ""
    return Published(repository, f"{constants.ENDPOINT}/{repository}{tree}", commit.oid, len(files))


def _is_published(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and not any(path.match(pattern) for pattern in UNPUBLISHED)


def _card(directory: Path, repository: str, revision: str | None) -> bytes:
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        card = ModelCard((directory / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EdgeTransactError(
            f"{directory} has no model card ({CARD})",
            fix="Push a directory that `prune` wrote, or write a card that describes the model.",
        ) from error
    except (ValueError, YAMLError) as error:
        raise EdgeTransactError(
            f"{directory / CARD} has invalid YAML between its --- lines: {error}", fix="Correct the YAML."
        ) from error
    here, there = f"from_pretrained({python_string(directory.name)}", f'from_pretrained("{repository}"'
    card.text = card.text.replace(here, f'{there}, revision="{revision}"' if revision else there)
    source = _source(directory)
    if source and not card.data.get("base_model"):
        card.data["base_model"] = source
    return str(card).encode()


def _source(directory: Path) -> str | None:
    """The hub id of the model that this one was pruned from, if it is on the hub."""
    try:
        source = read_object(directory / PROVENANCE_FILE).get("source")
    except (OSError, EdgeTransactError):
        return None
    match = HUB_ID.fullmatch(source) if isinstance(source, str) else None
    return match["repository"] if match else None
