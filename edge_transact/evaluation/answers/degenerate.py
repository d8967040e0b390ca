"""Whether an answer is degenerate: what a model gives that is no answer, right or wrong.

The definitions read the text, so that they are the same for every tokenizer. They err on the side of a working model:
see `LOOP_PIECES` and its neighbours for what each needs at least.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Degenerate = Literal["loop", "copy", "endless", "empty"]
"""Says the same again and again; repeats the prompt or the system message; doesn't end; or says nothing."""

LOOP_PIECES, LOOP_CHARACTERS, LONGEST_PIECE = 3, 24, 200
"""A text loops if it ends with a piece, of at most `LONGEST_PIECE` characters, that stands there at least `LOOP_PIECES`
times in a row, and so over at least `LOOP_CHARACTERS` characters. What is begun of the next one may follow."""

TRIGRAMS, REPEATED = 10, 0.5
"""It loops, too, if of at least `TRIGRAMS` word trigrams the share `REPEATED` was there before. Numbers don't count:
a numbered list of the same line is a loop."""

COPIED_WORDS, COPIED_SHARE = 6, 0.5
"""A text is a copy if so many words in a row are the prompt's, and are at least this share of all its words."""

LOOP_TOKENS, LONGEST_CYCLE = 24, 16
"""What `cycles` asks for, in tokens."""

_LETTERS = re.compile(r"[^\W\d_]+")


def degenerate(answer: str, prompt: str, *, ended: bool) -> Degenerate | None:
    """How an answer is degenerate, or `None` if it isn't.

    Args:
        prompt: All that stood before it, the system message included.
        ended: Whether the model ended the answer by itself.
    """
    if not re.search(r"\w", answer):
        return "empty"
    if loops(answer):
        return "loop"
    if copies(answer, prompt):
        return "copy"
    return None if ended else "endless"


def loops(text: str) -> bool:
    """Whether a text ends in a loop or mostly repeats its own words, see `LOOP_PIECES` and `TRIGRAMS`."""
    text = text.strip()
    for size in range(1, min(LONGEST_PIECE, len(text) // LOOP_PIECES) + 1):
        length = max(LOOP_PIECES * size, LOOP_CHARACTERS)
        if length <= len(text) and text[-length:-size] == text[size - length :]:
            return True
    words = [word.lower() for word in _LETTERS.findall(text)]
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(trigrams) >= TRIGRAMS and 1 - len(set(trigrams)) / len(trigrams) >= REPEATED


def copies(text: str, prompt: str) -> bool:
    """Whether a text repeats the prompt and says little else, see `COPIED_WORDS`."""
    words, source = ([word.lower() for word in re.findall(r"\w+", each)] for each in (text, prompt))
    longest, before = 0, [0] * (len(source) + 1)
    for word in words:
        # before[i]: the length of the longest run that ends with the previous word and with source[i - 1]
        now = [0] + [before[index] + 1 if word == other else 0 for index, other in enumerate(source)]
        longest, before = max(longest, *now), now
    return longest >= COPIED_WORDS and longest >= COPIED_SHARE * len(words)


def cycles(ids: Sequence[int]) -> bool:
    """Whether tokens end in a cycle that nothing greedy leaves: an answer is not decoded any further then.

    The last `LOOP_TOKENS` tokens, or four rounds if those are more, repeat with a period of at most `LONGEST_CYCLE`.
    """
    for period in range(1, LONGEST_CYCLE + 1):
        length = max(LOOP_TOKENS, 4 * period)
        if length <= len(ids) and list(ids[-length:-period]) == list(ids[period - length :]):
            return True
    return False
