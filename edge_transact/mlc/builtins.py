"""What a library asks of the runtime that loads it, compared with what the sources of a TVM offer.

A library is built by the TVM of PyPI and runs on the one that MLC-LLM carries. Its bytecode, of some version, calls
``vm.builtin.*`` functions by name, and hands them tags such as the kind of an attention kernel. A function that is
missing or takes another number of arguments, and a tag that means nothing, fail on the phone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS: dict[str, int | None] = {
    "vm.builtin.alloc_shape_heap": 2,
    "vm.builtin.alloc_storage": 5,
    "vm.builtin.alloc_tensor": 4,
    "vm.builtin.attention_kv_cache_attention_with_fused_qkv": 5,
    "vm.builtin.attention_kv_cache_get_query_positions": 1,
    "vm.builtin.check_shape_info": 3,
    "vm.builtin.check_tensor_info": 4,
    "vm.builtin.check_tuple_info": 3,
    "vm.builtin.copy": 1,
    "vm.builtin.make_shape": None,
    "vm.builtin.make_tuple": None,
    "vm.builtin.match_shape": None,
    "vm.builtin.null_value": 0,
    "vm.builtin.paged_attention_kv_cache_create": 28,
    "vm.builtin.reshape": 2,
    "vm.builtin.tuple_getitem": 2,
}
"""What the libraries of all our targets call, for asking a runtime before anything is built: function to the number of
its arguments; `None` where it takes as many as come."""

TAGS = frozenset({"global", "tirx"})
"""The words that they hand over: where memory lies, and that attention kernels are TVM's (``tir`` in older ones)."""

BYTECODE = "0.14"
"""The version of their bytecode."""

_MAGIC = (0xD225DE2F4214151E).to_bytes(8, "little")
"""What bytecode begins with; its version follows."""

_CALL = re.compile(r"call\s+(vm\.builtin\.[\w.]+)\s+in: (.*?)\s+dst:")
_JSON = re.compile(r'"\{.*\}"')
_TAG = re.compile(r'(?<=[\[ ])"(\w+)"(?=[,\]])')
_NAME = re.compile(r'"(vm\.builtin\.[\w.]+)"')
_TYPED = re.compile(r'\.def\(\s*"(vm\.builtin\.[\w.]+)",\s*\[\w*\]\(([^()]*)\)')
_FUNCTION = re.compile(r'\.def\(\s*"(vm\.builtin\.[\w.]+)",\s*(?:\w+::)*(\w+)\)')
_WORD = re.compile(r'"(\w+)"')
_VERSION = re.compile(r'#define VM_VERSION "([\w.]+)"')


def called(executable: Any) -> dict[str, int | None]:
    """What an executable's bytecode calls, as `CALLS` has it.

    Args:
        executable: TVM's module of the bytecode, as a library's own is when `tvm.runtime.load_module` has loaded it.
    """
    calls: dict[str, set[int]] = {}
    for name, arguments in _CALL.findall(str(executable["as_text"]())):
        calls.setdefault(name, set()).add(_count(arguments))
    return {name: counts.pop() if len(counts) == 1 else None for name, counts in calls.items()}


def tags(executable: Any) -> set[str]:
    """The words among an executable's constants; error messages and the metadata are none."""
    constants = str(executable["stats"]()).partition("Constant pool")[2].partition("\n")[0]
    return set(_TAG.findall(_JSON.sub("", constants)))


def bytecode(data: bytes) -> str | None:
    """The version of the bytecode in a library's, or an object's, bytes; `None` where there is none."""
    _, found, rest = data.partition(_MAGIC)
    size = int.from_bytes(rest[:8], "little")
    return rest[8 : 8 + size].decode() if found else None


@dataclass(frozen=True)
class Runtime:
    """What the sources of a TVM offer.

    Attributes:
        registered: Function to the number of its arguments; `None` where the sources don't say it in place.
        words: All words in quotes in the runtime.
        bytecode: The version of bytecode that it loads; `None` where the sources don't say.
    """

    registered: Mapping[str, int | None]
    words: frozenset[str]
    bytecode: str | None

    @classmethod
    def read(cls, tvm: Path) -> Runtime:
        """Reads the sources of TVM in a directory."""
        registered: dict[str, int | None] = {}
        words: set[str] = set()
        for path in sorted((tvm / "src" / "runtime").rglob("*.cc")):
            text = path.read_text(errors="replace")
            words.update(_WORD.findall(text))
            registered |= {name: registered.get(name) for name in _NAME.findall(text)}
            registered |= {name: _count(parameters) for name, parameters in _TYPED.findall(text)}
            for name, function in _FUNCTION.findall(text):
                if definition := re.search(rf"\b{function}\(([^()]*)\)\s*{{", text):
                    registered[name] = _count(definition[1])
        versions = [
            version
            for path in sorted((tvm / "include" / "tvm" / "runtime").rglob("executable.h"))
            for version in _VERSION.findall(path.read_text(errors="replace"))
        ]
        return cls(registered, frozenset(words), versions[0] if versions else None)

    def lacks(self) -> list[str]:
        """What of `BYTECODE`, `CALLS` and `TAGS` it can't answer, a phrase each."""
        problems = []
        if self.bytecode not in (None, BYTECODE):
            problems.append(f"it loads bytecode {self.bytecode}, and ours is {BYTECODE}")
        for name, count in sorted(CALLS.items()):
            takes = self.registered.get(name)
            if name not in self.registered:
                problems.append(f"{name} is not registered")
            elif None not in (takes, count) and takes != count:
                problems.append(f"{name} takes {takes} arguments, and is called with {count}")
        problems += [f"it knows no {tag!r}, a tag that is handed to it" for tag in sorted(TAGS - self.words)]
        return problems


def _count(arguments: str) -> int:
    """Arguments in a list of them; commas inside ``<>`` and ``[]`` separate none."""
    depth, count = 0, int(bool(arguments.strip()))
    for character in arguments:
        depth += (character in "<[") - (character in ">]")
        count += character == "," and depth == 0
    return count
