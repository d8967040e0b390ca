"""The machine code of a host library: one cached object for each kernel."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx

from edge_transact import cache
from edge_transact.artifacts.digests import text_digest
from edge_transact.cache.keys import code_of
from edge_transact.compiler.lowering import PIPELINE
from edge_transact.progress import bar
from edge_transact.system.cores import cores

KERNEL_LINES = 30
"""The fixed cost of compiling a kernel, in lines of TVMScript; measured, its time is proportional to the sum."""


@dataclass(frozen=True)
class _Kernel:
    """A kernel to compile: its symbol, the recipe of its object, and its work (TVMScript lines plus `KERNEL_LINES`)."""

    name: str
    recipe: cache.Recipe
    lines: int


def compile_kernels(mod: IRModule, target: tvm.target.Target) -> IRModule:
    """Replace the kernels of a module by names, and attach their objects as external modules."""
    kernels = {var: function for var, function in mod.functions_items() if isinstance(function, tirx.PrimFunc)}
    objects = _objects([_kernel(kernel, target) for kernel in kernels.values()])
    named = mod.clone()
    for var in kernels:
        named[var] = relax.ExternFunc(var.name_hint)
    return named.with_attr("external_mods", objects)


def _kernel(kernel: tirx.PrimFunc, target: tvm.target.Target) -> _Kernel:
    name, script = str(kernel.attrs["global_symbol"]), kernel.script(show_meta=True)
    context = tvm.transform.PassContext.current()
    options = dict(context.config.items())

    def make(directory: Path) -> None:
        # TVM keeps the context by thread.
        with tvm.transform.PassContext(opt_level=context.opt_level, config=options):
            module = tirx.build(IRModule({name: kernel}), target=target, pipeline=PIPELINE)
        module.write_to_file(str(directory / f"{name}.o"))

    ingredients = {
        # The text has all names, and the hash all digits of a number.
        "kernel": text_digest(script),
        "hash": tvm_ffi.structural_hash(kernel, map_free_vars=True),
        "target": str(target),
        "options": {name: str(value) for name, value in options.items()},
        "code": code_of(compile_kernels),
        "apache-tvm": version("apache-tvm"),
    }
    recipe = cache.Recipe("kernels", f"compile {name}", ingredients, make, is_step=False)
    return _Kernel(name, recipe, KERNEL_LINES + script.count("\n"))


def _objects(kernels: Sequence[_Kernel]) -> list[tvm.runtime.Module]:
    lacking = [kernel.lines if cache.is_lacking(kernel.recipe) else 0 for kernel in kernels]
    objects = []
    with bar("compile kernels", sum(lacking)) as advance, ThreadPoolExecutor(cores().threads) as threads:
        made = threads.map(lambda kernel: cache.made(kernel.recipe), kernels)
        for kernel, lines, directory in zip(kernels, lacking, made, strict=True):
            objects.append(tvm.runtime.load_static_library(str(directory / f"{kernel.name}.o"), [kernel.name]))
            advance(lines)
    return objects
