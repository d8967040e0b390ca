"""The compiler's phases, from the definition's module to VM bytecode and kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import tvm
from tvm import IRModule, relax, tirx
from tvm.s_tir import dlight

from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.cpu.schedules import schedule_for_cpu
from edge_transact.compiler.gpu import schedules as gpu_schedules
from edge_transact.compiler.gpu.kernels import MetalKernels, OpenCLKernels
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.passes import attach
from edge_transact.compiler.passes.cleanup import join_reshapes, omit_checks
from edge_transact.compiler.passes.fuse_matmuls import Kernels, fuse_matmuls
from edge_transact.compiler.passes.kv_cache import create_kv_cache
from edge_transact.compiler.passes.logits import attach_logit_processors, attach_softmax
from edge_transact.compiler.passes.sampling import attach_sampling
from edge_transact.compiler.passes.share_heads import share_heads
from edge_transact.compiler.passes.tensors import keep_weights, share_tensors

Pass = Callable[[IRModule], IRModule]


def phases(target: tvm.target.Target, metadata: dict[str, Any], bounds: Mapping[str, int]) -> dict[str, list[Pass]]:
    """The passes to what `relax.build` generates code for, in order, in named groups.

    They add ``kv_cache`` and ``memory_usage`` to `metadata`; `bounds` has the largest value of each symbolic size.
    """
    on_cpu, on_metal = target.kind.name == "llvm", target.kind.name == "metal"
    kernels: Kernels = MetalKernels() if on_metal else OpenCLKernels()
    schedule: Pass = dlight.ApplyDefaultSchedule(*gpu_schedules.rules(target.kind.name))
    if on_cpu:
        kernels, schedule = CPUKernels(target, metadata["max_batch_size"]), schedule_for_cpu
    matmuls: dict[str, Matmul] = {}
    return {
        # Functions that MLC's engine needs in addition to the model's own.
        "attached": [
            partial(create_kv_cache, target=target, metadata=metadata),
            attach_softmax,
            partial(attach_logit_processors, target=target),
            *([partial(attach_sampling, target=target)] if on_metal else []),
            partial(attach.attach_embedding_allocation, prefill_chunk_size=metadata["prefill_chunk_size"]),
            partial(attach.attach_bounds, bounds=bounds),
            tirx.transform.BindTarget(target),
        ],
        "fused": [
            partial(fuse_matmuls, kernels=kernels, made=matmuls),
            partial(share_heads, metadata=metadata, kernels=kernels, matmuls={} if on_cpu else matmuls),
        ],
        # Operators become kernels, element-wise ones fused behind the matmuls.
        "legalized": [
            *([relax.backend.DispatchSortScan()] if on_metal else []),
            join_reshapes,
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ],
        # GPUs compute addresses faster in 32 bits; CPUs would extend each before they add it to a pointer.
        "scheduled": [schedule, *([] if on_cpu else [tirx.transform.ForceNarrowIndexToInt32()]), omit_checks],
        "planned": [
            relax.transform.RewriteDataflowReshape(),
            # Kernels of reshapes that are views now.
            relax.transform.DeadCodeElimination(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            *([attach.attach_decode_token] if on_cpu else []),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            partial(attach.attach_metadata, metadata=metadata, bounds=bounds),
        ],
        # Calls of the virtual machine.
        "lowered": [
            relax.transform.LowerAllocTensor(),
            relax.transform.ComputePrimValue(),
            share_tensors,
            relax.transform.KillAfterLastUse(),
            keep_weights,
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ],
    }
