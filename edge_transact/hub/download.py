"""Downloads through huggingface_hub, so that HF_ENDPOINT, HF_HUB_OFFLINE, tokens and its cache work as usual."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edge_transact import progress
from edge_transact.errors import EdgeTransactError

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
"""``organisation/name``, or ``organisation/name@revision``: a branch, a tag or a commit."""


def download(hub_id: str, kind: Literal["model", "dataset"], patterns: Sequence[str], fix: str) -> Path:
    """Downloads the files of a hub repository that match globs into the hub's cache, and returns their directory.

    `hub_id` matches `HUB_ID`. `fix` says what the user can name instead, for error messages.

    Raises:
        EdgeTransactError: The hub has no such repository or revision, refuses it, or can't be reached.
    """
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    match = HUB_ID.fullmatch(hub_id)
    if match is None:
        raise ValueError(f"{hub_id!r} is not a hub id")
    repository, revision = match["repository"], match["revision"]
    if not progress.drawable():
        disable_progress_bars()
        logger.info(f"download {hub_id}")
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=list(patterns)))
    except (errors.HTTPError, OSError) as error:
        raise _failure(error, hub_id, kind, fix) from error


def _failure(error: Exception, hub_id: str, kind: str, fix: str) -> EdgeTransactError:
    from huggingface_hub import constants, errors, get_token

    repository, _, revision = hub_id.partition("@")
    hub = constants.ENDPOINT
    match error:
        case errors.GatedRepoError():
            page = f"{hub}/{repository}"
            message, fix = f"{repository} is gated", f"Accept its licence at {page}, then log in: hf auth login."
            if get_token():
                fix = f"Your account has no access to it yet: ask for it at {page}."
        case errors.RevisionNotFoundError():
            message = f"{repository} has no revision {revision!r}"
            fix = f"Name a branch, a tag or a commit: {repository}@main."
        case errors.RepositoryNotFoundError():
            message = f"{repository} does not exist here, and the hub has no such {kind}"
            fix = f"{fix} If it is private: hf auth login."
        case errors.LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            message = f"{hub_id} is not in the local cache, and HF_HUB_OFFLINE is set"
            fix = f"Unset HF_HUB_OFFLINE to download it once. {fix}"
        case errors.LocalEntryNotFoundError():
            message = f"{hub_id} does not exist here, and {hub} can't be reached"
            fix = f"Check the network and HF_ENDPOINT. {fix}"
        case _:
            message, fix = f"downloading {hub_id} failed: {error}", "Run it again: it resumes."
            return refused(error) or EdgeTransactError(message, fix=fix)
    return EdgeTransactError(message, fix=fix)


def refused(error: Exception) -> EdgeTransactError | None:
    """The error to show if the hub refuses the token, otherwise `None`."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    fixes = {
        401: ("the hub does not accept the token", "Log in again with hf auth login, or set HF_TOKEN."),
        403: ("the token does not allow this", "Use a token with write access: hf auth login."),
    }
    return EdgeTransactError(fixes[status][0], fix=fixes[status][1]) if status in fixes else None
