"""Building a library: the quantized definition goes through the pipeline to an archive or a shared library."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from edge_transact.compiler.archive import (
    android_linker,
    check_library,
    check_temporaries,
    link_android,
    write_archive,
)
from edge_transact.compiler.targets import BuildTarget, architecture, system_lib_prefix
from edge_transact.definition import MODEL_TYPE, Definition
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import Quantization
from edge_transact.system.cpu import FLAGS, I8MM_AT_RUN_TIME

if TYPE_CHECKING:
    import tvm
    from tvm import IRModule, relax
    from tvm.relax.frontend import nn

TOP_PROBS = 5
"""How many of the likeliest tokens' probabilities the engine can ask for per sample."""


def build_library(
    definition: Definition,
    quantization: Quantization,
    target: BuildTarget,
    model_lib: str,
    path: Path,
    functions: Collection[str] = (),
) -> dict[str, Any]:
    """Compile a definition, whose configuration has the library's sizes, for a target. Returns its ``_metadata``.

    Args:
        model_lib: The library's name; an archive's symbols begin with it.
        path: The file to write, with the target's suffix; complete or absent.
        functions: The definition's functions that the library has; all by default.

    Raises:
        EdgeTransactError: The library is damaged (`archive.check_library`), or exceeds the target's profile or memory.
    """
    from tvm.relax.frontend.nn.spec import ModuleSpec

    from edge_transact.compiler.limits import require_buffers, require_launches
    from edge_transact.compiler.modules import quantize_modules
    from edge_transact.compiler.passes import memory

    # A phone's GPU sums in the model's dtype, as MLC's kernels do; on a CPU, nothing is faster than float32.
    accumulate = "float32" if target.device == "llvm" else quantization.model_dtype
    model = quantize_modules(definition.model(), quantization, accumulate)
    tvm_target = target.tvm_target()
    spec = model.get_default_spec()
    wanted = set(functions or spec.method_names)
    if target.is_system_lib and target.device != "llvm":
        # It returns the logits of every position, for perplexity on this host, and would enlarge a phone's workspace.
        wanted -= {"batch_verify"}
    methods = {name: of for name, of in zip(spec.method_names, spec.method_specs, strict=True) if name in wanted}
    spec = ModuleSpec(model, list(methods), list(methods.values()))
    with tvm_target:
        mod, parameters, _ = model.export_tvm(spec=spec, allow_extern=True)
    prefix = system_lib_prefix(model_lib) if target.is_system_lib else ""
    if prefix:
        mod = mod.with_attrs({"system_lib_prefix": prefix})
    metadata = _metadata(definition, quantization, tvm_target, parameters)
    executable, planned, lowered = _compile(mod, target, tvm_target, metadata)
    if target.profile is not None:
        require_buffers(target.profile, planned)
        require_launches(target.profile, lowered)
    if target.device != "llvm":
        memory.check_temporaries(planned, lowered, prefix)
    _export(executable, path, target, model_lib)
    return metadata


def _metadata(
    definition: Definition,
    quantization: Quantization,
    target: tvm.target.Target,
    parameters: list[tuple[str, nn.Parameter]],
) -> dict[str, Any]:
    """The metadata that MLC's engine reads, without the entries that passes add."""
    config = definition.config
    return {
        "model_type": MODEL_TYPE,
        "quantization": quantization.name,
        "context_window_size": config.context_window_size,
        "sliding_window_size": -1,
        "attention_sink_size": -1,
        "prefill_chunk_size": config.prefill_chunk_size,
        "max_batch_size": config.max_batch_size,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "disaggregation": False,
        "kv_state_kind": "kv_cache",
        "model_task": "chat",
        "active_vocab_size": config.vocab_size,
        **_cpu(target),
        "params": [
            {
                "name": name,
                "shape": [int(size) for size in parameter.shape],
                "dtype": str(parameter.dtype),
                "preprocs": [],
                "pipeline_stages": [0],
            }
            for name, parameter in parameters
        ],
    }


def _cpu(target: tvm.target.Target) -> dict[str, dict[str, str | int | list[str]]]:
    """``cpu``: the name, required features and decode's `threads` of a target CPU; empty for a GPU."""
    from tvm.target import codegen

    if target.kind.name != "llvm":
        return {}
    asked_for = {"i8mm"} if I8MM_AT_RUN_TIME in target.keys else set()
    features = sorted(set(codegen.llvm_get_cpu_features(target)) & set(FLAGS) - asked_for)
    name, threads = str(target.attrs.get("mcpu", "generic")), int(target.attrs["num-cores"])
    return {"cpu": {"name": name, "features": features, "threads": threads}}


def _compile(
    mod: IRModule, target: BuildTarget, tvm_target: tvm.target.Target, metadata: dict[str, Any]
) -> tuple[relax.VMExecutable, IRModule, IRModule]:
    """The executable, the module with memory planned, and its lowered kernels. The passes add to `metadata`."""
    import tvm
    from tvm import relax

    from edge_transact.compiler.lowering import PIPELINE, Lowered
    from edge_transact.compiler.objects import compile_kernels
    from edge_transact.compiler.pipeline import phases

    batch = metadata["max_batch_size"]
    bounds = {
        "total_seq_len": metadata["context_window_size"],
        "seq_len": metadata["prefill_chunk_size"],
        "batch_size": batch,
        "num_samples": batch,
        "num_positions": TOP_PROBS * batch,
        "vocab_size": metadata["active_vocab_size"],
    }
    made: dict[str, IRModule] = {}

    def run_phases(mod: IRModule) -> IRModule:
        for name, passes in {"definition": [], **phases(tvm_target, metadata, bounds)}.items():
            for run in passes:
                mod = run(mod)
                interrupt()
            made[name] = mod
        # A system library's symbols begin with its own name.
        if target.device == "llvm" and not target.is_system_lib:
            mod = compile_kernels(mod, tvm_target)
        return mod

    lowered = Lowered()

    def compile_with(**options: bool) -> relax.VMExecutable:
        made.clear()
        config = {f"tirx.{name}": value for name, value in options.items()}
        with tvm.transform.PassContext(opt_level=3, config=config, instruments=[lowered]):
            return relax.build(
                mod,
                target=tvm_target,
                relax_pipeline=run_phases,
                tir_pipeline=PIPELINE,
                system_lib=target.is_system_lib,
            )

    with _kept_interrupts() as interrupt:
        try:
            executable = compile_with()
        except RuntimeError as error:
            # TVM 0.26's common subexpression elimination fails on its own attention kernels for some head dims, such
            # as 48. The driver's compiler eliminates them anyway.
            if "cse_" not in str(error):
                raise
            executable = compile_with(disable_cse_tir=True)
    # The instrument refers to itself through TVM, so it is never freed.
    return executable, made["planned"], vars(lowered).pop("mod", None)


@contextmanager
def _kept_interrupts() -> Iterator[Callable[[], None]]:
    """Raises what interrupted the body again at its end; yields a function that does so earlier.

    TVM tries schedules under `except:`. It would take an interrupt for one that doesn't fit, and compile other kernels.
    """
    pressed: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if is_main}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}

    def press(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        handlers[signal.Signals(number)](number, frame)

    def again() -> None:
        if pressed:
            handlers[signal.Signals(pressed[0])](pressed[0], None)

    for number in handlers:
        signal.signal(number, press)
    try:
        yield again
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        again()


def require_c_compiler() -> None:
    """Raise an `EdgeTransactError` unless TVM finds the C compiler with which it links this machine's libraries."""
    from tvm.support.cc import get_cc

    compiler = get_cc()
    if compiler is None or shutil.which(compiler) is None:
        raise EdgeTransactError(
            f"no C compiler {compiler or 'on PATH'}, which links the library that every build is checked with",
            fix="Install one, such as gcc, or name it in CC. `edge-transact doctor --for host` looks for it.",
        )


def _export(executable: relax.VMExecutable, path: Path, target: BuildTarget, model_lib: str) -> None:
    """Write, check and rename; where a linker is installed, the check includes linking an Android archive."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as workspace:
        fresh = Path(workspace) / path.name
        executable.export_library(
            str(fresh), fcompile=_archive if target.is_system_lib else None, workspace_dir=workspace
        )
        check_library(fresh, target, model_lib)
        if target.device == "opencl":
            check_temporaries(fresh)
        if target.name.startswith("android") and (linker := android_linker(architecture(target))):
            link_android(fresh, Path(workspace) / "linked.so", linker)
        os.replace(fresh, path)


def _archive(output: str, files: Sequence[str]) -> None:
    # TVM's own records the user's name, and leaves its copies of the objects in $TMPDIR when it is killed.
    write_archive(Path(output), [(Path(file).name, Path(file).read_bytes()) for file in files])
