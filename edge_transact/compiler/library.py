"""Building a library: the quantized definition goes through the pipeline to an archive or a shared library."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact.compiler.archive import android_linker, check_library, check_temporaries, link_android
from edge_transact.compiler.targets import BuildTarget, system_lib_prefix
from edge_transact.definition import MODEL_TYPE, Definition
from edge_transact.quantization import Quantization
from edge_transact.system.cpu import FLAGS, I8MM_AT_RUN_TIME

if TYPE_CHECKING:
    import tvm
    from tvm import relax

KERNELS_STEP = "compile kernels"
"""The description of the bar while a host library's kernels are compiled."""

TOP_PROBS = 5
"""How many of the likeliest tokens' probabilities the engine can ask for per sample."""


@dataclass(frozen=True)
class BuiltLibrary:
    """A library that was built.

    Attributes:
        path: The file.
        metadata: What its ``_metadata`` returns.
    """

    path: Path
    metadata: dict[str, Any]


def build_library(
    definition: Definition,
    quantization: Quantization,
    target: BuildTarget,
    model_lib: str,
    path: Path,
    dump: Path | None = None,
) -> BuiltLibrary:
    """Compile a definition for a target.

    Args:
        definition: Its configuration has the library's context window, prefill chunk and batch.
        quantization: The format of the library's weights.
        target: The device that the library runs on.
        model_lib: The library's name; an archive's symbols begin with it.
        path: The file to write, with the target's suffix; complete or absent.
        dump: A directory for the intermediate forms: the module after each of `pipeline.phases` (TVMScript), the
            bytecode and the generated code.

    Raises:
        EdgeTransactError: The library fails `archive.check_library`, exceeds the target's profile (`limits`), or
            allocates what ``memory_usage`` doesn't count.
    """
    import tvm
    from tvm import relax

    from edge_transact.compiler.dump import DEFINITION, dump_code, dump_module
    from edge_transact.compiler.limits import require_buffers, require_launches
    from edge_transact.compiler.lowering import PIPELINE, Lowered
    from edge_transact.compiler.modules import quantize_modules
    from edge_transact.compiler.objects import CompileKernels
    from edge_transact.compiler.passes.memory import check_temporaries
    from edge_transact.compiler.pipeline import pipeline

    config = definition.config
    tvm_target = target.tvm_target()
    # A phone's GPU sums in the model's dtype, as MLC's kernels do; on a CPU, nothing is faster than float32.
    accumulate = "float32" if target.device == "llvm" else quantization.model_dtype
    model = quantize_modules(definition.model(), quantization, accumulate)
    with tvm_target:
        mod, parameters, _ = model.export_tvm(spec=model.get_default_spec(), allow_extern=True)
    if target.is_system_lib and target.device != "llvm":
        # It returns the logits of every position, for perplexity on this host, and would enlarge a phone's workspace.
        del mod["batch_verify"]
    metadata = {
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
        **_cpu(tvm_target),
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
    bounds = {
        "total_seq_len": config.context_window_size,
        "seq_len": config.prefill_chunk_size,
        "batch_size": config.max_batch_size,
        "num_samples": config.max_batch_size,
        "num_positions": TOP_PROBS * config.max_batch_size,
        "vocab_size": config.vocab_size,
    }
    if target.is_system_lib:
        mod = mod.with_attrs({"system_lib_prefix": system_lib_prefix(model_lib)})

    if dump is not None:
        dump.mkdir(parents=True, exist_ok=True)
        dump_module(dump, 0, DEFINITION, mod)

    made: dict[str, tvm.IRModule] = {}

    def observe(number: int, phase: str, module: tvm.IRModule) -> None:
        made[phase] = module
        if dump is not None:
            dump_module(dump, number, phase, module)

    lowered = Lowered()

    relax_pipeline = pipeline(tvm_target, metadata, bounds, observe)
    # A dump shows the kernels' code, and a system library's symbols begin with its own name.
    if target.device == "llvm" and not target.is_system_lib and dump is None:
        relax_pipeline = tvm.transform.Sequential([relax_pipeline, CompileKernels(tvm_target, KERNELS_STEP)])

    def compile_with(**options: bool) -> relax.VMExecutable:
        config = {f"tirx.{name}": value for name, value in options.items()}
        with tvm.transform.PassContext(opt_level=3, config=config, instruments=[lowered]):
            return relax.build(
                mod,
                target=tvm_target,
                relax_pipeline=relax_pipeline,
                tir_pipeline=PIPELINE,
                system_lib=target.is_system_lib,
            )

    try:
        executable = compile_with()
    except RuntimeError as error:
        # TVM 0.26's common subexpression elimination fails on its own attention kernels for some head dims, such as 48.
        # The driver's compiler eliminates them anyway.
        if "cse_" not in str(error):
            raise
        executable = compile_with(disable_cse_tir=True)
    if dump is not None:
        dump_code(dump, executable)
    if target.profile is not None:
        # Not in passes: TVM makes a RuntimeError of every error in them.
        require_buffers(target.profile, made["planned"])
        require_launches(target.profile, lowered.mod)
    if target.device != "llvm":
        prefix = system_lib_prefix(model_lib) if target.is_system_lib else ""
        check_temporaries(made["planned"], lowered.mod, prefix)
    _export(executable, path, target, model_lib)
    return BuiltLibrary(path, metadata)


def _cpu(target: tvm.target.Target) -> dict[str, dict[str, str | int | list[str]]]:
    """``cpu``: name, required features and `threads` of the CPU that kernels are compiled for; empty for a GPU.

    Decode is divided among as many threads.
    """
    from tvm.target import codegen

    if target.kind.name != "llvm":
        return {}
    asked_for = {"i8mm"} if I8MM_AT_RUN_TIME in target.keys else set()
    features = sorted(set(codegen.llvm_get_cpu_features(target)) & set(FLAGS) - asked_for)
    name, threads = str(target.attrs.get("mcpu", "generic")), int(target.attrs["num-cores"])
    return {"cpu": {"name": name, "features": features, "threads": threads}}


def _export(executable: relax.VMExecutable, path: Path, target: BuildTarget, model_lib: str) -> None:
    """Write, check and rename; where a linker is installed, the check includes linking an Android archive."""
    from tvm.support import tar

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as workspace:
        fresh = Path(workspace) / path.name
        if target.is_system_lib:
            executable.export_library(str(fresh), fcompile=tar.tar)
        else:
            executable.export_library(str(fresh))
        check_library(fresh, target, model_lib)
        if target.device == "opencl":
            check_temporaries(fresh)
        if target.name.startswith("android") and (linker := android_linker()):
            link_android(fresh, Path(workspace) / "linked.so", linker)
        os.replace(fresh, path)


def read_metadata(module: relax.VirtualMachine) -> dict[str, Any]:
    """What a loaded library's ``_metadata`` returns."""
    return json.loads(str(module["_metadata"]()))
