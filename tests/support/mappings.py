"""What Linux says of this process's memory."""

from pathlib import Path

import pytest

MAPS = Path("/proc/self/maps")

needs_maps = pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells what is mapped")


def file_at(address: int) -> Path | None:
    """The file that is mapped at an address; `None` if the memory there is the process's own."""
    for line in MAPS.read_text().splitlines():
        place, *facts = line.split(maxsplit=5)
        start, end = (int(each, 16) for each in place.split("-"))
        if start <= address < end:
            return Path(facts[4]) if len(facts) > 4 and facts[4].startswith("/") else None
    raise AssertionError(f"nothing is at {address:x}")
