"""The user's own MLC-LLM, where there is one: ``build --engine mlc``."""
