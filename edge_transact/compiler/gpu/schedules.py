"""dlight's schedules for the GPU's other kernels."""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import dlight

ANY_GPU = {"kind": "opencl", "max_num_threads": 256}
"""A target for which dlight's matmuls use no intrinsics."""


class _MatmulForMetal(dlight.gpu.Matmul):
    """Matmuls in tiles of local memory: on dlight's own for Metal, TVM 0.26 crashes for layers of odd widths."""

    def apply(
        self, func: tirx.PrimFunc, _target: tvm.target.Target, tunable: bool
    ) -> s_tir.Schedule | list[s_tir.Schedule] | None:
        return super().apply(func, tvm.target.Target(ANY_GPU), tunable)


def rules(kind: str) -> list[dlight.ScheduleRule]:
    """The rules for a kind of target, in the order in which they are tried."""
    return [
        _MatmulForMetal() if kind == "metal" else dlight.gpu.Matmul(),
        dlight.gpu.GEMV(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    ]
