"""dlight's schedules, for the GPU's other kernels."""

from __future__ import annotations

from tvm.s_tir import dlight


def rules(kind: str) -> list[dlight.ScheduleRule]:
    """The rules for a kind of target, in the order in which they are tried."""
    # dlight's matmuls for Metal use simdgroup intrinsics, and TVM 0.26 crashes on them for layers of odd widths. There,
    # matmuls take the general rules.
    matmuls = [dlight.gpu.Matmul()] if kind != "metal" else []
    return [
        *matmuls,
        dlight.gpu.GEMV(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    ]
