"""Options of an export to GGUF."""

from __future__ import annotations

from typing import Annotated

from edge_transact.options import OneOf, Option, Options

KINDS = ("f16", "bf16", "q8_0", "q4_0")


class ExportOptions(Options):
    """How a GGUF file is written."""

    kind: Annotated[
        Annotated[str, OneOf(KINDS, "type")] | None,
        Option("Type of matrices: {choices}.", flags=("--type",), default="f16, or what the DIST has", example="f16"),
    ] = None
    pre: Annotated[
        str | None, Option("llama.cpp's name of how the tokenizer splits text, if it isn't recognized.", metavar="NAME")
    ] = None
