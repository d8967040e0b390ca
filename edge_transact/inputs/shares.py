"""Shares of several texts: ``TEXT=WEIGHT``, where a weight is any number above 0, and 1 if it isn't given."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edge_transact.errors import UsageError
from edge_transact.inputs.demo_texts import CHATS, MIXED, MIXED_PARTS
from edge_transact.reading import user_path


class Share(NamedTuple):
    text: str
    weight: float = 1.0


def share_of(text: str) -> Share:
    """Splits ``TEXT=WEIGHT``, unless that is the name of a file; a `UsageError` if the weight is not above 0."""
    name, equals, weight = text.rpartition("=")
    if not equals or not name or os.path.exists(user_path(text)):
        return Share(text)
    try:
        number = float(weight)
    except ValueError:
        return Share(text)
    if not (0 < number < math.inf):
        raise UsageError(f"{text}: the weight {weight} is not above 0", fix="Give a number such as 0.5 or 3.")
    return Share(name, number)


def shares_of(texts: str | Iterable[str], *, for_chats: bool = False) -> list[Share]:
    """The texts with their weights; ``demo:mixed`` becomes its parts, which share its weight.

    Where a model has a chat template (`for_chats`), chats have twice the share of the mix's other parts.
    """
    shares = []
    parts = MIXED_PARTS | ({CHATS: 2.0} if for_chats else {})
    for share in map(share_of, [texts] if isinstance(texts, str) else texts):
        if share.text == MIXED:
            total = sum(parts.values())
            shares += [Share(part, share.weight * weight / total) for part, weight in parts.items()]
        else:
            shares.append(share)
    return shares


def names_of(texts: str | Iterable[str]) -> list[str]:
    return [share.text for share in shares_of(texts)]


def dealt(available: Sequence[float], weights: Sequence[float], wanted: int) -> list[int]:
    """How many of `wanted` items each text gives, one at a time by the one furthest behind its weight."""
    given = [0] * len(weights)
    for _ in range(wanted):
        behind = [index for index, most in enumerate(available) if given[index] < most]
        if not behind:
            break
        given[min(behind, key=lambda index: (given[index] + 1) / weights[index])] += 1
    return given
