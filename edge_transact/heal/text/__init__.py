"""Training text: sequences of tokens in an endless, fixed order, and a held-out part.

- ``encoding`` turns documents and chats into tokens, and says which of them count.
- ``stream`` packs them into sequences, text by text, in memory that doesn't grow with the text.
"""

from edge_transact.heal.text.stream import Sequence, TrainingText

__all__ = ["Sequence", "TrainingText"]
