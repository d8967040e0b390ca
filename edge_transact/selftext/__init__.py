"""Text that a model writes itself, as calibration and training text: of its own distribution, chats included."""
