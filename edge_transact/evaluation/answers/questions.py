"""The questions of ``--tasks basics``: what any model that was trained to chat should still answer.

They were written before any model was asked. A rule decides, and no model judges another one: an accepted answer is a
whole word or number among the first `WITHIN` words, a list has enough different things, and a form is checked as it
stands. No question contains an answer that it accepts, so repeating the question is never right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

WITHIN = 16
"""An accepted answer is among so many words from the beginning."""

_WORD = re.compile(r"\w+")
_WHOLE = r"(?<![\w\u2212])(?<!-(?=\d))(?<!\d[.,])(?<!\w['\u2019])(?:{})(?!\w)(?!['\u2019]s\b)(?![.,]\d)"
"""A whole word or number: not a part of a negative number, of a fraction, of "I'd", or of "Earth's"."""
_MARKS = str.maketrans("", "", '*_`"“”„«»')


@dataclass(frozen=True)
class Question:
    """A question and the rule for its answer.

    Attributes:
        accepted: A regular expression that whole words of a right answer match. For a list, one for each thing, with
            spaces between them.
        least: So many different things make the answer right.
        exact: The expression must match the whole answer, as it stands.
    """

    kind: str
    text: str
    accepted: str
    least: int = 1
    exact: bool = False
    quick: bool = False

    def is_right(self, answer: str) -> bool:
        if self.exact:
            return re.fullmatch(self.accepted, answer.strip()) is not None
        plain = answer.translate(_MARKS)
        words, within = list(_WORD.finditer(plain)), len(plain)
        if self.least == 1 and len(words) > WITHIN:
            within = words[WITHIN - 1].end()
        things = self.accepted.split() if self.least > 1 else [self.accepted]
        found = [re.search(_WHOLE.format(thing), plain, re.IGNORECASE) for thing in things]
        return sum(match is not None and match.end() <= within for match in found) >= self.least


def _kind(kind: str, *asked: tuple[str, str], least: int = 1, exact: bool = False, quick: int = 1) -> list[Question]:
    """Questions of one kind, of which the first `quick` are asked by `collapse`."""
    return [
        Question(kind, text, accepted, least, exact, number < quick) for number, (text, accepted) in enumerate(asked)
    ]


def _sentence(words: str) -> str:
    """A sentence of at least four words, one of them of `words`, that comes to its end and isn't the question again."""
    return rf"(?is)(?!.*\bsentence\b)(?=.*\b(?:{words})\b)(?:\S+\s+){{3,60}}\S+[.!?]\W*"


_COLORS = "red blue green yellow orange purple violet black white brown pink gr[ae]y indigo cyan magenta gold silver"
_FRUITS = (
    "apples? bananas? oranges? grapes? pears? peach(?:es)? mango(?:e?s)? cherr(?:y|ies) lemons? limes? kiwis? plums? "
    "pineapples? watermelons? melons? papayas? apricots? figs? dates? pomegranates? grapefruits? berr(?:y|ies) "
    "strawberr(?:y|ies) blueberr(?:y|ies) raspberr(?:y|ies) blackberr(?:y|ies) cranberr(?:y|ies) gooseberr(?:y|ies)"
)
_ANIMALS = (
    "dogs? cats? horses? cows? lions? tigers? bears? elephants? pigs? sheep goats? wol(?:f|ves) fox(?:es)? rabbits? "
    "mouse|mice monkeys? giraffes? zebras? birds? fish(?:es)? snakes? whales? dolphins? sharks? eagles? chickens? "
    "ducks? frogs? pandas? kangaroos? deer leopards? cheetahs? penguins? owls? squirrels? turtles? camels? hippos?"
)
_DAYS = "monday tuesday wednesday thursday friday saturday sunday"
_MONTHS = "january february march april may june july august september october november december"
_SEASONS = "spring summer autumn|fall winter"

QUESTIONS: Sequence[Question] = (
    *_kind(
        "capitals",
        ("What is the capital of France?", "paris"),
        ("What is the capital of Japan?", "tokyo"),
        ("What is the capital of Italy?", "rome|roma"),
        ("What is the capital of Germany?", "berlin"),
        ("What is the capital of Spain?", "madrid"),
        ("What is the capital of Egypt?", "cairo"),
    ),
    *_kind(
        "facts",
        ("How many days are there in a week?", "7|seven"),
        ("On which planet do we live?", "earth"),
        ("Which animal says meow?", "cats?|kittens?"),
        ("What do bees make?", "honey"),
        ("What is frozen water called?", "ice"),
        ("Who wrote the play Romeo and Juliet?", "shakespeare"),
        quick=2,
    ),
    *_kind(
        "arithmetic",
        ("What is 2 + 3?", "5|five"),
        ("What is 10 - 4?", "6|six"),
        ("What is 3 times 3?", "9|nine"),
        ("What is 20 + 20?", "40|forty"),
        ("What is half of 10?", "5|five"),
        ("What is 7 + 6?", "13|thirteen"),
    ),
    *_kind(
        "opposites",
        ("What is the opposite of hot?", "cold|cool|chilly|freezing"),
        ("What is the opposite of big?", "small|little|tiny"),
        ("What is the opposite of up?", "down|downwards?"),
        ("What is the opposite of open?", "closed?|shut"),
        ("What is the opposite of day?", "night"),
        ("What is the opposite of happy?", "sad|unhappy|sadness|miserable"),
    ),
    *_kind(
        "completing",
        ("Complete the sentence: The sky is", "blue|clear|dark|gr[ae]y|cloudy|black|bright|overcast|sunny|beautiful"),
        ("Which day comes after Monday?", "tuesday"),
        ("Which number comes next: 1, 2, 3, 4, ...?", "5|five"),
        ("Which letter comes after A, B, C?", "d"),
        ("Complete the phrase: Once upon a", "time"),
        ("Which month comes after January?", "february"),
    ),
    *_kind(
        "lists",
        ("Name three colors.", _COLORS),
        ("Name three fruits.", _FRUITS),
        ("Name three animals.", _ANIMALS),
        ("Name three days of the week.", _DAYS),
        ("Name three months of the year.", _MONTHS),
        ("Name three seasons of the year.", _SEASONS),
        least=3,
        quick=2,
    ),
    *_kind(
        "translation",
        ("What is the Spanish word for house?", "casa"),
        ("What is the French word for cat?", "chat|chatte"),
        ("What is the German word for water?", "wasser"),
        ("What is the Spanish word for friend?", "amig[oa]"),
        ("What does the Spanish word hola mean in English?", "hello|hi"),
        ("What does the French word merci mean in English?", "thanks?|thank you"),
    ),
    *_kind(
        "form",
        ("Answer with yes or no only: Is ice cold?", r"\W*[Yy](?:es|ES)\W*"),
        ("Write the word hello in capital letters, and nothing else.", r"\W*HELLO\W*"),
        ("Answer with a number only: How many legs does a dog have?", r"\W*(?:4|[Ff]our)\W*"),
        ("Answer with one word only: What color is grass?", r"\W*[Gg]reen\W*"),
        ("Answer with true or false only: Fire is hot.", r"\W*[Tt](?:rue|RUE)\W*"),
        ("Answer with yes or no only: Can a fish drive a car?", r"\W*[Nn][Oo]\W*"),
        exact=True,
    ),
    *_kind(
        "sentences",
        ("Write one sentence about the sea.", _sentence("sea|ocean|waves?|water")),
        ("Write one sentence about a dog.", _sentence("dogs?|pupp(?:y|ies)")),
        ("Write one sentence about the sun.", _sentence("sun")),
        ("Write one sentence about a book.", _sentence("books?")),
        ("Write one sentence about winter.", _sentence("winter|snow|cold")),
        ("Write one sentence about music.", _sentence("music|musical|songs?")),
        exact=True,
        quick=2,
    ),
)
"""All questions, kind by kind, six of each."""


def quick_questions() -> Sequence[Question]:
    """The dozen of them that `collapse` asks: one of each kind, and two where more than a word is asked for."""
    return [question for question in QUESTIONS if question.quick]
