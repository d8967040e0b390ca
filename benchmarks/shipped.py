"""Our kernels of a decoded token next to those that MLC-LLM's phone libraries hold for the same model and weights.

An Android library of MLC's has each kernel's OpenCL as text, and the bytecode that says how often a token launches it.
"""

from __future__ import annotations

import math
import re
import struct
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import mesa, page
from edge_transact.compiler.launches import argument_sizes, launches, value
from edge_transact.definition import load
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support import opencl, traffic
from tests.support.definitions import config_of

QUANTIZATION = "q4f16_0"
CONTEXT = 512
"""Tokens in the KV cache when the token is decoded."""

MODELS = {
    16: ("Llama-3.2-1B", WidthPlan(2048, 128_256, True, False, False, (LayerWidths(32, 8, 64, 64, 8192),) * 16)),
    28: ("Llama-3.2-3B", WidthPlan(3072, 128_256, True, False, False, (LayerWidths(24, 8, 128, 128, 8192),) * 28)),
}
"""By their layers: LLaMAs that are compared."""

EMBED, NORM, QKV, ROTATE, APPEND, ATTEND = "embedding", "first norm", "QKV", "rotate", "append", "attend"
O_PROJ, ADD, GATE_UP, SILU, DOWN, LOGITS = "`o_proj`", "residual, norm", "gate, up", "SiLU", "`down_proj`", "logits"
ROLES = (EMBED, NORM, QKV, ROTATE, APPEND, ATTEND, O_PROJ, ADD, GATE_UP, SILU, DOWN, LOGITS)
OURS = (EMBED, QKV, ROTATE, APPEND, ATTEND, O_PROJ, GATE_UP, DOWN, LOGITS)
"""Our kernels in the order of their first launch. Norms, residuals and SiLU are inside the matmuls."""

THEIRS = (NORM, QKV, O_PROJ, ADD, GATE_UP, SILU, DOWN, LOGITS)
"""Theirs in ``decode``, in the same order."""

CACHE = {ROTATE: "fused_rope", APPEND: "tir_kv_cache_transpose_append", ATTEND: "batch_decode_paged_kv"}
"""What MLC's runtime launches in each layer of its KV cache."""


@dataclass(frozen=True)
class Kernel:
    """A kernel in a decoded token.

    Attributes:
        launches: Of the token.
        read: Bytes that a launch reads from global memory, each once.
        weights: Weights that a thread multiplies; 0 unless it is a matmul.
        turns: Of the loop over them in the source.
    """

    source: str
    launches: int
    read: int
    weights: int = 0
    turns: int = 1

    def instructions(self, code: mesa.MachineCode) -> float:
        """What a matmul's thread executes for a weight, the longest loop in all its turns and others once."""
        repeated = code.longest_loop * (self.turns - 1 if code.loops else 0)
        return (code.instructions + repeated) / self.weights


def shapes(plan: WidthPlan) -> dict[str, tuple[int, int]]:
    """Features and columns of each matmul."""
    layer, hidden = plan.widest, plan.hidden_size
    heads = layer.num_attention_heads * layer.v_head_dim
    return {
        QKV: (hidden, heads + 2 * layer.num_key_value_heads * layer.v_head_dim),
        O_PROJ: (heads, hidden),
        GATE_UP: (hidden, 2 * layer.intermediate_size),
        DOWN: (layer.intermediate_size, hidden),
        LOGITS: (hidden, plan.vocab_size),
    }


def ours(plan: WidthPlan) -> dict[str, Kernel]:
    """Our kernels, from a build without weights; bytes are those of `tests.support.traffic`."""
    config = config_of(plan, context_window_size=2 * CONTEXT, prefill_chunk_size=128, rope_theta=500000.0)
    with (
        tempfile.TemporaryDirectory(prefix="edge-transact-shipped-") as directory,
        opencl.executed_here() as sources,
        traffic.planned() as modules,
    ):
        library = Path(directory) / "phone.so"
        opencl.build_for_here(load(plan, config), get_quantization(QUANTIZATION), library)
    texts = _texts(sources[-1])
    token = traffic.DecodedToken(modules[-1], CONTEXT).run("embed", "decode")
    names = [str(name) for name, *_ in token._known]
    found = {}
    for role, ((name, *arguments), [(read, _)]) in zip(OURS, token._known.items(), strict=True):
        function = modules[-1][str(name)]
        (launch,) = launches(function).kernels
        source = texts[f"{name}_kernel"]
        kernel = Kernel(source, token.kernels[str(name)].launches // names.count(str(name)), read)
        if role in shapes(plan):
            sizes = argument_sizes(function, arguments)
            weights = math.prod(shapes(plan)[role]) // math.prod(value(n, sizes) for n in launch.extents.values())
            # A word holds 8 weights.
            words = source[source.index("__kernel") :].count("w4_dot_half(")
            kernel = replace(kernel, weights=weights, turns=weights // (8 * words))
        found[role] = kernel
    return found


def theirs(
    texts: dict[str, str], decoded: dict[str, int], embedding: str, plan: WidthPlan, cached: dict[str, Kernel]
) -> dict[str, Kernel]:
    """MLC's kernels of a model. Bytes are those of the shapes; for the KV cache, those of our kernels in `cached`."""
    hidden, layer = plan.hidden_size, plan.widest
    read = {NORM: 4 * hidden, ADD: 6 * hidden, SILU: 4 * layer.intermediate_size}
    found = {EMBED: Kernel(texts[embedding], 1, cached[EMBED].read)}
    found |= {role: replace(cached[role], source=texts[name]) for role, name in CACHE.items()}
    for role, (name, count) in zip(THEIRS, decoded.items(), strict=True):
        source = texts[name]
        kernel = Kernel(source, count, read.get(role, 0))
        if role in shapes(plan):
            features, columns = shapes(plan)[role]
            # Threads of a work group are as many as the sums that it adds up; the first index has its columns.
            (threads,) = re.findall(r"__local \w+ red_buf0\[(\d+)\]", source)
            side = re.findall(r"get_group_id\(0\)+ \* (\d+)\)+ \+ \(convert_int\(get_local_id\(0\)", source)[0]
            bounds = [int(bound) for bound in re.findall(r"< (\d+); \+\+", source)]
            weights = features * int(side) // int(threads)
            # The innermost loop multiplies the 8 weights of a word.
            assert weights == 8 * math.prod(bounds), name
            kernel = Kernel(source, count, features * columns * 9 // 16 + 2 * features, weights, max(bounds))
        found[role] = kernel
    return found


def _texts(text: str) -> dict[str, str]:
    """The kernels in a module's text, or in the bytes of a library, by name."""
    return dict(re.findall(r"// Function: (\w+)\n([\t\n -~]*?)(?=// Function: |[^\t\n -~]|\Z)", text))


def bytecode(data: bytes, at: int) -> dict[str, Counter[str]]:
    """How often each function of an executable calls others, in the order of the first calls.

    Format 0.14 of TVM's ``src/runtime/vm/executable.cc``: functions, constants, where instructions begin, instructions.
    A call's words are 1, its result, the callee and arguments.
    """

    def take(kind: str, count: int = 1) -> tuple[int, ...]:
        nonlocal at
        found = struct.unpack_from(f"<{count}{kind}", data, at)
        at += struct.calcsize(f"<{count}{kind}")
        return found

    def text() -> str:
        return bytes(take("B", take("Q")[0])).decode()

    magic, version = take("Q")[0], text()
    if (magic, version) != (0xD225DE2F4214151D, "0.14"):
        raise ValueError(f"an executable of format {version}, not 0.14")
    functions = []
    for _ in range(take("Q")[0]):
        (kind,), name, (first, end, *_) = take("i"), text(), take("q", 4)
        functions.append((kind, name, first, end))
        for _ in range(take("Q")[0]):
            text()
    for _ in range(take("Q")[0]):
        match take("i")[0]:
            case 0:  # A tensor: two words, its device, its dims and dtype, its shape, its bytes.
                take("q", 3)
                (dims,), _ = take("i"), take("i")
                take("q", dims)
                take("B", take("q")[0])
            case 1:
                take("i")
            case 2:
                take("q", take("Q")[0])
            case 3:
                text()
            case _:
                take("q")
    starts, words = take("q", take("Q")[0]), take("q", take("Q")[0])
    calls = {}
    for kind, name, first, end in functions:
        callees = [functions[words[at + 2]][1] for at in starts[first:end] if words[at] == 1]
        calls[name] = Counter(callees if kind == 1 else [])
    return calls


def compare(path: Path) -> str:
    """A table for each model of `MODELS` in a library of MLC's.

    Raises:
        EdgeTransactError: It has none.
    """
    data = path.read_bytes()
    texts = _texts(data.decode("latin-1"))
    tables = [f"{len(texts)} kernels in {path.name}."]
    for found in re.finditer(rb"relax\.Executable.{8}(?=.{8}\x04\0{7}0\.14)", data, re.DOTALL):
        calls = bytecode(data, found.end())
        decoded, embedded = (
            {f"{name}_kernel": n for name, n in calls[function].items() if f"{name}_kernel" in texts}
            for function in ("decode", "embed")
        )
        # Kernels' names begin with the library's, which ends with a hash.
        library = re.match(r"\w+?_[0-9a-f]{31,32}_", next(iter(decoded)))
        # A norm after each attention and each MLP.
        model = MODELS.get(max(decoded.values()) // 2)
        if library is None or model is None or not library[0].startswith("llama_"):
            continue
        name, plan = model
        texts |= {kernel: texts[f"{library[0]}{kernel}_kernel"] for kernel in CACHE.values()}
        own, (embedding,) = ours(plan), embedded
        sides = {"MLC": theirs(texts, decoded, embedding, plan, own), "ours": own}
        tables.append(f"{name}, `{QUANTIZATION}`, Mesa {mesa.version()}:\n\n{table(sides, plan)}")
    if not tables[1:]:
        models = ", ".join(name for name, _ in MODELS.values())
        raise EdgeTransactError(
            f"{path} has no kernels of {models}", fix="Name libtvm4j_runtime_packed.so of an app with MLC-LLM."
        )
    return "\n\n".join(tables)


def table(sides: dict[str, dict[str, Kernel]], plan: WidthPlan) -> str:
    """Each kernel of both sides, and the sums of a token."""
    sources = {f"{side} {role}": kernel.source for side, kernels in sides.items() for role, kernel in kernels.items()}
    codes = {gpu: mesa.compile_kernels(gpu, sources) for gpu in mesa.GPUS}
    header = ["kernel", "launches", "read, MB", "local bytes"]
    for gpu in ("Adreno", "Mali"):
        header += [f"{gpu}: instructions (loop)", "a weight", "registers", "threads", "spills"]
    rows = []
    totals = {side: [0.0] * (2 + len(codes)) for side in sides}
    for role in ROLES:
        for side, kernels in sides.items():
            if (kernel := kernels.get(role)) is None:
                continue
            sums = totals[side]
            sums[0] += kernel.launches
            sums[1] += kernel.launches * kernel.read / 1e6
            row = [f"{role}, {side}", str(kernel.launches), f"{kernel.launches * kernel.read / 1e6:,.2f}"]
            row.append(f"{local_bytes(kernel.source):,}")
            for i, compiled in enumerate(codes.values()):
                code, each = compiled[f"{side} {role}"], ""
                if kernel.weights:
                    each = f"{kernel.instructions(code):.1f}"
                    weights = kernel.launches * math.prod(shapes(plan)[role])
                    sums[2 + i] += weights * kernel.instructions(code) / 1e9
                loop = f" ({code.longest_loop:,})" if code.loops else ""
                row += [f"{code.instructions:,}{loop}", each, str(code.registers), code.threads, str(code.spills)]
            rows.append(row)
    for side, (count, read, *billions) in totals.items():
        row = [f"**a token, {side}**", f"{count:,.0f}", f"{read:,.1f}", ""]
        for total in billions:
            row += [f"matmuls: {total:.2f} x 10^9", "", "", "", ""]
        rows.append(row)
    return page.table(header, rows)


def local_bytes(source: str) -> int:
    """Local memory of a work group, by its declarations."""
    sizes = {"half": 2, "float": 4}
    found = re.findall(r"__local (?:__attribute__\S+ )?(\w+?)(\d*) \w+\[(\d+)\];", source)
    return sum(sizes[kind] * int(lanes or 1) * int(count) for kind, lanes, count in found)
