"""Warnings about imprecise results and their likely causes."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from edge_transact.bench.analysis.intervals import Estimate
from edge_transact.bench.analysis.precision import Metric, Samples, durations, speedups

WIDE = 0.05
"""Intervals that are wider than this to each side get a warning."""

FEW_ROUNDS = 5
"""With fewer, most of an interval's width is due to their number."""

OTHERS_SHARE = 0.1
"""Share of all CPU cores from which on other processes are a reason."""

CLOCK_FALL = 0.9
"""A clock that falls below this share of its highest value is a reason."""

WARMING_C = 5
"""Temperatures that differ by more are a reason."""

THROTTLING = 1
"""``ThermalStatus`` LIGHT, from which on Android says that it throttles."""

WORDS: Mapping[Metric, str] = {"ttft_s": "time to first token", "decode_s": "decode", "e2e_s": "latency"}


def warnings_of(samples: Samples, baseline: Samples) -> list[str]:
    """Warnings about imprecise durations of a result, and about their imprecise ratios to the baseline's, if any."""
    found = []
    if problem := _problem(durations(samples)):
        found.append(f"{problem}: {_reasons(samples)}")
    if baseline:
        ratios = speedups(baseline, samples)
        if not ratios["e2e_s"].pairs:
            problem = f"took no turns with {baseline[0].model}: a drift would count as a difference"
            again = "; --fresh measures both in turns" if samples[0].target == baseline[0].target else ""
            found.append(problem + again)
        elif problem := _problem(ratios):
            found.append(f"ratio: {problem}: {_reasons([*baseline, *samples])}")
    return found


def _problem(estimates: Mapping[Metric, Estimate]) -> str | None:
    """The least precise of some values; None if all are precise."""
    if any(estimate.half_width is None for estimate in estimates.values()):
        return "no interval"
    widths = {metric: estimate.half_width or 0.0 for metric, estimate in estimates.items()}
    worst = max(widths, key=lambda metric: widths[metric])
    return f"{WORDS[worst]} is known to ±{widths[worst]:.0%} only" if widths[worst] > WIDE else None


def _reasons(samples: Samples) -> str:
    rounds = len({(sample.session, sample.round) for sample in samples})
    reasons = []
    if any((sample.thermal_status or 0) >= THROTTLING for sample in samples):
        reasons.append("the phone was throttling")
    for name, field in (("CPU", "cpu_mhz"), ("GPU", "gpu_mhz")):
        clocks = [mhz for sample in samples if (mhz := getattr(sample, field))]
        if clocks and min(clocks) < CLOCK_FALL * max(clocks):
            reasons.append(f"the {name}'s clock varied from {min(clocks):,.0f} to {max(clocks):,.0f} MHz")
    temperatures = [sample.temp_start_c for sample in samples if sample.temp_start_c is not None]
    if temperatures and max(temperatures) - min(temperatures) > WARMING_C:
        reasons.append(f"the phone's temperature varied from {min(temperatures):.0f} to {max(temperatures):.0f} C")
    shares = [sample.other_cpu_share for sample in samples if sample.other_cpu_share is not None]
    if shares and median(shares) > OTHERS_SHARE:
        reasons.append(f"other programs took {median(shares):.0%} of the CPU")
    if rounds < FEW_ROUNDS:
        reasons.append(f"only {rounds} round{'s' * (rounds != 1)}")
    return ", ".join(reasons) or "no load, heat or clock explains it; `--until 3%` repeats more"
