"""The bytecode of a library: its version, the functions that it calls, and the tags among its constants."""

import re

import tvm

from edge_transact.mlc.builtins import count_arguments

_MAGIC = (0xD225DE2F4214151E).to_bytes(8, "little")
"""The first bytes of bytecode; its version follows."""

_CALL = re.compile(r"call\s+(vm\.builtin\.[\w.]+)\s+in: (.*?)\s+dst:")
_JSON = re.compile(r'"\{.*\}"')
_TAG = re.compile(r'(?<=[\[ ])"(\w+)"(?=[,\]])')


def called(executable: tvm.runtime.Module) -> dict[str, int | None]:
    """The functions that an executable's bytecode calls, in the form of `CALLS`."""
    calls: dict[str, set[int]] = {}
    for name, arguments in _CALL.findall(str(executable["as_text"]())):
        calls.setdefault(name, set()).add(count_arguments(arguments))
    return {name: counts.pop() if len(counts) == 1 else None for name, counts in calls.items()}


def tags(executable: tvm.runtime.Module) -> set[str]:
    """The tags among an executable's constants, without error messages and the metadata."""
    constants = str(executable["stats"]()).partition("Constant pool")[2].partition("\n")[0]
    return set(_TAG.findall(_JSON.sub("", constants)))


def bytecode(data: bytes) -> str | None:
    """The version of the bytecode in a library or an object file; `None` if it has none."""
    _, found, rest = data.partition(_MAGIC)
    size = int.from_bytes(rest[:8], "little")
    return rest[8 : 8 + size].decode() if found else None
