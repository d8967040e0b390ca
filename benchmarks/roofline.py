"""What a decoded token takes at least on a phone's GPU: by the bytes that it reads, and by its instructions.

Launches and the turns of loops are those of the library itself, which runs with kernels left out. The machine code is
Mesa's. Both times are bounds, for a GPU that never waits.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import opencl
from benchmarks.mesa import GPUS, MachineCode
from benchmarks.model_coverage import LLAMA_2_7B
from benchmarks.trips import Loop, loops
from edge_transact import costs
from edge_transact.compiler.gpu.devices import DEVICES
from edge_transact.definition import load, render
from edge_transact.quantization import Quantization
from edge_transact.runtime import host
from edge_transact.widths import WidthPlan

CONTEXT, CHUNK = 512, 128
"""Tokens in the KV cache when the token is decoded, and those of a chunk of prefill."""

SMALL = {**LLAMA_2_7B, "tie_word_embeddings": True, "num_key_value_heads": 8, "head_dim": 64, "rope_scaling": None}
MODELS: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        **SMALL,
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "Llama-3.2-1B": {
        **SMALL,
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
    },
    "LLaMA-2-7B": {**LLAMA_2_7B, "rope_scaling": None},
}
"""Shapes of models, without weights."""


@dataclass(frozen=True)
class Phone:
    """A phone's GPU at its highest clock, and its memory.

    Attributes:
        name: The phone's processor.
        gpu: A name in `mesa.GPUS`.
        cores: Cores that take work groups: Adreno's shader processors, Mali's shader cores.
        lanes: Threads of a core that execute an instruction in a cycle.
        clock_hz: The GPU's.
    """

    name: str
    gpu: str
    cores: int
    lanes: int
    clock_hz: float

    @property
    def bytes_per_s(self) -> float:
        """The memory's."""
        return (DEVICES[self.gpu].memory_gb_per_s or math.nan) * 1e9


PHONES = (
    Phone("Snapdragon 8 Gen 3", "adreno-750", 6, 256, 903e6),
    Phone("Dimensity 8100", "mali-g610", 6, 64, 860e6),
    Phone("Dimensity 7200", "mali-g610", 4, 64, 1130e6),
)


STEP = 16
"""Threads whose loops are taken to run equally often; those of a wave, or a part of it."""


@dataclass(frozen=True)
class Work:
    """A launch of a kernel.

    Attributes:
        kernel: Its name.
        groups: Work groups.
        threads: Threads of a work group.
        loops: How often the kernel's loops run, for each `STEP` threads.
    """

    kernel: str
    groups: int
    threads: int
    loops: tuple[tuple[Loop, ...], ...]

    def instructions(self, code: MachineCode, wave: int) -> int:
        """Instructions of a work group, each counted for all threads of a wave, which goes as its first thread does."""
        try:
            return wave * sum(executed(code, source) for source in self.loops[:: wave // STEP])
        except ValueError as error:
            raise ValueError(f"{self.kernel}: {error}") from error

    def seconds(self, code: MachineCode, phone: Phone) -> float:
        """The time that the instructions of the busiest core take."""
        rounds = math.ceil(self.groups / phone.cores)
        return rounds * self.instructions(code, GPUS[phone.gpu].wave) / (phone.lanes * phone.clock_hz)


def executed(code: MachineCode, source: Sequence[Loop]) -> int:
    """Instructions that a thread executes.

    The loops of the machine code are those of the source in the same order, except those that the compiler has
    unrolled, which are taken to be the shortest of a constant length.

    Raises:
        ValueError: More loops are left than the machine code has, or fewer.
    """
    left = list(_flat(source))
    while len(left) > len(code.loops) and (constant := [loop for loop in left if loop.constant]):
        left.remove(min(constant, key=lambda loop: loop.turns))
    if len(left) != len(code.loops):
        raise ValueError(f"the machine code has {len(code.loops)} loops, the source {len(left)}")
    total = code.instructions
    for first, end in code.loops:
        around = [loop.turns for (a, b), loop in zip(code.loops, left, strict=True) if a <= first and end <= b]
        total += (end - first) * (math.prod(around) - math.prod(around[:-1]))
    return total


def _flat(source: Sequence[Loop]) -> Iterator[Loop]:
    for loop in source:
        yield loop
        yield from _flat(loop.inner)


def decoded_token(config: Mapping[str, Any], quantization: Quantization) -> tuple[Counter[Work], dict[str, str]]:
    """The launches of a decoded token, and the OpenCL source of each kernel of the library.

    Nothing is computed, so weights and activations are whatever memory holds.
    """
    import tvm

    config = {**config, "context_window_size": 2 * CONTEXT, "prefill_chunk_size": CHUNK, "max_batch_size": 1}
    sources: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edge-transact-roofline-") as temporary:
        directory = Path(temporary)
        for name, text in render(WidthPlan.from_config(config)).items():
            (directory / name).write_text(text)
        launches: list[opencl.Launch] = []

        def left_out(launch: opencl.Launch) -> bool:
            launches.append(launch)
            return True

        def parameters(_weights: Path, expected: list[dict[str, Any]], _verified: bool) -> list[tvm.runtime.Tensor]:
            return [tvm.runtime.empty(parameter["shape"], parameter["dtype"]) for parameter in expected]

        with opencl.executed_here(sources), mock.patch.object(host, "_load_parameters", parameters):
            opencl.build_library(load(directory, config), quantization, directory / "phone.so")
            model = host.HostModel(directory / "phone.so", directory)
            with opencl.observed(left_out):
                model.prefill([0] * (CONTEXT - 1))
                launches.clear()
                model.decode(0)
                work = _work(launches)
    parts = [part for source in sources for part in source.split("// Function: ")[1:]]
    return work, {part.split("\n", 1)[0]: f"// {part}" for part in parts}


def _work(launches: Sequence[opencl.Launch]) -> Counter[Work]:
    """What is launched how often. Layers share all from which a kernel's loops follow, so one of them is looked at."""
    known: dict[tuple[Any, ...], Work] = {}
    work: Counter[Work] = Counter()
    for launch in launches:
        key = (launch.kernel, launch.groups, launch.threads, launch.numbers)
        if key not in known:
            known[key] = _of_launch(launch)
        work[known[key]] += 1
    return work


def _of_launch(launch: opencl.Launch) -> Work:
    threads, (x, y, _) = math.prod(launch.threads), launch.threads
    turns = []
    for thread in range(0, threads, STEP):
        indices = {"threadIdx.x": thread % x, "threadIdx.y": thread // x % y, "threadIdx.z": thread // (x * y)}
        turns.append(loops(launch.function, launch.arguments, indices))
    return Work(launch.kernel, math.prod(launch.groups), threads, tuple(turns))


def read_seconds(phone: Phone, config: Mapping[str, Any], quantization: Quantization) -> float:
    """The time in which a phone's memory hands over what a token reads."""
    plan = WidthPlan.from_config(dict(config))
    return costs.decode_read_bytes(plan, quantization, CONTEXT) / phone.bytes_per_s
