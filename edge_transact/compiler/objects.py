"""The machine code of a host library: one object for each kernel, taken from the cache if it was compiled before.

Kernels take the sizes of a layer as arguments, so models of other widths have mostly the same ones, and only the first
library takes long.
"""

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
"""The lines of TVMScript that take LLVM as long as what every kernel takes besides.

Measured on the kernels of four libraries (SmolLM2 in q4f32_1, for AVX2 and for AVX-512, and in q4f16_0; ``demo:tiny``):
the CPU time that a kernel takes correlates with its lines by 0.97 to 0.996, and the share of the work that is counted
as done is at most 2 to 4 percentage points from that of the time. With all kernels alike, it is 33 to 45. Statements do
no better, and characters worse."""


@dataclass(frozen=True)
class _Kernel:
    """A kernel to compile.

    Attributes:
        name: Its symbol.
        recipe: Its object.
        lines: How much work that is: the lines of its TVMScript, and `KERNEL_LINES`.
    """

    name: str
    recipe: cache.Recipe
    lines: int


@tvm.transform.module_pass(opt_level=0, name="CompileKernels")
class CompileKernels:
    """Compiles the kernels to objects, one on each core at a time: TVM's passes and LLVM hold no lock of Python's.

    The module keeps their names, and the objects as its external modules.

    Args:
        target: The target of the kernels and of the bytecode.
        step: The description of the bar, which counts lines of kernels.
    """

    def __init__(self, target: tvm.target.Target, step: str = "compile kernels") -> None:
        self.target = target
        self.step = step

    def transform_module(self, mod: IRModule, context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        kernels = {var: function for var, function in mod.functions_items() if isinstance(function, tirx.PrimFunc)}
        objects = self._objects([self._kernel(kernel, context) for kernel in kernels.values()])
        named = mod.clone()
        for var in kernels:
            named[var] = relax.ExternFunc(var.name_hint)
        return named.with_attr("external_mods", objects)

    def _kernel(self, kernel: tirx.PrimFunc, context: tvm.transform.PassContext) -> _Kernel:
        name, script = str(kernel.attrs["global_symbol"]), kernel.script(show_meta=True)
        options = dict(context.config.items())

        def make(directory: Path) -> None:
            # TVM keeps the context by thread.
            with tvm.transform.PassContext(opt_level=context.opt_level, config=options):
                module = tirx.build(IRModule({name: kernel}), target=self.target, pipeline=PIPELINE)
            module.write_to_file(str(directory / f"{name}.o"))

        ingredients = {
            # The text has all names, and the hash all digits of a number.
            "kernel": text_digest(script),
            "hash": tvm_ffi.structural_hash(kernel, map_free_vars=True),
            "target": str(self.target),
            "options": {name: str(value) for name, value in options.items()},
            "code": code_of(CompileKernels),
            "apache-tvm": version("apache-tvm"),
        }
        recipe = cache.Recipe("kernels", f"compile {name}", ingredients, make, is_step=False)
        return _Kernel(name, recipe, KERNEL_LINES + script.count("\n"))

    def _objects(self, kernels: Sequence[_Kernel]) -> list[tvm.runtime.Module]:
        lacking = [kernel.lines if cache.is_lacking(kernel.recipe) else 0 for kernel in kernels]
        total = sum(kernel.lines for kernel in kernels)
        objects = []
        with (
            bar(self.step, total, total - sum(lacking)) as advance,
            ThreadPoolExecutor(cores().threads) as threads,
        ):
            made = threads.map(lambda kernel: cache.made(kernel.recipe), kernels)
            for kernel, lines, directory in zip(kernels, lacking, made, strict=True):
                path = directory / f"{kernel.name}.o"
                objects.append(tvm.runtime.load_static_library(str(path), [kernel.name]))
                advance(lines)
        return objects
