"""The compiler's phases, from the definition's module to VM bytecode and kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tvm
from tvm import IRModule, relax, tirx
from tvm.s_tir import dlight

from edge_transact.compiler.cpu import heads as cpu_heads
from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.cpu.schedules import ScheduleForCPU
from edge_transact.compiler.gpu import heads as gpu_heads
from edge_transact.compiler.gpu import schedules as gpu_schedules
from edge_transact.compiler.gpu.kernels import MetalKernels, OpenCLKernels
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.passes.attach import AttachBounds, AttachEmbeddingAllocation, AttachMetadata
from edge_transact.compiler.passes.checks import OmitChecks
from edge_transact.compiler.passes.decode_token import AttachDecodeToken
from edge_transact.compiler.passes.fuse_matmuls import FuseMatmuls
from edge_transact.compiler.passes.keep_weights import KeepWeights
from edge_transact.compiler.passes.kv_cache import CreateKVCache
from edge_transact.compiler.passes.logits import AttachLogitProcessors, AttachSoftmax
from edge_transact.compiler.passes.reshapes import JoinReshapes
from edge_transact.compiler.passes.sampling import AttachSampling
from edge_transact.compiler.passes.share_heads import ShareHeads
from edge_transact.compiler.passes.share_tensors import ShareTensors

Phases = dict[str, list[tvm.transform.Pass]]
"""Passes in order, in named groups."""


def phases(target: tvm.target.Target, metadata: dict[str, Any], bounds: Mapping[str, int]) -> Phases:
    """The passes from the definition's module to what `relax.build` generates code for.

    Args:
        target: Runs the kernels; its host runs the bytecode.
        metadata: Returned by ``_metadata``; the passes add ``kv_cache`` and ``memory_usage``.
        bounds: The largest value of each symbolic size, by name.
    """
    on_cpu, on_metal = target.kind.name == "llvm", target.kind.name == "metal"
    schedules = ScheduleForCPU() if on_cpu else dlight.ApplyDefaultSchedule(*gpu_schedules.rules(target.kind.name))
    gpu_kernels = MetalKernels() if on_metal else OpenCLKernels()
    kernels = CPUKernels(target, metadata["max_batch_size"]) if on_cpu else gpu_kernels
    matmuls: dict[str, Matmul] = {}
    return {
        # Functions that MLC's engine needs in addition to the model's own.
        "attached": [
            CreateKVCache(target, metadata),
            AttachSoftmax(),
            AttachLogitProcessors(target),
            *([AttachSampling(target)] if on_metal else []),
            AttachEmbeddingAllocation(metadata["prefill_chunk_size"]),
            AttachBounds(dict(bounds)),
            tirx.transform.BindTarget(target),
        ],
        "fused": [
            FuseMatmuls(kernels, matmuls),
            ShareHeads(metadata, cpu_heads) if on_cpu else ShareHeads(metadata, gpu_heads, gpu_kernels, matmuls),
        ],
        # Operators become kernels, element-wise ones fused behind the matmuls.
        "legalized": [
            *([relax.backend.DispatchSortScan()] if on_metal else []),
            JoinReshapes(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ],
        # In 32 bits GPUs compute addresses faster. CPUs would extend each before they add it to a pointer.
        "scheduled": [schedules, *([] if on_cpu else [tirx.transform.ForceNarrowIndexToInt32()]), OmitChecks()],
        "planned": [
            relax.transform.RewriteDataflowReshape(),
            # Kernels of reshapes that are views now.
            relax.transform.DeadCodeElimination(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            *([AttachDecodeToken()] if on_cpu else []),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            AttachMetadata(metadata, bounds),
        ],
        # Calls of the virtual machine.
        "lowered": [
            relax.transform.LowerAllocTensor(),
            relax.transform.ComputePrimValue(),
            ShareTensors(),
            relax.transform.KillAfterLastUse(),
            KeepWeights(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ],
    }


def pipeline(
    target: tvm.target.Target,
    metadata: dict[str, Any],
    bounds: Mapping[str, int],
    observe: Callable[[int, str, IRModule], None] | None = None,
) -> tvm.transform.Pass:
    """The relax pipeline for `relax.build`: all `phases`.

    Args:
        target: As in `phases`.
        metadata: As in `phases`.
        bounds: As in `phases`.
        observe: Called after each phase with its number, from 1 on, its name and the module.
    """

    @tvm.transform.module_pass(opt_level=0, name="EdgeTransact")
    def run(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        with target:
            for number, (name, passes) in enumerate(phases(target, metadata, bounds).items(), 1):
                mod = tvm.transform.Sequential(passes)(mod)
                if observe is not None:
                    observe(number, name, mod)
        return mod

    return run
