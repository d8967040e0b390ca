"""Libraries and their sources, built once for all tests of the compiler."""

from __future__ import annotations

import numpy as np
import pytest

from edge_transact.compiler import library
from edge_transact.compiler.targets import get_target, library_name
from tests.support.odd_models import (
    CONFIG,
    GONE,
    GONE_NORMED,
    GONE_OWN_DIMS,
    MODEL_LIB,
    NOPE,
    NORMED,
    NORMED_OWN_DIMS,
    OWN_DIMS,
    PARTIAL_OWN_DIMS,
    QWEN2_BIASES,
    Archive,
    Source,
    make_source,
)
from tests.support.opencl import executed_here
from tests.support.traffic import planned


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Source:
    return make_source(tmp_path_factory.mktemp("odd"), CONFIG)


@pytest.fixture(scope="session")
def uniform(tmp_path_factory) -> Source:
    """All layers are alike, and biases are Qwen2's."""
    return make_source(tmp_path_factory.mktemp("uniform"), {**CONFIG, **QWEN2_BIASES, "per_layer_config": {}})


@pytest.fixture(scope="session")
def own_dims(tmp_path_factory) -> Source:
    """The same, and heads of all but one layer lost dims, of q and k or of v."""
    return make_source(tmp_path_factory.mktemp("own-dims"), OWN_DIMS)


@pytest.fixture(scope="session")
def normed(tmp_path_factory) -> Source:
    """The odd plan with a norm of every query and key head, and without biases."""
    return make_source(tmp_path_factory.mktemp("normed"), CONFIG | NORMED)


@pytest.fixture(scope="session")
def normed_own_dims(tmp_path_factory) -> Source:
    """The same with the biases of Qwen2, and values lost dims."""
    return make_source(tmp_path_factory.mktemp("normed-own-dims"), NORMED_OWN_DIMS)


@pytest.fixture(scope="session")
def nope(tmp_path_factory) -> Source:
    """The odd plan with a layer without RoPE, and scaled RoPE."""
    return make_source(tmp_path_factory.mktemp("nope"), CONFIG | NOPE)


@pytest.fixture(scope="session")
def partial_own_dims(tmp_path_factory) -> Source:
    """Heads of which RoPE rotates a part, and which lost dims."""
    return make_source(tmp_path_factory.mktemp("partial-own-dims"), PARTIAL_OWN_DIMS)


@pytest.fixture(scope="session")
def gone(tmp_path_factory) -> Source:
    """Layers without attention, MLP or both."""
    return make_source(tmp_path_factory.mktemp("gone"), GONE)


@pytest.fixture(scope="session")
def gone_own_dims(tmp_path_factory) -> Source:
    """The same, and heads lost dims."""
    return make_source(tmp_path_factory.mktemp("gone-own-dims"), GONE_OWN_DIMS)


@pytest.fixture(scope="session")
def gone_normed(tmp_path_factory) -> Source:
    """The same with a norm of every query and key head."""
    return make_source(tmp_path_factory.mktemp("gone-normed"), GONE_NORMED)


class Archives(dict[str, Archive]):
    """A plan's libraries for phones, by target, each built when it is asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __missing__(self, name: str) -> Archive:
        _, quantization = self.source.weights("q4f16_0")
        export, executables = library._export, []
        path, named = self.source.directory / f"{name}.tar", library_name(MODEL_LIB, name)
        with pytest.MonkeyPatch.context() as patched, planned() as modules:
            patched.setattr(library, "_export", lambda *args: (executables.append(args[0]), export(*args)))
            metadata = library.build_library(self.source.definition, quantization, get_target(name), named, path)
        self[name] = Archive(path, executables[0].mod, modules[-1], metadata)
        return self[name]


@pytest.fixture(scope="session")
def archives(source) -> Archives:
    """The odd plan's."""
    return Archives(source)


@pytest.fixture(scope="module")
def executed():
    """Executes phones' kernels on this computer; the sources that were compiled."""
    with executed_here() as sources:
        yield sources


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
