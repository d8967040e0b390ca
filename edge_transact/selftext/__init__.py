"""Text that a model writes itself, as calibration and training text: of its own distribution, chats included.

- ``sampling`` draws many rows of tokens at once.
- ``texts`` says where rows begin, and keeps them in the cache, piece by piece.
"""
