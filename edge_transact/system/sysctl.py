"""What macOS tells of a machine."""

from __future__ import annotations

import ctypes
import ctypes.util


def number(name: str) -> int | None:
    """A number by its name, such as ``hw.physicalcpu``; `None` if there is none. Source: sysctlbyname(3)."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    return value.value if _read(name, ctypes.byref(value), size) else None


def text(name: str) -> str | None:
    """A text by its name, such as ``machdep.cpu.brand_string``; `None` if there is none."""
    value, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    return value.value.decode() if _read(name, value, size) else None


def _read(name: str, value: object, size: ctypes.c_size_t) -> bool:
    try:
        found = ctypes.CDLL(ctypes.util.find_library("c")).sysctlbyname
    except (AttributeError, OSError):
        return False
    return not found(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0))
