"""The functions that MLC's engine looks up, called as it calls them, on the host; against torch and numpy."""

import copy

import numpy as np
import pytest
import torch

from edge_transact import costs
from edge_transact.compiler.library import build_library
from edge_transact.compiler.targets import get_target
from edge_transact.mlc.builtins import BYTECODE, CALLS, TAGS, bytecode, called, tags
from edge_transact.runtime.host import PAGE_SIZE, HostModel
from tests.support.dumps import assert_all_forms
from tests.support.odd_models import FUNCTIONS

QUANTIZATIONS = {"source": "q4f32_1", "own_dims": "q0f32"}
"""The quantization by plan; both have biases and layers that all differ."""


@pytest.fixture(scope="module", params=QUANTIZATIONS)
def plan_name(request) -> str:
    """Whole heads, which the cache turns, and heads that lost dims, which the definition turns."""
    return request.param


@pytest.fixture(scope="module")
def odd(plan_name, request):
    return request.getfixturevalue(plan_name)


@pytest.fixture(scope="module")
def model(odd, plan_name) -> HostModel:
    weights, quantization = odd.weights(QUANTIZATIONS[plan_name])
    path, dump = odd.directory / "host.so", odd.directory / "host-dump"
    build_library(odd.definition, quantization, get_target("host"), "edge_llama_odd", path, dump)
    return HostModel(path, weights)


@pytest.fixture(scope="module")
def reference(odd, plan_name):
    return odd.reference(QUANTIZATIONS[plan_name])


def function(model: HostModel, name: str):
    """A function of the library or of the kernels in it, as MLC's engine looks it up."""
    return model._vm.module.get_function(name, query_imports=True)


class Engine:
    """Several sequences in one cache, as MLC's engine drives them."""

    def __init__(self, model: HostModel) -> None:
        import tvm

        self.tvm, self.model = tvm, model
        sizes = [4, 256, model.prefill_chunk_size, PAGE_SIZE, 0]
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


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def torch_logits(reference, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return reference(torch.tensor([ids])).logits[0, -1].numpy()


def test_every_function_is_there(model):
    for name in FUNCTIONS:
        assert function(model, name) is not None


def test_all_intermediate_forms_are_written(model, odd, plan_name):
    assert_all_forms(odd.directory / "host-dump", ["host.ll"], packed=QUANTIZATIONS[plan_name].startswith("q4"))


def test_what_is_asked_of_the_runtime_is_listed(model, odd):
    import tvm

    library = odd.directory / "host.so"
    executable = tvm.runtime.load_module(str(library))
    calls = called(executable)
    assert {name for name, count in calls.items() if CALLS.get(name, "none") not in (count, None)} == set()
    assert tags(executable) == TAGS and bytecode(library.read_bytes()) == BYTECODE


def test_metadata_tells_sizes_parameters_and_the_cache(model, odd, plan_name):
    metadata, plan = model.metadata, odd.checkpoint.plan
    assert metadata["kv_cache"] == {
        "num_hidden_layers": plan.num_virtual_layers,
        "num_attention_heads": plan.q_per_kv * plan.virtual_num_key_value_heads,
        "num_key_value_heads": plan.virtual_num_key_value_heads,
        "head_dim": 16,
    }
    cache = metadata["kv_cache"]
    nbytes = 2 * cache["num_hidden_layers"] * cache["num_key_value_heads"] * cache["head_dim"] * 4
    _, quantization = odd.weights(QUANTIZATIONS[plan_name])
    assert nbytes == costs.kv_bytes_per_token(plan, quantization)
    assert (metadata["context_window_size"], metadata["prefill_chunk_size"], metadata["max_batch_size"]) == (64, 16, 4)
    assert metadata["memory_usage"]["prefill"] >= 16 * plan.hidden_size * 4
    assert all({"name", "shape", "dtype", "preprocs"} <= set(parameter) for parameter in metadata["params"])


def test_prefill_in_chunks_and_decode(model, reference):
    ids = [(7 * i + 3) % 300 for i in range(50)]
    model.reset()
    assert_close(model.prefill(ids[:40]), torch_logits(reference, ids[:40]))
    for n in range(40, 50):
        assert_close(model.decode(ids[n]), torch_logits(reference, ids[: n + 1]))
    with torch.inference_mode():
        assert_close(model.window_logits(ids), reference(torch.tensor([ids])).logits[0].numpy())


def test_a_full_context_is_said_not_overrun(model):
    from edge_transact.errors import EdgeTransactError

    model.reset()
    with pytest.raises(EdgeTransactError, match="65 tokens don't fit into a context window of 64"):
        model.prefill([1] * 65)
    assert len(list(model.generate([1] * 60, 100))) == 5  # the token after a full window is still known
    with pytest.raises(EdgeTransactError, match="don't fit"):
        model.decode(1)


def test_sequences_of_a_batch_do_not_see_each_other(model, reference):
    engine = Engine(model)
    texts = {0: [5, 6, 7], 1: [9], 2: [200, 100, 50, 25, 12], 3: [1, 2]}
    for sequence in texts:
        engine.kv("add_sequence", sequence)
    for row, ids in zip(engine.forward("batch_prefill", texts), texts.values(), strict=True):
        assert_close(row, torch_logits(reference, ids))
    for step in range(3):
        step_ids = {sequence: [10 * sequence + step] for sequence in texts}
        rows = engine.forward("batch_decode", step_ids)
        for sequence, row in zip(texts, rows, strict=True):
            texts[sequence] = texts[sequence] + step_ids[sequence]
            assert_close(row, torch_logits(reference, texts[sequence]))


def test_fork_pop_and_removal(model, reference):
    engine = Engine(model)
    engine.kv("add_sequence", 0)
    prefix = list(range(20, 34))
    engine.forward("batch_prefill", {0: prefix})
    engine.kv("fork_sequence", 0, 1, -1)
    engine.kv("popn", 1, 4)
    rows = engine.forward("batch_decode", {0: [77], 1: [88]})
    assert_close(rows[0], torch_logits(reference, [*prefix, 77]))
    assert_close(rows[1], torch_logits(reference, [*prefix[:-4], 88]))
    engine.kv("remove_sequence", 0)
    assert_close(engine.forward("batch_decode", {1: [5]})[0], torch_logits(reference, [*prefix[:-4], 88, 5]))


def test_room_for_a_chunk_of_embeddings(model):
    assert tuple(model._vm["alloc_embedding_tensor"]().shape) == (16, 64)


def test_softmax_with_temperature(model):
    engine = Engine(model)
    logits = np.random.default_rng(0).normal(size=(3, 1, 300)).astype("float32") * 4
    logits[2, 0, [5, 9]] = 50  # two likeliest tokens share the probability
    temperature = np.array([1.0, 0.5, 0.0], "float32")
    ours = model._vm["softmax_with_temperature"](engine.tensor(logits), engine.tensor(temperature)).numpy()
    scaled = torch.from_numpy(logits) / torch.tensor([1.0, 0.5, 1.0]).view(3, 1, 1)
    np.testing.assert_allclose(ours[:2], torch.softmax(scaled, -1).numpy()[:2], atol=1e-6)
    assert ours[2, 0, 5] == ours[2, 0, 9] == 0.5 and ours[2].sum() == 1


def test_logit_bias(model):
    engine, logits = Engine(model), np.zeros((2, 300), "float32")
    ours = engine.tensor(logits)
    rows, tokens, bias = np.array([1, 0], "int32"), np.array([7, 299], "int32"), np.array([2.5, -1], "float32")
    function(model, "apply_logit_bias_inplace")(ours, *map(engine.tensor, (rows, tokens, bias)))
    logits[1, 7], logits[0, 299] = 2.5, -1
    np.testing.assert_array_equal(ours.numpy(), logits)


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


def test_bitmask(model):
    engine = Engine(model)
    random = np.random.default_rng(2)
    logits = random.normal(size=(2, 300)).astype("float32")
    allowed = random.random((2, 320)) < 0.5
    mask = np.packbits(allowed, axis=1, bitorder="little").view("int32")
    ours = engine.tensor(logits)
    function(model, "apply_bitmask_inplace")(ours, engine.tensor(np.array([1], "int32")), engine.tensor(mask))
    logits[1] = np.where(allowed[1, :300], logits[1], np.finfo("float32").min)
    np.testing.assert_array_equal(ours.numpy(), logits)


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


def test_kernels_that_the_engine_calls_check_their_arguments(model):
    engine = Engine(model)
    logits, rows, mask = np.zeros((2, 300), "float32"), np.array([1], "int32"), np.zeros((2, 10), "int32")
    with pytest.raises(TypeError, match="dtype"):
        function(model, "apply_bitmask_inplace")(*map(engine.tensor, (logits, rows.astype("float32"), mask)))
