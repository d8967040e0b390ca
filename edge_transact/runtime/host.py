"""Runs a library on this machine: load it with its weights, prefill, decode, generate.

Functions are called in the order of MLC's engine. Only TVM's runtime is loaded, through tvm_ffi: ``import tvm`` also
loads the compiler, which takes seconds.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_transact.costs import PAGE_SIZE
from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.opening import Opening
from edge_transact.runtime.parameters import load_parameters
from edge_transact.runtime.threads import Threads
from edge_transact.system.cpu import missing

if TYPE_CHECKING:
    import tvm_ffi

logger = logging.getLogger(__name__)

SEQUENCE = 0
"""The id of the model's own sequence."""

_CPU, _POOLED = 1, 2
"""DLPack's device type, and the virtual machine's allocator."""


class HostModel:
    """A library (``.so``) with its weights (a directory of shards) and an empty KV cache for one sequence.

    `verified` shards were checked against a manifest. `threads` are `default_threads` by default.

    Raises:
        EdgeTransactError: The library can't be loaded, or it was built for other weights.
    """

    def __init__(self, library: Path, weights: Path, *, verified: bool = False, threads: int | None = None) -> None:
        ffi = import_tvm_ffi()
        # As tvm itself loads it, so that `import tvm` finds it loaded.
        ffi.libinfo.load_lib_ctypes("apache-tvm", "tvm_runtime", "RTLD_GLOBAL")
        try:
            self._vm = ffi.load_module(str(library), keep_module_alive=False)["vm_load_executable"]()
        except (RuntimeError, OSError) as error:
            raise EdgeTransactError(
                f"{library} can't be loaded: {str(error).splitlines()[-1]}", fix="Build it again on this machine."
            ) from error
        self._vm["vm_initialization"](_CPU, 0, _POOLED)
        self.metadata: dict[str, Any] = json.loads(self._vm["_metadata"]())
        if cpu := self.metadata.get("cpu"):  # a library that MLC compiled has no such entry
            require_cpu(library, cpu)
        self._ffi, self._threads = ffi, Threads(threads)
        parts = cpu.get("threads", self.threads) if cpu else self.threads
        if self.threads > parts:
            logger.warning(
                f"{library.name} was built to decode on {parts} threads, so {self.threads} don't decode faster. "
                "Build it again on this machine."
            )
        self.vocab_size: int = self.metadata["params"][0]["shape"][0]  # the embedding's
        self._parameters = load_parameters(weights, self.metadata["params"], verified)
        self.context_window_size: int = self.metadata["context_window_size"]
        self.prefill_chunk_size: int = self.metadata["prefill_chunk_size"]
        self.max_batch_size: int = self.metadata["max_batch_size"]
        self._shape = ffi.Shape
        self._add, self._remove, self._pop, self._begin, self._end = (
            ffi.get_global_func(f"vm.builtin.kv_state_{name}")
            for name in ("add_sequence", "remove_sequence", "popn", "begin_forward", "end_forward")
        )
        self._cache = self._make_cache(1, self.context_window_size)
        self.length = 0
        self._function = functools.cache(self._vm.__getitem__)
        # Made once for all decoded tokens: making them takes microseconds, as kernels do.
        self._allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._cpu = ffi.device("cpu")
        self._one_token = self._tensor([0])
        self._one_token_id = np.from_dlpack(self._one_token)
        self._sequence = self._shape([SEQUENCE])
        # The virtual machine's own functions are faster than tvm's Python API.
        self._reshape, self._item = (ffi.get_global_func(f"vm.builtin.{name}") for name in ("reshape", "tuple_getitem"))
        self._shapes: dict[tuple[int, int], tuple[tvm_ffi.Shape, tvm_ffi.Shape]] = {}

    @classmethod
    def load(cls, dist: Path, *, threads: int | None = None) -> HostModel:
        """The host library of a DIST.

        Raises:
            EdgeTransactError: It is not a DIST, has no host library, or a file of it is missing or changed.
        """
        with Opening(dist) as opening:
            import_tvm_ffi()
        return cls(opening.library, dist, verified=True, threads=threads)

    @property
    def threads(self) -> int:
        """The number of compute threads."""
        return self._threads.count

    def reset(self) -> None:
        """Forget all tokens."""
        self._remove(self._cache, SEQUENCE)
        self._add(self._cache, SEQUENCE)
        self.length = 0

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        if length < self.length:
            self._pop(self._cache, SEQUENCE, self.length - length)
            self.length = length

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Append at least one token, in chunks, and return the logits after the last, float32 ``[vocab_size]``.

        Raises:
            EdgeTransactError: The tokens don't fit into the context window.
        """
        _require_room(self.length + len(ids), self.context_window_size)
        for chunk in self._chunks(ids):
            logits = self._forward("prefill", chunk)
        return logits.reshape(-1)

    def decode(self, token: int) -> np.ndarray:
        """Append one token and return the logits after it, float32 ``[vocab_size]``.

        Raises:
            EdgeTransactError: The context window is full.
        """
        _require_room(self.length + 1, self.context_window_size)
        return self._forward("decode", [token]).reshape(-1)

    def window_logits(self, ids: Sequence[int]) -> np.ndarray:
        """Forget all tokens, append these, and return the logits after each, float32 ``[n, vocab_size]``."""
        _require_room(len(ids), self.context_window_size)
        self.reset()
        logits = np.empty((0, 0), np.float32)
        for chunk in self._chunks(ids):
            start = self.length
            of_chunk = self._forward("batch_verify", chunk)[0]
            if not start:
                logits = np.empty((len(ids), of_chunk.shape[1]), np.float32)
            # Copied now, so that the next chunk's logits reuse the memory.
            logits[start : self.length] = of_chunk
            del of_chunk
        return logits

    def generate(self, ids: Sequence[int], max_tokens: int) -> Iterator[int]:
        """Append a prompt, and yield the likeliest tokens up to `max_tokens` or the end of the context window."""
        logits = self.prefill(ids)
        for count in range(max_tokens):
            token = int(logits.argmax())
            yield token
            if count + 1 == max_tokens or self.length >= self.context_window_size:
                return
            logits = self.decode(token)

    def _make_cache(self, sequences: int, tokens: int) -> Any:
        """A KV cache with empty sequences 0, 1, ... of at most so many tokens each."""
        # Sequences don't share pages.
        pages = sequences * -(-tokens // PAGE_SIZE)
        sizes = (sequences, pages * PAGE_SIZE, self.prefill_chunk_size, PAGE_SIZE, 0)
        cache = self._vm["create_tir_paged_kv_cache"](*(self._shape([size]) for size in sizes))
        for sequence in range(sequences):
            self._add(cache, sequence)
        return cache

    def _chunks(self, ids: Sequence[int]) -> list[Sequence[int]]:
        return [ids[i : i + self.prefill_chunk_size] for i in range(0, len(ids), self.prefill_chunk_size)]

    def _call(self, function: str, ids: Sequence[int], cache: Any, sequences: tvm_ffi.Shape) -> np.ndarray:
        """Append as many tokens to each sequence, the first sequence's first, and return logits, a float32 view."""
        self._threads.start(self._ffi)
        if function == "decode" and self._decode_token is not None:
            return np.from_dlpack(self._decode_token(self._ids(ids), cache, sequences))
        embeddings = self._function("embed")(self._ids(ids), self._parameters)
        counts, shape = self._shapes_of(len(sequences), len(ids) // len(sequences), embeddings)
        self._begin(cache, sequences, counts)
        result = self._function(function)(self._reshape(embeddings, shape), cache, self._parameters)
        self._end(cache)
        return np.from_dlpack(self._item(result, 0))

    def _ids(self, ids: Sequence[int]) -> tvm_ffi.Tensor:
        # The library reads rows of the embedding by them, whatever they are.
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise EdgeTransactError(
                f"the tokenizer makes token {wrong}, the model's vocabulary has {self.vocab_size}",
                fix="Use the tokenizer that belongs to the model: copy the DIST again, or build it again.",
            )
        if len(ids) > 1:
            return self._tensor(ids)
        self._one_token_id[0] = ids[0]
        return self._one_token

    def _tensor(self, ids: Sequence[int]) -> tvm_ffi.Tensor:
        tensor = self._allocate(self._shape([len(ids)]), "int32", self._cpu, None)
        np.from_dlpack(tensor)[:] = ids
        return tensor

    @functools.cached_property
    def _decode_token(self) -> Callable[..., Any] | None:
        """The library's ``decode_token`` with its weights; `None` in libraries that MLC compiled."""
        name = "decode_token"
        if not self._vm.implements_function(name):
            return None
        self._vm["save_function"](name, name, True, *self._parameters)
        return self._vm[name]

    def _forward(self, function: str, ids: Sequence[int]) -> np.ndarray:
        logits = self._call(function, ids, self._cache, self._sequence)
        self.length += len(ids)
        return logits

    def _shapes_of(self, sequences: int, count: int, embeddings: tvm_ffi.Tensor) -> tuple[tvm_ffi.Shape, tvm_ffi.Shape]:
        """``[count] * sequences``, and the shape of embeddings ``[sequences, count, hidden_size]``."""
        key = sequences, count
        if key not in self._shapes:
            self._shapes[key] = (
                self._shape([count] * sequences),
                self._shape([sequences, count, embeddings.shape[-1]]),
            )
        return self._shapes[key]


class Batch:
    """Some sequences of a host library, 0, 1, ..., of so many tokens at most, beside the model's own.

    Logits are those of `HostModel.decode` up to rounding, since sums with NK weights are in another order.

    Raises:
        EdgeTransactError: The library was built for fewer sequences.
    """

    def __init__(self, model: HostModel, size: int, tokens: int) -> None:
        if size > model.max_batch_size:
            raise EdgeTransactError(
                f"{size} sequences don't fit into a library that was built with --max-batch {model.max_batch_size}",
                fix=f"Build it again with `--max-batch {size}`.",
            )
        self.lengths = [0] * size
        self._model = model
        self._tokens = min(tokens, model.context_window_size)
        self._cache = model._make_cache(size, self._tokens)

    def is_full(self, sequence: int) -> bool:
        """Whether a sequence has no room for another token."""
        return self.lengths[sequence] >= self._tokens

    def rewind(self, sequence: int, length: int) -> None:
        """Forget all tokens of a sequence but the first `length`."""
        if length < self.lengths[sequence]:
            self._model._pop(self._cache, sequence, self.lengths[sequence] - length)
            self.lengths[sequence] = length

    def prefill(self, sequence: int, ids: Sequence[int]) -> np.ndarray:
        """As `HostModel.prefill`, for a sequence."""
        _require_room(self.lengths[sequence] + len(ids), self._tokens)
        for chunk in self._model._chunks(ids):
            logits = self._model._call("prefill", chunk, self._cache, self._model._shape([sequence]))
        self.lengths[sequence] += len(ids)
        return logits.reshape(-1)

    def decode(self, tokens: Mapping[int, int]) -> np.ndarray:
        """Append a token to each of some sequences, given by sequence.

        Returns the logits after each, in that order, float32 ``[len(tokens), vocab_size]``.

        Raises:
            EdgeTransactError: One of the sequences is full.
        """
        _require_room(1 + max(self.lengths[sequence] for sequence in tokens), self._tokens)
        function = "batch_decode" if len(tokens) > 1 else "decode"
        logits = self._model._call(function, list(tokens.values()), self._cache, self._model._shape(tokens))
        for sequence in tokens:
            self.lengths[sequence] += 1
        return logits.reshape(len(tokens), -1)


def _require_room(tokens: int, context_window_size: int) -> None:
    if tokens > context_window_size:
        raise EdgeTransactError(
            f"{tokens} tokens don't fit into a context window of {context_window_size}",
            fix="Shorten the text, or build with a larger --context.",
        )


def import_tvm_ffi() -> Any:
    """Import tvm_ffi, which otherwise imports torch if it is installed, without torch, which takes seconds."""
    if "torch" in sys.modules:
        return importlib.import_module("tvm_ffi")
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("tvm_ffi")
    finally:
        del sys.modules["torch"]


def require_cpu(library: Path, cpu: Mapping[str, Any]) -> None:
    """Raise an `EdgeTransactError` unless this machine has the ``features`` of the ``cpu`` in a library's metadata."""
    lacking = missing(cpu["features"])
    if lacking:
        raise EdgeTransactError(
            f"{library} was built for {cpu['name']}, and this machine's CPU has no {', '.join(lacking)}",
            fix="Build it again on this machine, with --target host and without --cpu.",
        )
