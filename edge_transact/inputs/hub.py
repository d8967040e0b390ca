"""Downloads through huggingface_hub, so HF_ENDPOINT, HF_HUB_OFFLINE, tokens and its cache mean what they mean there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edge_transact.errors import EdgeTransactError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""``organisation/name``."""


def download(repository: str, kind: Literal["model", "dataset"], patterns: Sequence[str], fix: str) -> Path:
    """A snapshot of a hub repository.

    Args:
        repository: ``organisation/name``.
        kind: Which kind of repository.
        patterns: Globs of the files wanted.
        fix: What else could be given instead, for the errors.

    Raises:
        EdgeTransactError: The hub has no such repository or can't be reached, or the repository is gated.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, repo_type=kind, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise EdgeTransactError(
            f"{repository} is gated", fix="Accept its licence on the hub, then run `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise EdgeTransactError(f"{repository} does not exist here, and the hub has no such {kind}", fix=fix) from error
    except LocalEntryNotFoundError as error:
        raise EdgeTransactError(
            f"{repository} does not exist here, and the hub can't be reached",
            fix=f"Check the network, HF_ENDPOINT and HF_HUB_OFFLINE. {fix}",
        ) from error
    except (HTTPError, OSError) as error:
        raise EdgeTransactError(f"downloading {repository} failed: {error}", fix="Run it again: it resumes.") from error
