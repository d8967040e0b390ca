"""This machine, in a few words for people."""

from __future__ import annotations

import os
import platform

from edge_transact.system.cpu import cpu_name
from edge_transact.system.memory import total_bytes


def machine_name() -> str:
    cpus = os.cpu_count()
    return f"{cpu_name()}, {cpus} CPU{'s' * (cpus != 1)}, {total_bytes() / 2**30:.0f} GiB, {platform.system()}"
