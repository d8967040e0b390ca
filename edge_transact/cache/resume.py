"""Resuming: a long run keeps what it has done in a journal, and the same command continues where it was stopped.

Journals are in the cache, in ``unfinished/KEY/``. KEY is a digest of everything that the work depends on, its source
included: with other inputs, other options or another version, a run begins at the beginning and leaves this one alone.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING

from edge_transact import cache
from edge_transact.errors import UsageError

if TYPE_CHECKING:
    from edge_transact.cache.journal import Journal

logger = logging.getLogger(__name__)

RESUME_HINT = "Run the same command again to go on from here."


class Start(Enum):
    """What a run does with what an earlier one with the same inputs and options has kept."""

    CONTINUE = auto()

    RESUME = auto()

    FRESH = auto()

    @classmethod
    def of(cls, *, resume: bool = False, fresh: bool = False) -> Start:
        """From the flags of the command line; `UsageError` if both are given."""
        if resume and fresh:
            raise UsageError("--resume and --fresh contradict each other", fix="Leave one out.")
        return cls.RESUME if resume else cls.FRESH if fresh else cls.CONTINUE


@contextmanager
def journal_of(what: str, ingredients: Mapping[str, object], start: Start = Start.CONTINUE) -> Iterator[Journal]:
    """A journal with what an earlier run has done. It is removed when the body ends well, and stays if it doesn't.

    Other processes with the same work wait until the body ends. `start` says what to do with earlier work, as does
    ``--no-cache``; a `UsageError` if there is nothing to resume.
    """
    from edge_transact.cache.journal import Journal  # which imports torch

    directory = cache.entry_of(cache.UNFINISHED, ingredients)
    with cache.lock(directory, what):
        if start is Start.FRESH or not cache.enabled:
            shutil.rmtree(directory, ignore_errors=True)
        journal = Journal(directory)
        repair(journal, what)
        if names := journal.names():
            latest = datetime.fromtimestamp(max(file.stat().st_mtime for file in directory.glob("*.safetensors")))
            logger.info(f"{what}: going on from {latest:%Y-%m-%d %H:%M}, with {described(names)} done")
        elif start is Start.RESUME:
            raise _nothing_to_resume(what, ingredients)
        cache.write_record(directory, cache.Record(what=what, ingredients=dict(ingredients), files={}))
        try:
            with resume_hint():
                yield journal
        except BaseException:
            if not journal.names():
                shutil.rmtree(directory, ignore_errors=True)
            raise
        shutil.rmtree(directory, ignore_errors=True)


def repair(journal: Journal, what: str) -> None:
    """`Journal.repair`, with a warning that says what is made again."""
    if lost := journal.repair():
        since = f", with what was written after it: {described(lost[1:])}" if lost[1:] else ""
        logger.warning(f"{what}: {lost[0]} in {journal.directory} is damaged: making it again{since}")


@contextmanager
def resume_hint() -> Iterator[None]:
    """Adds `RESUME_HINT` to an interrupt of the body, which TVM's and torch's code may turn into another exception."""
    try:
        yield
    except BaseException as error:
        if RESUME_HINT not in getattr(error, "__notes__", ()):
            error.add_note(RESUME_HINT)
        raise


def described(names: Sequence[str]) -> str:
    """The groups of a journal in a few words, ``score 0 to 29, sensitivity``, without the states between them."""
    numbers: dict[str, list[int]] = {}
    for name in names:
        if not name.endswith("-state"):
            match = re.fullmatch(r"(.*?)(?:-(\d+))?", name)
            assert match is not None
            numbers.setdefault(match[1], []).extend([int(match[2])] if match[2] else [])
    ends = {name: dict.fromkeys((min(those), max(those))) if those else () for name, those in numbers.items()}
    return ", ".join(f"{name} {' to '.join(map(str, of))}".strip() for name, of in ends.items()) or "a first step"


def _nothing_to_resume(what: str, ingredients: Mapping[str, object]) -> UsageError:
    others = [entry for entry in cache.entries() if entry.kind == cache.UNFINISHED and entry.what == what]
    record = cache.read_record(others[0].path) if others else None
    if record is None:
        return UsageError(f"--resume: nothing is kept of {what}", fix="Leave out --resume to begin.")
    differences = [
        f"{name} was {json.dumps(before)}, now it is {json.dumps(after)}"
        for name, before, after in cache.differences(record.ingredients, ingredients)
    ]
    return UsageError(
        f"--resume with other options: {'; '.join(differences)}",
        fix="Use the options of the interrupted run, or leave out --resume: what it left stays for later.",
    )
