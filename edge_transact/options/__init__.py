"""Options as typed models: an option's name, type, default, range and help are written once, as a field.

From the fields of a stage's `Options` come the command line (`options.command_line`), Python's keyword arguments
(`options.keywords`), the sections of ``edge-transact.toml`` (`project.schema`), cache keys and provenance. A model
holds what a result depends on; where a result goes and how a run goes are parameters of functions and commands.
"""

from edge_transact.options.model import IN_A_FILE, Option, Options, options_of
from edge_transact.options.values import (
    COMMAS,
    MOST_CPUS,
    BadValue,
    Bytes,
    Count,
    OneOf,
    Parameters,
    Seconds,
    Share,
    Threads,
    TokensAndTime,
)

__all__ = [
    "COMMAS",
    "IN_A_FILE",
    "MOST_CPUS",
    "BadValue",
    "Bytes",
    "Count",
    "OneOf",
    "Option",
    "Options",
    "Parameters",
    "Seconds",
    "Share",
    "Threads",
    "TokensAndTime",
    "options_of",
]
