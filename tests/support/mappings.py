"""What Linux says of this process's memory."""

from __future__ import annotations

from pathlib import Path


def file_at(address: int) -> Path | None:
    """The file that is mapped at an address; `None` if the memory there is the process's own."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, *facts = line.split(maxsplit=5)
        start, end = (int(each, 16) for each in place.split("-"))
        if start <= address < end:
            return Path(facts[4]) if len(facts) > 4 and facts[4].startswith("/") else None
    raise AssertionError(f"nothing is at {address:x}")
