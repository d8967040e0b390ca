"""Options as typed models: an option's name, type, default, range and help are written once.

A stage's options are the fields of one `Options` model next to its code, such as `prune.options`. From the fields come
the command line (`options.command_line`), Python's keyword arguments (`options.keywords`), the sections of
``edge-transact.toml`` (`project.schema`), cache keys, provenance and defaults. A new option is one field, and the code
that uses it.

A model holds what a result depends on. Where a result goes and how a run goes (an output, ``force``, ``resume``, a
report, a dump, ``--json``) are parameters of the function and of the command, so that no key can depend on them.
"""

from edge_transact.options.model import IN_A_FILE, Option, Options, options_of
from edge_transact.options.values import COMMAS, BadValue, Bytes, Count, OneOf, Parameters, Share

__all__ = [
    "COMMAS",
    "IN_A_FILE",
    "BadValue",
    "Bytes",
    "Count",
    "OneOf",
    "Option",
    "Options",
    "Parameters",
    "Share",
    "options_of",
]
