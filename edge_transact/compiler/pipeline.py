"""The order of the passes, from the definition's module to VM bytecode and kernels."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir import dlight

from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.cpu.schedules import ScheduleForCPU
from edge_transact.compiler.gpu import schedules as gpu_schedules
from edge_transact.compiler.gpu.matmul import GPUKernels
from edge_transact.compiler.passes.attach import AttachBounds, AttachEmbeddingAllocation, AttachMetadata
from edge_transact.compiler.passes.fuse_matmuls import FuseMatmuls
from edge_transact.compiler.passes.kv_cache import CreateKVCache
from edge_transact.compiler.passes.logits import AttachLogitProcessors, AttachSoftmax
from edge_transact.compiler.passes.reshapes import JoinReshapes
from edge_transact.compiler.passes.sampling import AttachSampling


def pipeline(target: tvm.target.Target, metadata: dict[str, Any], bounds: dict[str, int]) -> tvm.transform.Pass:
    """The relax pipeline for `relax.build`.

    Args:
        target: Of the kernels; its host runs the bytecode.
        metadata: What ``_metadata`` returns; completed on the way.
        bounds: Name of a symbolic variable to its largest value.
    """
    on_cpu, on_metal = target.kind.name == "llvm", target.kind.name == "metal"
    kernels = ScheduleForCPU() if on_cpu else dlight.ApplyDefaultSchedule(*gpu_schedules.rules(target.kind.name))
    passes = [
        # What the engine needs beside the model's own functions.
        CreateKVCache(target, metadata),
        AttachSoftmax(),
        AttachLogitProcessors(target),
        *([AttachSampling(target)] if on_metal else []),
        AttachEmbeddingAllocation(metadata["prefill_chunk_size"]),
        AttachBounds(bounds),
        tirx.transform.BindTarget(target),
        *([FuseMatmuls(CPUKernels(target) if on_cpu else GPUKernels())] if not on_metal else []),
        # Operators to kernels, element-wise ones fused behind the matrix products.
        *([relax.backend.DispatchSortScan()] if on_metal else []),
        JoinReshapes(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        kernels,
        tirx.transform.ForceNarrowIndexToInt32(),
        # Kernels and calls to VM bytecode, with memory planned.
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        AttachMetadata(metadata),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]

    @tvm.transform.module_pass(opt_level=0, name="EdgeTransact")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        with target:
            return tvm.transform.Sequential(passes)(mod)

    return run
