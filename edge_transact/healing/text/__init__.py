"""Training text: sequences of tokens in an endless, fixed order, and a held-out part."""

from edge_transact.healing.text.stream import Sequence, TrainingText

__all__ = ["Sequence", "TrainingText"]
