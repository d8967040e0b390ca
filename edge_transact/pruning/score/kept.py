"""Scores, loss curves and sensitivities in the cache: what they say doesn't depend on how small the model becomes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_transact import cache
from edge_transact.cache.journal import Journal

KIND = "scores"


@dataclass(frozen=True)
class KeptScores:
    """What prunings of one model on one text share. `ingredients` is everything else that it depends on."""

    what: str
    ingredients: Mapping[str, object]

    def bring(
        self, journal: Journal, names: Sequence[str], windows: torch.Tensor, asked: object, make: Callable[[], object]
    ) -> None:
        """Groups of these names into a journal: from the cache, or by `make`, which writes them there.

        Args:
            windows: The tokens that are read, int64 ``[windows, window]``.
            asked: What the caller wants of it, a JSON value.
        """

        def made(content: Path) -> None:
            make()
            for name in names:
                shutil.copyfile(journal.file(name), content / journal.file(name).name)

        read = hashlib.sha256(windows.contiguous().numpy().tobytes()).hexdigest()
        ingredients = {**self.ingredients, "windows": [*windows.shape, read], "asked": asked}
        content = cache.made(cache.Recipe(KIND, self.what, ingredients, made, is_step=False))
        for name in names:
            if name not in journal:
                journal.directory.mkdir(parents=True, exist_ok=True)
                partial = journal.file(name).with_suffix(".part")
                shutil.copyfile(content / journal.file(name).name, partial)
                partial.rename(journal.file(name))
