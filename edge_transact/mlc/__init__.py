"""MLC-LLM: its configuration of a model, and the user's installation of it for ``build --engine mlc``."""
