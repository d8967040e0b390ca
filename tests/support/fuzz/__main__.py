"""``python -m tests.support.fuzz TARGET [libFuzzer's words]``: looks for bytes that break a target, by atheris.

Inputs that reach new code are added to the first directory that is named.
"""

import sys

import atheris

with atheris.instrument_imports(include=["edge_transact", "gguf"]):
    from tests.support.fuzz.targets import TARGETS


atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
atheris.Fuzz()
