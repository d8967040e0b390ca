"""Limits of phones' GPUs, which the kernels and buffers of a library are checked against.

A new phone is one entry of `DEVICES`. Figures without a public source are left out, or `GENERIC`'s, which no entry is
below. Sources that several entries share:

- Mesa: ``src/freedreno/common/freedreno_devices.py`` and ``freedreno_dev_info.py``, ``src/panfrost/lib/pan_props.c``.
- Arm: *Mali GPU OpenCL Developer Guide* (101574), section 9.6.
- OpenCL: the full profile's minima, in the specification of ``clGetDeviceInfo``.
- The devices' own output of ``clinfo``, in the issues that are named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Device:
    """One of the values of ``--device-profile``.

    Attributes:
        max_threads: Threads of a work group (``CL_DEVICE_MAX_WORK_GROUP_SIZE``).
        local_bytes: Local memory of a work group (``CL_DEVICE_LOCAL_MEM_SIZE``).
        max_allocation_bytes: The largest buffer (``CL_DEVICE_MAX_MEM_ALLOC_SIZE``).
        registers: The most 32-bit registers of a thread at which a core runs all its threads, and half of them.
        half_lanes: fp16 lanes of an arithmetic instruction (``CL_DEVICE_NATIVE_VECTOR_WIDTH_HALF``).
        sub_group: The fewest threads that execute together.
    """

    name: str
    description: str
    max_threads: int
    local_bytes: int
    max_allocation_bytes: int
    registers: tuple[int, int] | None = None
    half_lanes: int | None = None
    sub_group: int | None = None
    memory_gb_per_s: float | None = None


GENERIC = Device(
    "generic",
    "any GPU with OpenCL's full profile, in a phone with 4 GiB or more",
    # TVM's default for OpenCL, and the fewest known of a phone: Mali-T628, of 2013 (plaidml/plaidml#227).
    max_threads=256,
    local_bytes=32 << 10,  # OpenCL
    # OpenCL 2.0 and later: a quarter of the GPU's memory, or 1 GiB. The GPU of an Adreno 750 has 5.4 of 8 GiB
    # (Oblomov/clinfo#92); of 4 GiB, half are assumed.
    max_allocation_bytes=512 << 20,
)

_ADRENO_6XX = replace(
    GENERIC,
    name="adreno-6xx",
    description="Qualcomm Adreno 615 to 690",
    max_threads=1024,  # Mesa: max_waves * threadsize_base
    local_bytes=32 << 10,  # Mesa: cs_shared_mem_size. Adreno 605 to 613 have half.
    sub_group=64,  # Mesa: threadsize_base
)
_ADRENO_7XX = replace(
    _ADRENO_6XX,
    name="adreno-7xx",
    description="Qualcomm Adreno 710 to 750",
    # Mesa: a thread that uses all of reg_size_vec4 = 96 registers, of 4 words, leaves room for 2 waves
    # (wave_granularity) of 64. A core can have 16 waves (max_waves) of 128 (supports_double_threadsize).
    registers=(24, 48),
    half_lanes=1,  # Adreno 740: CodeLinaro/llama.cpp#17
)

DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        GENERIC,
        _ADRENO_6XX,
        _ADRENO_7XX,
        replace(
            _ADRENO_7XX,
            name="adreno-750",
            description="Qualcomm Adreno 750",
            max_allocation_bytes=1 << 30,  # Oblomov/clinfo#92
            memory_gb_per_s=76.8,  # Snapdragon 8 Gen 3: LPDDR5X at 4,800 MHz, 64 bits wide (docs/lab/phone-gpu.md)
        ),
        replace(
            GENERIC,
            name="mali-g57",
            description="Arm Mali-G57",
            registers=(32, 64),  # Arm; Mesa: pan_compute_max_thread_count
            half_lanes=2,  # Arm
            sub_group=16,  # Arm
        ),
        replace(
            GENERIC,
            name="mali-g610",
            description="Arm Mali-G610",
            max_threads=1024,  # ARM-software/armnn#704, blakeblackshear/frigate#5733
            max_allocation_bytes=3_914_739_712,  # with 4 GB: ARM-software/armnn#704. It is all that the GPU has.
            registers=(32, 64),  # Mesa: pan_compute_max_thread_count
            half_lanes=2,  # ARM-software/armnn#704, blakeblackshear/frigate#5733
            sub_group=16,  # blakeblackshear/frigate#5733
            memory_gb_per_s=51.2,  # Dimensity 8100 and 7200: nanoreview and cpu-boss (docs/lab/phone-gpu.md)
        ),
    )
}
