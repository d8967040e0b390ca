"""The table of ``docs/lab/phone-gpu.md`` that lists the phones' GPUs that libraries are checked for."""

from __future__ import annotations

from edge_transact.compiler.gpu.devices import DEVICES, Device

HEADER = (
    "`--device-profile`",
    "GPUs",
    "threads",
    "local memory",
    "one buffer",
    "registers",
    "fp16 lanes",
    "sub-group",
    "memory, GB/s",
)


def table() -> str:
    """A row for each device; a figure that isn't known is left out."""
    rows = [HEADER, ("---",) * len(HEADER), *map(_row, DEVICES.values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(device: Device) -> tuple[str, ...]:
    return (
        f"`{device.name}`",
        device.description,
        f"{device.max_threads:,}",
        f"{device.local_bytes >> 10} KiB",
        f"{device.max_allocation_bytes / 2**20:,.0f} MiB",
        ", ".join(map(str, device.registers or ())),
        str(device.half_lanes or ""),
        str(device.sub_group or ""),
        str(device.memory_gb_per_s or ""),
    )
