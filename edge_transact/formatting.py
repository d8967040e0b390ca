"""How amounts are written for people: sizes in decimal megabytes and times with two digits."""

from __future__ import annotations


def megabytes(size_bytes: float) -> str:
    """A size in decimal units, as ``--max-weight-bytes 600MB`` counts: ``0.4 MB``, ``75.7 MB``, ``1.35 GB``."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 999.95e6 else f"{size_bytes / 1e6:,.1f} MB"


def milliseconds(seconds: float) -> str:
    """The time of a pass, with three digits: ``0.12 ms``, ``11.9 ms``, ``1.5 s``."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def duration(seconds: float) -> str:
    """A time with at most two digits: ``20 s``, ``1.6 min``, ``20 min``, ``1.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 570:
        return f"{seconds / 60:.1f}".removesuffix(".0") + " min"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
