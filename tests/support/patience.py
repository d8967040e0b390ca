"""How long tests wait for what takes moments."""

HANG_S = 300
"""So long that only what hangs reaches it, on a machine that is busy with ten other things."""
