"""Runs a library on this machine: load it with its weights, prefill, decode, generate.

Functions are called in the order of MLC's engine: add a sequence, then call ``begin_forward``, the model's function and
``end_forward`` for each chunk of a prompt and each decoded token.

Only TVM's runtime is loaded, through tvm_ffi. ``import tvm`` would load the compiler too, which takes seconds.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_transact.costs import PAGE_SIZE
from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.opening import Opening
from edge_transact.runtime.threads import Threads
from edge_transact.system.cpu import missing

if TYPE_CHECKING:
    import tvm_ffi

SEQUENCE = 0
"""The id of the only sequence."""

_CPU, _POOLED = 1, 2
"""DLPack's device type, and the virtual machine's allocator."""


class HostModel:
    """A loaded library with its weights and an empty KV cache.

    Args:
        library: The ``.so``.
        weights: A directory with ``tensor-cache.json`` and its shards.
        verified: The shards were compared with a manifest.
        threads: How many threads compute; by default one for each big core, see `default_threads`.

    Raises:
        EdgeTransactError: The library can't be loaded, or it was built for other weights.
    """

    def __init__(self, library: Path, weights: Path, *, verified: bool = False, threads: int | None = None) -> None:
        ffi = import_tvm_ffi()
        # As tvm itself loads it, so that `import tvm` finds it loaded.
        ffi.libinfo.load_lib_ctypes("apache-tvm", "tvm_runtime", "RTLD_GLOBAL")
        try:
            self._vm = ffi.load_module(str(library))["vm_load_executable"]()
        except (RuntimeError, OSError) as error:
            raise EdgeTransactError(
                f"{library} can't be loaded: {str(error).splitlines()[-1]}", fix="Build it again on this machine."
            ) from error
        self._vm["vm_initialization"](_CPU, 0, _POOLED)
        self.metadata: dict[str, Any] = json.loads(self._vm["_metadata"]())
        if cpu := self.metadata.get("cpu"):  # a library that MLC compiled has no such entry
            require_cpu(library, cpu)
        self._ffi, self._threads = ffi, Threads(threads)
        self._parameters = _load_parameters(weights, self.metadata["params"], verified)
        self.context_window_size: int = self.metadata["context_window_size"]
        self.prefill_chunk_size: int = self.metadata["prefill_chunk_size"]
        self.max_batch_size: int = self.metadata["max_batch_size"]
        self.shape = ffi.Shape
        self._add, self._remove, self._pop, self._begin, self._end = (
            ffi.get_global_func(f"vm.builtin.kv_state_{name}")
            for name in ("add_sequence", "remove_sequence", "popn", "begin_forward", "end_forward")
        )
        self._cache = self.make_cache(1, self.context_window_size)
        self.length = 0
        self._functions: dict[str, Callable[..., Any]] = {}
        # The arguments for one decoded token are made once: making them takes microseconds, as its kernels do.
        self._allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._cpu = ffi.device("cpu")
        self._one_token = self._tensor([0])
        self._one_token_id = np.from_dlpack(self._one_token)
        self._sequence = self.shape([SEQUENCE])
        # The virtual machine's own functions: with tvm's Python API, a token of a small model takes 3 % longer.
        self._reshape, self._item = (ffi.get_global_func(f"vm.builtin.{name}") for name in ("reshape", "tuple_getitem"))
        self._shapes: dict[tuple[int, int], tuple[tvm_ffi.Shape, tvm_ffi.Shape]] = {}

    @classmethod
    def load(cls, dist: Path, *, threads: int | None = None) -> HostModel:
        """The host library of a DIST.

        Args:
            dist: The DIST.
            threads: The constructor's.

        Raises:
            EdgeTransactError: It is not a DIST, has no host library, or a file of it is missing or changed.
        """
        with Opening(dist) as opening:
            import_tvm_ffi()
        return cls(opening.library, dist, verified=True, threads=threads)

    @property
    def threads(self) -> int:
        """How many threads compute."""
        return self._threads.count

    def instrument(self, called: Callable[..., None]) -> None:
        """Observe every call of a kernel or built-in function.

        Args:
            called: Called before and after each call as ``called(function, name, before, result, *arguments)``; see
                ``tvm.relax.VirtualMachine.set_instrument``.
        """
        self._vm["set_instrument"](called)

    def reset(self) -> None:
        """Forget all tokens."""
        self._remove(self._cache, SEQUENCE)
        self._add(self._cache, SEQUENCE)
        self.length = 0

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        if length < self.length:
            self.pop(self._cache, SEQUENCE, self.length - length)
            self.length = length

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Append tokens, in chunks.

        Args:
            ids: At least one token id.

        Returns:
            Logits after the last one, float32 ``[vocab_size]``.

        Raises:
            EdgeTransactError: The tokens don't fit into the context window.
        """
        require_room(self.length + len(ids), self.context_window_size)
        for chunk in self.chunks(ids):
            logits = self._forward("prefill", chunk)
        return logits.reshape(-1)

    def decode(self, token: int) -> np.ndarray:
        """Append one token and return the logits after it, float32 ``[vocab_size]``.

        Raises:
            EdgeTransactError: The context window is full.
        """
        require_room(self.length + 1, self.context_window_size)
        return self._forward("decode", [token]).reshape(-1)

    def window_logits(self, ids: Sequence[int]) -> np.ndarray:
        """Forget all tokens, append these, and return the logits after each, float32 ``[n, vocab_size]``."""
        require_room(len(ids), self.context_window_size)
        self.reset()
        return np.concatenate([self._forward("batch_verify", chunk)[0] for chunk in self.chunks(ids)])

    def generate(self, ids: Sequence[int], max_tokens: int) -> Iterator[int]:
        """Append a prompt, then the likeliest tokens until there are `max_tokens` or the context window is full.

        Args:
            ids: The prompt.
            max_tokens: The most tokens to generate.

        Yields:
            Token ids; the caller stops at an end-of-text token.
        """
        logits = self.prefill(ids)
        for count in range(max_tokens):
            token = int(logits.argmax())
            yield token
            if count + 1 == max_tokens or self.length >= self.context_window_size:
                return
            logits = self.decode(token)

    def make_cache(self, sequences: int, tokens: int) -> Any:
        """A KV cache of its own for `call`.

        Args:
            sequences: How many sequences it is for; their ids are 0, 1, ... They are empty.
            tokens: The most tokens of each.
        """
        # A page holds tokens of one sequence alone.
        pages = sequences * -(-tokens // PAGE_SIZE)
        sizes = (sequences, pages * PAGE_SIZE, self.prefill_chunk_size, PAGE_SIZE, 0)
        cache = self._vm["create_tir_paged_kv_cache"](*(self.shape([size]) for size in sizes))
        for sequence in range(sequences):
            self._add(cache, sequence)
        return cache

    def pop(self, cache: Any, sequence: int, tokens: int) -> None:
        """Forget the last tokens of a sequence of a cache, so many of them."""
        self._pop(cache, sequence, tokens)

    def chunks(self, ids: Sequence[int]) -> list[Sequence[int]]:
        """Tokens in the parts that one call takes."""
        return [ids[i : i + self.prefill_chunk_size] for i in range(0, len(ids), self.prefill_chunk_size)]

    def call(self, function: str, ids: Sequence[int], cache: Any, sequences: tvm_ffi.Shape) -> np.ndarray:
        """Append tokens to sequences, as many to each, and return the function's logits, a float32 view.

        Args:
            function: A function of the library, such as ``batch_decode``.
            ids: Token ids, the first sequence's first.
            cache: The KV cache of the sequences.
            sequences: Their ids.
        """
        embeddings = self._function("embed")(self._ids(ids), self._parameters)
        counts, shape = self._shapes_of(len(sequences), len(ids) // len(sequences), embeddings)
        self._begin(cache, sequences, counts)
        result = self._function(function)(self._reshape(embeddings, shape), cache, self._parameters)
        self._end(cache)
        return np.from_dlpack(self._item(result, 0))

    def _ids(self, ids: Sequence[int]) -> tvm_ffi.Tensor:
        if len(ids) > 1:
            return self._tensor(ids)
        self._one_token_id[0] = ids[0]
        return self._one_token

    def _tensor(self, ids: Sequence[int]) -> tvm_ffi.Tensor:
        tensor = self._allocate(self.shape([len(ids)]), "int32", self._cpu, None)
        np.from_dlpack(tensor)[:] = ids
        return tensor

    def _function(self, name: str) -> Callable[..., Any]:
        if name not in self._functions:
            if not self._functions:
                self._threads.start(self._ffi)
            self._functions[name] = self._vm[name]
        return self._functions[name]

    def _forward(self, function: str, ids: Sequence[int]) -> np.ndarray:
        logits = self.call(function, ids, self._cache, self._sequence)
        self.length += len(ids)
        return logits

    def _shapes_of(self, sequences: int, count: int, embeddings: tvm_ffi.Tensor) -> tuple[tvm_ffi.Shape, tvm_ffi.Shape]:
        """``[count] * sequences``, and the shape of embeddings ``[sequences, count, hidden_size]``."""
        key = sequences, count
        if key not in self._shapes:
            self._shapes[key] = (
                self.shape([count] * sequences),
                self.shape([sequences, count, embeddings.shape[-1]]),
            )
        return self._shapes[key]


def require_room(tokens: int, context_window_size: int) -> None:
    """Raises an `EdgeTransactError` unless so many tokens of a sequence fit into its context window."""
    if tokens > context_window_size:
        raise EdgeTransactError(
            f"{tokens} tokens don't fit into a context window of {context_window_size}",
            fix="Shorten the text, or build with a larger --context.",
        )


def import_tvm_ffi() -> Any:
    """tvm_ffi without torch, unless that is imported already: tvm_ffi imports it if it is installed, for seconds."""
    if "torch" in sys.modules:
        return importlib.import_module("tvm_ffi")
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("tvm_ffi")
    finally:
        del sys.modules["torch"]


_ALIGNMENT = 64
"""Alignment of parameters in memory, in bytes, on which kernels may rely."""


def _load_parameters(weights: Path, expected: list[dict[str, Any]], verified: bool) -> tvm_ffi.Array:
    """The parameters as a TVM array, which calls take without a conversion.

    Those that lie in the shards as kernels read them are mapped. The others, such as fp32 scales, which shards have as
    bf16, are read into one block of memory.
    """
    import tvm_ffi

    from edge_transact.weights.shards import ShardReader

    reader = ShardReader(weights, verified=verified)
    arrays: list[np.ndarray | None] = []
    for parameter in expected:
        name, dtype, shape = parameter["name"], np.dtype(parameter["dtype"]), parameter["shape"]
        if list(reader.shape(name)) != shape or reader.dtype(name) != dtype:
            raise EdgeTransactError(
                f"{weights}: {name} is {reader.dtype(name)} {list(reader.shape(name))}, "
                f"the library wants {dtype} {shape}",
                fix="Library and weights are of different builds: build again.",
            )
        arrays.append(reader.mapped(name, _ALIGNMENT))
    room = [0 if array is not None else _padded(_nbytes(p)) for p, array in zip(expected, arrays, strict=True)]
    block = np.empty(sum(room) + _ALIGNMENT, np.uint8)
    offset = -block.ctypes.data % _ALIGNMENT
    parameters = []
    for parameter, array, nbytes in zip(expected, arrays, room, strict=True):
        if array is None:
            place = block[offset : offset + _nbytes(parameter)]
            array = place.view(np.dtype(parameter["dtype"])).reshape(parameter["shape"])
            reader.read(parameter["name"], array)
            offset += nbytes
        parameters.append(tvm_ffi.from_dlpack(array, require_alignment=_ALIGNMENT, require_contiguous=True))
    return tvm_ffi.convert(parameters)


def _nbytes(parameter: Mapping[str, Any]) -> int:
    return math.prod(parameter["shape"]) * np.dtype(parameter["dtype"]).itemsize


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def require_cpu(library: Path, cpu: Mapping[str, Any]) -> None:
    """Raises an `EdgeTransactError` unless this machine's CPU has the features that a library needs.

    Args:
        library: The library's path, for the message.
        cpu: ``name`` and LLVM's ``features``, from the library's metadata.
    """
    lacking = missing(cpu["features"])
    if lacking:
        raise EdgeTransactError(
            f"{library} was built for {cpu['name']}, and this machine's CPU has no {', '.join(lacking)}",
            fix="Build it again on this machine, with --target host and without --cpu.",
        )
