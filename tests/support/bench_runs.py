"""What tests of bench runs share: short conditions, and DISTs under difficult names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edge_transact.bench.options import BenchOptions
from edge_transact.bench.records.plan import Lengths

QUICK = BenchOptions(
    lengths=(Lengths(8, 4),), repetitions=2, warmups=0, timeout_s=60, cool_timeout_s=20, reconnect_s=30, sample_s=1
)

NASTY = 'it\'s a "tiny" $(touch pwned); `touch pwned` & touch pwned\n* | <b> \\ é -n #'
"""A DIST may have this name. No shell and no page may take any part of it for a command."""


def copy_dist(dist: Path, to: Path) -> None:
    """Copy a DIST so that it counts as another build: the manifest's layout differs, and so does its digest."""
    shutil.copytree(dist, to)
    manifest = json.loads((to / "manifest.json").read_text())
    (to / "manifest.json").write_text(json.dumps(manifest, indent=len(to.name)))
