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
    """Downloads a snapshot of a hub repository.

    Args:
        hub_id: A string that `HUB_ID` matches.
        kind: The kind of repository.
        patterns: Globs of the files to download.
        fix: What the user can name instead, for the errors.

    Returns:
        The snapshot's directory in the hub's cache.

    Raises:
        EdgeTransactError: The hub has no such repository or revision or can't be reached, or the repository is gated.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
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
    except GatedRepoError as error:
        raise EdgeTransactError(f"{repository} is gated", fix=_gated_fix(repository)) from error
    except RevisionNotFoundError as error:
        raise EdgeTransactError(
            f"{repository} has no revision {revision!r}", fix=f"Name a branch, a tag or a commit: {repository}@main."
        ) from error
    except RepositoryNotFoundError as error:
        raise EdgeTransactError(
            f"{repository} does not exist here, and the hub has no such {kind}",
            fix=f"{fix} If it is private: hf auth login.",
        ) from error
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise EdgeTransactError(
                f"{hub_id} is not in the local cache, and HF_HUB_OFFLINE is set",
                fix=f"Unset HF_HUB_OFFLINE to download it once. {fix}",
            ) from error
        raise EdgeTransactError(
            f"{hub_id} does not exist here, and {constants.ENDPOINT} can't be reached",
            fix=f"Check the network and HF_ENDPOINT. {fix}",
        ) from error
    except (HTTPError, OSError) as error:
        raise refused(error) or EdgeTransactError(
            f"downloading {hub_id} failed: {error}", fix="Run it again: it resumes."
        ) from error


def refused(error: Exception) -> EdgeTransactError | None:
    """The error to show if `error` is the hub's refusal of the token, otherwise `None`."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return EdgeTransactError(
            "the hub does not accept the token", fix="Log in again with hf auth login, or set HF_TOKEN."
        )
    if status == 403:
        return EdgeTransactError(
            "the token does not allow this", fix="Use a token with write access to it: hf auth login."
        )
    return None


def _gated_fix(repository: str) -> str:
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/{repository}"
    if get_token():
        return f"Your account has no access to it yet: ask for it at {page}."
    return f"Accept its licence at {page}, then log in: hf auth login."
