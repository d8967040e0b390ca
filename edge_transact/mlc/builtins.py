"""What a library calls of the runtime that loads it, compared with what the sources of a TVM register.

A library is built by the TVM of PyPI and runs on the one that MLC-LLM carries. Its bytecode calls ``vm.builtin.*``
functions by name: one that is missing, or takes another number of arguments, fails on the phone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CALLS: dict[str, set[int]] = {
    "vm.builtin.alloc_shape_heap": {2},
    "vm.builtin.alloc_storage": {5},
    "vm.builtin.alloc_tensor": {4},
    "vm.builtin.attention_kv_cache_attention_with_fused_qkv": {5},
    "vm.builtin.check_shape_info": {3},
    "vm.builtin.check_tensor_info": {4},
    "vm.builtin.check_tuple_info": {3},
    "vm.builtin.copy": {1},
    "vm.builtin.make_shape": {4, 6, 8, 10, 12},
    "vm.builtin.make_tuple": {0, 1, 2},
    "vm.builtin.match_shape": {6, 8, 10},
    "vm.builtin.null_value": {0},
    "vm.builtin.paged_attention_kv_cache_create": {28},
    "vm.builtin.reshape": {2},
    "vm.builtin.tuple_getitem": {2},
}
"""What our libraries call, for asking a runtime before anything is built."""

_CALL = re.compile(r"call\s+(vm\.builtin\.[\w.]+)\s+in: (.*?)\s+dst:")
_NAME = re.compile(r'"(vm\.builtin\.[\w.]+)"')
_TYPED = re.compile(r'\.def\(\s*"(vm\.builtin\.[\w.]+)",\s*\[\w*\]\(([^()]*)\)')


def called(executable: Any) -> dict[str, set[int]]:
    """Name to the numbers of arguments with which a loaded library's bytecode calls it.

    Args:
        executable: A library as `tvm.runtime.load_module` returns it.
    """
    calls: dict[str, set[int]] = {}
    for name, arguments in _CALL.findall(str(executable["as_text"]())):
        calls.setdefault(name, set()).add(_count(arguments))
    return calls


def registered(tvm: Path) -> dict[str, int | None]:
    """Name to the number of arguments of what a TVM's sources register; `None` where they don't say it in place."""
    found: dict[str, int | None] = {}
    for path in sorted((tvm / "src").rglob("*.cc")):
        text = path.read_text(errors="replace")
        found |= {name: found.get(name) for name in _NAME.findall(text)}
        found |= {name: _count(parameters) for name, parameters in _TYPED.findall(text)}
    return found


def incompatible(calls: Mapping[str, set[int]], runtime: Mapping[str, int | None]) -> list[str]:
    """What of `calls` a runtime can't answer, a phrase each."""
    problems = []
    for name, counts in sorted(calls.items()):
        if name not in runtime:
            problems.append(f"{name} is not registered")
        elif (takes := runtime[name]) is not None and counts != {takes}:
            problems.append(f"{name} takes {takes} arguments, and is called with {', '.join(map(str, sorted(counts)))}")
    return problems


def _count(arguments: str) -> int:
    """Arguments in a list of them; commas inside ``<>`` and ``[]`` separate none."""
    depth, count = 0, int(bool(arguments.strip()))
    for character in arguments:
        depth += (character in "<[") - (character in ">]")
        count += character == "," and depth == 0
    return count
