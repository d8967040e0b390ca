"""The machine code of a host library: one object for each kernel, taken from the cache if it was compiled before.

Kernels take the sizes of a layer as arguments, so models of other widths have mostly the same ones, and only the first
library takes long.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx

from edge_transact.artifacts import cache
from edge_transact.artifacts.digests import text_digest
from edge_transact.compiler.lowering import PIPELINE
from edge_transact.progress import bar


@tvm.transform.module_pass(opt_level=0, name="CompileKernels")
class CompileKernels:
    """Compiles the kernels to objects. The module keeps their names, and the objects as its external modules.

    Args:
        target: The target of the kernels and of the bytecode.
        step: The description of the bar of kernels.
    """

    def __init__(self, target: tvm.target.Target, step: str = "compile kernels") -> None:
        self.target = target
        self.step = step

    def transform_module(self, mod: IRModule, context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        kernels = {var: function for var, function in mod.functions_items() if isinstance(function, tirx.PrimFunc)}
        objects = self._objects([self._recipe(kernel, context) for kernel in kernels.values()])
        named = mod.clone()
        for var in kernels:
            named[var] = relax.ExternFunc(var.name_hint)
        return named.with_attr("external_mods", objects)

    def _recipe(self, kernel: tirx.PrimFunc, context: tvm.transform.PassContext) -> tuple[str, cache.Recipe]:
        name = str(kernel.attrs["global_symbol"])

        def make(directory: Path) -> None:
            module = tirx.build(IRModule({name: kernel}), target=self.target, pipeline=PIPELINE)
            module.write_to_file(str(directory / f"{name}.o"))

        ingredients = {
            # The text has all names, and the hash all digits of a number.
            "kernel": text_digest(kernel.script(show_meta=True)),
            "hash": tvm_ffi.structural_hash(kernel, map_free_vars=True),
            "target": str(self.target),
            "options": {name: str(value) for name, value in context.config.items()},
            "code": cache.code("compiler/objects.py", "compiler/lowering.py"),
            "apache-tvm": version("apache-tvm"),
        }
        return name, cache.Recipe("kernels", f"compile {name}", ingredients, make, is_step=False)

    def _objects(self, recipes: Sequence[tuple[str, cache.Recipe]]) -> list[tvm.runtime.Module]:
        lacking = [cache.is_lacking(recipe) for _, recipe in recipes]
        objects = []
        with bar(self.step, len(recipes), len(recipes) - sum(lacking)) as advance:
            for (name, recipe), is_lacking in zip(recipes, lacking, strict=True):
                objects.append(tvm.runtime.load_static_library(str(cache.made(recipe) / f"{name}.o"), [name]))
                advance(is_lacking)
        return objects
