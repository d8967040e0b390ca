"""The functions that MLC's engine looks up, called as it calls them; against torch and numpy.

On the host, and from a phone's library, whose kernels an OpenCL device of this computer executes.
"""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from edge_transact import costs
from edge_transact.compiler import pipeline
from edge_transact.compiler.library import build_library
from edge_transact.compiler.targets import get_target
from edge_transact.mlc.builtins import BYTECODE, CALLS, TAGS
from edge_transact.quantization import get_quantization
from edge_transact.runtime.host import PAGE_SIZE, HostModel
from tests.support.bytecode import bytecode, called, tags
from tests.support.odd_models import FUNCTIONS, Source
from tests.support.opencl import build_for_here, counted, executed_here
from tests.support.traffic import DecodedToken, planned

pytestmark = pytest.mark.slow

CASES = {
    "host": ("source", "q4f32_1", 1e-4),
    "host, cut heads": ("own_dims", "q0f32", 1e-4),
    "host, normed heads": ("normed", "q0f32", 1e-4),
    "host, normed and cut heads": ("normed_own_dims", "q0f32", 1e-4),
    "host, a layer without RoPE": ("nope", "q0f32", 1e-4),
    "host, partial RoPE and cut heads": ("partial_own_dims", "q0f32", 1e-4),
    "host, attention and MLPs that are gone": ("gone", "q4f32_1", 1e-4),
    "host, gone, normed heads": ("gone_normed", "q0f32", 1e-4),
    "phone, attention and MLPs that are gone": ("gone", "q4f16_1", 1e-2),
    "phone, gone, cut heads": ("gone_own_dims", "q4f32_1", 1e-5),
    "phone, a layer without RoPE": ("nope", "q4f16_1", 1e-2),
    "phone, partial RoPE and cut heads": ("partial_own_dims", "q4f32_1", 1e-5),
    "phone, uniform": ("uniform", "q4f16_1", 1e-2),
    "phone": ("source", "q4f32_1", 1e-5),
    "phone, cut heads": ("own_dims", "q4f16_0", 1e-2),
    "phone, normed heads": ("normed", "q4f16_1", 1e-2),
    "phone, normed and cut heads": ("normed_own_dims", "q4f16_0", 1e-2),
    "phone, cut heads in 16 bits": ("own_dims", "q0f16", 1e-2),
}
"""Device, plan, quantization, and how far logits may be from torch's, relative to the largest.

Plans have biases, but for those with normed heads that aren't cut, with a layer without RoPE or with partial RoPE, and
with heads that are cut beside attention that is gone. In a
uniform one, whose biases are Qwen2's, all layers are alike, otherwise all differ; the cache rotates whole heads, and
the definition those that lost dims. `building/test_families.py` compares 4 bits on the host with torch, by family.
"""
HOST = [case for case in CASES if case.startswith("host")]
PHONE = [case for case in CASES if case not in HOST]
LOWERED = ["host", "host, attention and MLPs that are gone", "host, normed and cut heads"]
"""Whose lowered module is kept."""
COMBINED = {"host, cut heads", "host, normed heads", "phone, cut heads", "phone, normed heads"}
COMBINED |= {"host, gone, normed heads", "phone, attention and MLPs that are gone", "host, a layer without RoPE"}
COMBINED |= {"phone, a layer without RoPE", "phone, partial RoPE and cut heads", "phone, cut heads in 16 bits"}
COMBINED |= {"phone, uniform", "host, partial RoPE and cut heads"}
"""What other cases have together, or have on the other device; `soak` has each alone."""


@dataclass(frozen=True)
class Library:
    """A library, what its weights are in torch, and for a phone, the module that it was built from."""

    case: str
    source: Source
    model: HostModel
    reference: torch.nn.Module
    planned: Any = None

    @property
    def quantization(self) -> str:
        return CASES[self.case][1]

    def assert_close(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        assert np.abs(ours - theirs).max() <= CASES[self.case][2] * np.abs(theirs).max()

    def assert_continues(self, logits: np.ndarray, ids: list[int]) -> None:
        """The logits are those after `ids`."""
        with torch.inference_mode():
            self.assert_close(logits, self.reference(torch.tensor([ids])).logits[0, -1].float().numpy())


@contextmanager
def lowered_into(path: Path) -> Iterator[None]:
    """Writes the lowered module of a library that is built inside this context."""
    phases = pipeline.phases

    def write(module):
        path.write_text(module.script())
        return module

    def noted(*arguments):
        found = phases(*arguments)
        return found | {"lowered": [*found["lowered"], write]}

    with mock.patch.object(pipeline, "phases", noted):
        yield


def host_model(source: Source, name: str, case: str = "") -> HostModel:
    """The host's library of a plan in a quantization."""
    weights, quantization = source.weights(name)
    path = source.directory / "host.so"
    if not path.exists():
        with lowered_into(source.directory / "lowered.py") if case in LOWERED else nullcontext():
            build_library(source.definition, quantization, get_target("host"), "edge_llama_odd", path)
    return HostModel(path, weights)


@pytest.fixture(scope="module")
def library(request) -> Iterator[Library]:
    case = request.param
    plan, name, _ = CASES[case]
    source: Source = request.getfixturevalue(plan)
    weights, quantization = source.weights(name)
    if case in HOST:
        yield Library(case, source, host_model(source, name, case), source.reference(name))
        return
    path = source.directory / f"phone-{name}.so"
    with executed_here(), planned() as modules:
        build_for_here(source.definition, quantization, path)
        yield Library(case, source, HostModel(path, weights), source.reference(name), modules[-1])


@pytest.fixture(scope="module")
def model(library) -> HostModel:
    return library.model


def on(*cases: str):
    """A test of the libraries of these cases."""

    def marks(case: str) -> list[pytest.MarkDecorator]:
        return [pytest.mark.opencl] * (case in PHONE) + [pytest.mark.soak] * (case in COMBINED)

    parameters = [pytest.param(case, marks=marks(case)) for case in cases]
    return pytest.mark.parametrize("library", parameters, indirect=True, scope="module")


def function(model: HostModel, name: str):
    """A function of the library or of the kernels in it, as MLC's engine looks it up."""
    return model._vm.get_function(name, query_imports=True)


class Engine:
    """Several sequences in one cache, as MLC's engine drives them."""

    def __init__(self, model: HostModel, capacity: int = 256) -> None:
        import tvm

        self.tvm, self.model = tvm, model
        sizes = [4, capacity, model.prefill_chunk_size, PAGE_SIZE, 0]
        shapes = [tvm.runtime.ShapeTuple([size]) for size in sizes]
        self.cache = model._vm["create_tir_paged_kv_cache"](*shapes)

    def kv(self, name: str, *arguments) -> None:
        self.tvm.get_global_func(f"vm.builtin.kv_state_{name}")(self.cache, *arguments)

    def tensor(self, values):
        return self.tvm.runtime.tensor(np.ascontiguousarray(values))

    def forward(self, name: str, sequences: dict[int, list[int]]) -> np.ndarray:
        """One call for all sequences: the logits after the last token of each."""
        shape = self.tvm.runtime.ShapeTuple
        tokens = np.concatenate([np.array(ids, "int32") for ids in sequences.values()])
        lengths = [len(ids) for ids in sequences.values()]
        embeddings = self.model._vm["embed"](self.tensor(tokens), self.model._parameters)
        batched = (1, len(tokens)) if name == "batch_prefill" else (len(tokens), 1)
        embeddings = embeddings._create_view((*batched, embeddings.shape[-1]))
        positions = [self.tensor(np.cumsum(lengths).astype("int32") - 1)] if name == "batch_prefill" else []
        self.kv("begin_forward", shape(list(sequences)), shape(lengths))
        logits, _ = self.model._vm[name](embeddings, *positions, self.cache, self.model._parameters)
        self.kv("end_forward")
        return logits.numpy().reshape(len(sequences), -1)


@on(*CASES)
def test_every_function_is_there(model):
    for name in FUNCTIONS:
        assert function(model, name) is not None


def lowered_decode(library: Library) -> str:
    text = (library.source.directory / "lowered.py").read_text()
    return text[text.index("def decode(") :].split("\n    @R.function")[0]


@on(*LOWERED[:2])
def test_a_token_on_a_cpu_takes_a_chain_of_matmuls_between_two_attentions(library):
    """An MLP, or a layer without attention, has no launch of its own."""
    plan, text = library.source.checkpoint.plan, lowered_decode(library)
    assert len(re.findall(r"\.w4_decode\w*\(", text)) == 1 + sum(layer.has_attention for layer in plan.layers)
    assert text.count("attention_with_fused_qkv") == plan.num_virtual_layers


@on(*LOWERED)
def test_weights_are_not_given_up_one_by_one(library):
    """Activations are."""
    given_up = re.findall(r"kill_object\((\w+)\)", lowered_decode(library))
    assert len(given_up) > library.source.checkpoint.plan.num_hidden_layers
    assert not [name for name in given_up if "model_" in name]


@on(*HOST)
def test_what_is_asked_of_the_runtime_is_listed(library):
    import tvm

    path = library.source.directory / "host.so"
    executable = tvm.runtime.load_module(str(path))
    calls = called(executable)
    assert {name for name, count in calls.items() if CALLS.get(name, "none") not in (count, None)} == set()
    assert tags(executable) == TAGS and bytecode(path.read_bytes()) == BYTECODE


@on(*CASES)
def test_metadata_tells_sizes_parameters_and_the_cache(library):
    metadata, plan = library.model.metadata, library.source.checkpoint.plan
    assert metadata["kv_cache"] == {
        "num_hidden_layers": plan.num_virtual_layers,
        "num_attention_heads": plan.q_per_kv * plan.virtual_num_key_value_heads,
        "num_key_value_heads": plan.virtual_num_key_value_heads,
        "head_dim": 16,
    }
    cache = metadata["kv_cache"]
    quantization = get_quantization(library.quantization)
    values = 2 * cache["num_hidden_layers"] * cache["num_key_value_heads"] * cache["head_dim"]
    assert values * quantization.model_dtype_bytes == costs.kv_bytes_per_token(plan, quantization)
    assert (metadata["context_window_size"], metadata["prefill_chunk_size"], metadata["max_batch_size"]) == (64, 16, 4)
    assert metadata["memory_usage"]["prefill"] >= 16 * plan.hidden_size * quantization.model_dtype_bytes
    assert all({"name", "shape", "dtype", "preprocs"} <= set(parameter) for parameter in metadata["params"])


@on(*HOST)
def test_a_token_in_one_call_has_the_logits_of_the_engines_calls(model):
    engine = Engine(model)
    engine.kv("add_sequence", 0)
    model.reset()
    assert model._vm.implements_function("decode_token")
    for token in range(20):  # beyond the first page
        np.testing.assert_array_equal(model.decode(token), engine.forward("decode", {0: [token]})[0])


@on(*CASES)
def test_prefill_in_chunks_and_decode_to_the_last_page(library, model):
    ids = [(7 * i + 3) % 300 for i in range(64)]
    # A whole chunk of the prompt, several, and one of a single token.
    for count in (16, 40, 49):
        model.reset()
        library.assert_continues(model.prefill(ids[:count]), ids[:count])
    for count in range(50, 65):
        logits = model.decode(ids[count - 1])
        if count % 3 == 0 or count == 64:
            library.assert_continues(logits, ids[:count])
    with torch.inference_mode():
        library.assert_close(model.window_logits(ids), library.reference(torch.tensor([ids])).logits[0].float().numpy())


@on("phone")
def test_a_phone_computes_what_the_host_does(library, model):
    """From the same shards."""
    host = host_model(library.source, library.quantization)
    ids = [(11 * i + 2) % 300 for i in range(30)]
    for other in (model, host):
        other.reset()
    library.assert_close(model.prefill(ids), host.prefill(ids))
    for token in (7, 70, 250):
        library.assert_close(model.decode(token), host.decode(token))


@on(*CASES)
def test_a_full_context_is_said_not_overrun(model):
    from edge_transact.errors import EdgeTransactError

    model.reset()
    with pytest.raises(EdgeTransactError, match="65 tokens don't fit into a context window of 64"):
        model.prefill([1] * 65)
    assert len(list(model.generate([1] * 60, 100))) == 5  # the token after a full window is still known
    with pytest.raises(EdgeTransactError, match="don't fit"):
        model.decode(1)


@on(*CASES)
@pytest.mark.parametrize(("capacity", "pages"), [(48, 3), (64, 4 + 10), (80, 5)], ids=["less", "one window", "more"])
def test_a_cache_of_one_window_has_the_pages_that_mlcs_engine_keeps_free(model, capacity, pages):
    engine = Engine(model, capacity)
    available = engine.tvm.get_global_func("vm.builtin.attention_kv_cache_get_num_available_pages")
    assert available(engine.cache) == pages + 1  # TVM's cache has one more than it is asked for


@on(*CASES)
def test_sequences_of_a_batch_do_not_see_each_other(library, model):
    engine = Engine(model)
    texts = {0: [5, 6, 7], 1: [9], 2: [200, 100, 50, 25, 12], 3: [1, 2]}
    for sequence in texts:
        engine.kv("add_sequence", sequence)
    for row, ids in zip(engine.forward("batch_prefill", texts), texts.values(), strict=True):
        library.assert_continues(row, ids)
    for step in range(3):
        step_ids = {sequence: [10 * sequence + step] for sequence in texts}
        rows = engine.forward("batch_decode", step_ids)
        for sequence, row in zip(texts, rows, strict=True):
            texts[sequence] = texts[sequence] + step_ids[sequence]
            library.assert_continues(row, texts[sequence])


@on(*CASES)
def test_fork_pop_and_removal(library, model):
    engine = Engine(model)
    engine.kv("add_sequence", 0)
    prefix = list(range(20, 34))
    engine.forward("batch_prefill", {0: prefix})
    engine.kv("fork_sequence", 0, 1, -1)
    engine.kv("popn", 1, 4)
    rows = engine.forward("batch_decode", {0: [77], 1: [88]})
    library.assert_continues(rows[0], [*prefix, 77])
    library.assert_continues(rows[1], [*prefix[:-4], 88])
    engine.kv("remove_sequence", 0)
    library.assert_continues(engine.forward("batch_decode", {1: [5]})[0], [*prefix[:-4], 88, 5])


@on(*CASES)
def test_room_for_a_chunk_of_embeddings(model):
    assert tuple(model._vm["alloc_embedding_tensor"]().shape) == (16, 64)


@on(*CASES)
def test_softmax_with_temperature(model):
    engine = Engine(model)
    logits = np.random.default_rng(0).normal(size=(3, 1, 300)).astype("float32") * 4
    logits[2, 0, [5, 9]] = 50  # two likeliest tokens share the probability
    temperature = np.array([1.0, 0.5, 0.0], "float32")
    ours = model._vm["softmax_with_temperature"](engine.tensor(logits), engine.tensor(temperature)).numpy()
    scaled = torch.from_numpy(logits) / torch.tensor([1.0, 0.5, 1.0]).view(3, 1, 1)
    np.testing.assert_allclose(ours[:2], torch.softmax(scaled, -1).numpy()[:2], atol=1e-6)
    assert ours[2, 0, 5] == ours[2, 0, 9] == 0.5 and ours[2].sum() == 1


@on(*CASES)
def test_logit_bias(model):
    engine, logits = Engine(model), np.zeros((2, 300), "float32")
    ours = engine.tensor(logits)
    rows, tokens, bias = np.array([1, 0], "int32"), np.array([7, 299], "int32"), np.array([2.5, -1], "float32")
    function(model, "apply_logit_bias_inplace")(ours, *map(engine.tensor, (rows, tokens, bias)))
    logits[1, 7], logits[0, 299] = 2.5, -1
    np.testing.assert_array_equal(ours.numpy(), logits)


@on(*CASES)
def test_penalties(model):
    engine = Engine(model)
    logits = np.random.default_rng(1).normal(size=(3, 300)).astype("float32")
    ours = engine.tensor(logits)
    rows, sequences = np.array([2, 0], "int32"), np.array([0, 0, 1], "int32")
    tokens, counts = np.array([4, 5, 4], "int32"), np.array([1, 3, 2], "int32")
    penalties = np.array([[0.5, 0.25, 1.5], [0.0, 0.1, 2.0]], "float32")
    arguments = (rows, sequences, tokens, counts, penalties)
    function(model, "apply_penalty_inplace")(ours, *map(engine.tensor, arguments))
    for sequence, token, count in zip(sequences, tokens, counts, strict=True):
        presence, frequency, repetition = penalties[sequence]
        value = logits[rows[sequence], token] - presence - count * frequency
        logits[rows[sequence], token] = value * repetition if value < 0 else value / repetition
    np.testing.assert_allclose(ours.numpy(), logits, rtol=1e-6)


@on(*CASES)
def test_bitmask(model):
    engine = Engine(model)
    random = np.random.default_rng(2)
    logits = random.normal(size=(2, 300)).astype("float32")
    allowed = random.random((2, 320)) < 0.5
    mask = np.packbits(allowed, axis=1, bitorder="little").view("int32")
    ours = engine.tensor(logits)
    function(model, "apply_bitmask_inplace")(ours, engine.tensor(np.array([1], "int32")), engine.tensor(mask))
    logits[1] = np.where(allowed[1, :300], logits[1], np.finfo("float32").min)
    # OpenCL's source has seven digits of the smallest number.
    np.testing.assert_allclose(ours.numpy(), logits, rtol=1e-6)


@on(*HOST)
def test_a_functions_arguments_and_its_weights_are_checked(model):
    engine = Engine(model)
    tokens, weights = engine.tensor(np.array([5, 6], "int32")), list(model._parameters)
    with pytest.raises(ValueError, match="dtype"):
        model._vm["embed"](engine.tensor(np.array([5, 6], "float32")), model._parameters)
    with pytest.raises(ValueError, match="embed"):
        model._vm["embed"](tokens, weights[:-1])
    for i, weight in enumerate(weights):
        other = engine.tensor(np.zeros([size + 1 for size in weight.shape], str(weight.dtype)))
        mismatched = copy.copy(model)
        mismatched._parameters = [*weights[:i], other, *weights[i + 1 :]]
        mismatched.reset()
        with pytest.raises((TypeError, ValueError), match=r"Mismatched|shape|expect"):
            mismatched.prefill([1, 2, 3])


@on(*HOST)
def test_kernels_that_the_engine_calls_check_their_arguments(model):
    engine = Engine(model)
    logits, rows, mask = np.zeros((2, 300), "float32"), np.array([1], "int32"), np.zeros((2, 10), "int32")
    with pytest.raises(TypeError, match="dtype"):
        function(model, "apply_bitmask_inplace")(*map(engine.tensor, (logits, rows.astype("float32"), mask)))


@on(*PHONE[:-1])
def test_a_token_takes_four_launches_a_layer_and_three_a_layer_of_the_cache(library, model):
    """Two beside them, for the embedding and the logits; norms are part of the matmuls, and so is what cut heads need.

    Two of the four are attention's, and two the MLP's: a layer without one has none of its launches.

    Where heads lost dims, `qkv_proj` has a launch for each layer of the cache, and the angles of RoPE have one, as have
    those of layers without it. Norms of heads have a launch, and RoPE after them one for each layer of the cache.
    """
    model.reset()
    model.prefill([1, 2, 3])
    with counted() as launches:
        model.decode(4)
    virtual_layers = model.metadata["kv_cache"]["num_hidden_layers"]
    plan = library.source.checkpoint.plan
    layers, normed = sum(layer.has_attention for layer in plan.layers), plan.use_qk_norm
    mlps = sum(layer.has_mlp for layer in plan.layers)
    cut = "rotation_kernel" in launches
    ours = sum(count for name, count in launches.items() if name.startswith("w4_"))
    assert ours == 2 * mlps + layers + (virtual_layers if cut and not normed else layers) + 2
    of_the_cache = ("fused_rope", "tir_kv_cache_transpose_append", "batch_decode_paged_kv")
    assert sum(count for name, count in launches.items() if name.startswith(of_the_cache)) == 3 * virtual_layers
    assert launches["rotation_kernel"] == cut * (2 if plan.nope_layers else 1)
    # Layers of several layers of the cache split q, k and v, and put the outputs of attention next to each other.
    norms = {name: count for name, count in launches.items() if name.startswith(("norm_heads", "rope_of_all"))}
    assert sum(norms.values()) == normed * (layers + cut * virtual_layers)
    others = {name for name in launches if not name.startswith(("w4_", *of_the_cache, "rotation", *norms))}
    assert all("concatenate" in name or "split" in name for name in others), others
    # As many as `tests.support.traffic` finds in the module.
    expected = DecodedToken(library.planned, 4).run("embed", "decode").kernels
    executed = {name.replace("_kernel", ""): count for name, count in launches.items() if count}
    assert executed == {name: kernel.launches for name, kernel in expected.items()}
