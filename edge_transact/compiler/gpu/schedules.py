"""Schedules of the GPUs' kernels: dlight's, which take layers of any width."""

from __future__ import annotations

import contextlib
from typing import Any

from tvm import s_tir
from tvm.s_tir import dlight


class AnyWidthMatmul(dlight.gpu.Matmul):
    """dlight's matrix products, of any number of output features.

    Where that number, in blocks of 32, is odd, the schedule for weights that are stored input-major computes one
    feature a thread. With a bias there are loops then that TVM 0.26 cannot vectorize, on which it failed.
    """

    def sch_outer_reduction(self, sch: s_tir.Schedule, *arguments: Any) -> s_tir.Schedule | None:
        """As dlight's, with loops left as they are that cannot be vectorized."""
        return sch if super().sch_outer_reduction(_Forgiving(sch), *arguments) else None


class _Forgiving:
    """A schedule whose `vectorize` does nothing where it can do nothing."""

    def __init__(self, schedule: s_tir.Schedule) -> None:
        self.schedule = schedule

    def __getattr__(self, name: str) -> Any:
        return getattr(self.schedule, name)

    def vectorize(self, loop: s_tir.schedule.LoopRV) -> None:
        with contextlib.suppress(s_tir.ScheduleError):
            self.schedule.vectorize(loop)


def rules(kind: str) -> list[dlight.ScheduleRule]:
    """The rules for a kind of target, in the order in which they are tried."""
    # dlight's matrix products for Metal use simdgroup intrinsics, and TVM 0.26 crashed on them for layers of odd
    # widths: there, the products take the general rules.
    matmuls = [AnyWidthMatmul()] if kind != "metal" else []
    return [
        *matmuls,
        dlight.gpu.GEMV(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    ]
