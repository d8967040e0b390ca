"""Schedules of the GPU's other kernels: dlight's, adapted to layers of any width."""

from __future__ import annotations

import contextlib

from tvm import s_tir
from tvm.s_tir import dlight


class AnyWidthMatmul(dlight.gpu.Matmul):
    """dlight's matmuls, for any number of output features.

    If the number of 32-feature blocks is odd, dlight's schedule for input-major weights computes one feature per
    thread. With a bias, some of its loops then cannot be vectorized, and TVM 0.26 fails on them.
    """

    def sch_outer_reduction(self, sch: s_tir.Schedule, *arguments: object) -> s_tir.Schedule | None:
        """Schedule as dlight does, but skip the loops that cannot be vectorized."""
        return sch if super().sch_outer_reduction(_Forgiving(sch), *arguments) else None


class _Forgiving:
    """A schedule whose `vectorize` leaves a loop as it is if it cannot be vectorized."""

    def __init__(self, schedule: s_tir.Schedule) -> None:
        self.schedule = schedule

    def __getattr__(self, name: str) -> object:
        return getattr(self.schedule, name)

    def vectorize(self, loop: s_tir.schedule.LoopRV) -> None:
        with contextlib.suppress(s_tir.ScheduleError):
            self.schedule.vectorize(loop)


def rules(kind: str) -> list[dlight.ScheduleRule]:
    """The rules for a kind of target, in the order in which they are tried."""
    # dlight's matmuls for Metal use simdgroup intrinsics, and TVM 0.26 crashes on them for layers of odd widths. There,
    # matmuls take the general rules.
    matmuls = [AnyWidthMatmul()] if kind != "metal" else []
    return [
        *matmuls,
        dlight.gpu.GEMV(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    ]
