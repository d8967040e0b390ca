"""Checks whether the runtime in the sources of a TVM can load our libraries.

PyPI's TVM builds a library, and MLC-LLM's TVM runs it. The bytecode has a version, calls ``vm.builtin.*`` functions by
name, and passes them tags. A missing function, another number of arguments or an unknown tag would fail on the phone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
    "vm.builtin.kv_state_begin_forward": 3,
    "vm.builtin.kv_state_end_forward": 1,
    "vm.builtin.make_shape": None,
    "vm.builtin.make_tuple": None,
    "vm.builtin.match_shape": None,
    "vm.builtin.null_value": 0,
    "vm.builtin.paged_attention_kv_cache_create": 28,
    "vm.builtin.reshape": 2,
    "vm.builtin.tuple_getitem": 2,
}
"""All functions that our libraries call, on any target: name to number of arguments, `None` for any number."""

TAGS = frozenset({"global", "tirx"})
"""Tags that they pass: the memory scope, and TVM's kind of attention kernels (``tir`` in older versions)."""

BYTECODE = "0.14"

_NAME = re.compile(r'"(vm\.builtin\.[\w.]+)"')
_TYPED = re.compile(r'\.def\(\s*"(vm\.builtin\.[\w.]+)",\s*\[\w*\]\(([^()]*)\)')
_FUNCTION = re.compile(r'\.def\(\s*"(vm\.builtin\.[\w.]+)",\s*(?:\w+::)*(\w+)\)')
_WORD = re.compile(r'"(\w+)"')
_VERSION = re.compile(r'#define VM_VERSION "([\w.]+)"')


@dataclass(frozen=True)
class Runtime:
    """A TVM's runtime: functions with their numbers of arguments, quoted words, and the bytecode's version, if told."""

    registered: Mapping[str, int | None]
    words: frozenset[str]
    bytecode: str | None

    @classmethod
    def read(cls, tvm: Path) -> Runtime:
        registered: dict[str, int | None] = {}
        words: set[str] = set()
        for path in sorted((tvm / "src" / "runtime").rglob("*.cc")):
            text = path.read_text(errors="replace")
            words.update(_WORD.findall(text))
            registered |= {name: registered.get(name) for name in _NAME.findall(text)}
            registered |= {name: count_arguments(parameters) for name, parameters in _TYPED.findall(text)}
            for name, function in _FUNCTION.findall(text):
                if definition := re.search(rf"\b{function}\(([^()]*)\)\s*{{", text):
                    registered[name] = count_arguments(definition[1])
        versions = [
            version
            for path in sorted((tvm / "include" / "tvm" / "runtime").rglob("executable.h"))
            for version in _VERSION.findall(path.read_text(errors="replace"))
        ]
        return cls(registered, frozenset(words), versions[0] if versions else None)

    def lacks(self) -> list[str]:
        """What this runtime lacks of `BYTECODE`, `CALLS` and `TAGS`, one phrase each."""
        problems = []
        if self.bytecode not in (None, BYTECODE):
            problems.append(f"it loads bytecode {self.bytecode}, and ours is {BYTECODE}")
        for name, count in sorted(CALLS.items()):
            takes = self.registered.get(name)
            if name not in self.registered:
                problems.append(f"{name} is not registered")
            elif None not in (takes, count) and takes != count:
                problems.append(f"{name} takes {takes} arguments, and is called with {count}")
        problems += [f"it doesn't know the tag {tag!r}" for tag in sorted(TAGS - self.words)]
        return problems


def count_arguments(arguments: str) -> int:
    """The number of arguments in a list of them. Commas inside ``<>`` and ``[]`` don't count."""
    depth, count = 0, int(bool(arguments.strip()))
    for character in arguments:
        depth += (character in "<[") - (character in ">]")
        count += character == "," and depth == 0
    return count
