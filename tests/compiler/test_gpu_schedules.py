"""GPU kernels are scheduled for layers of any width, and for heads that lost dims."""

import gc

import pytest
import tvm
from tvm import relax, tirx
from tvm.relax.frontend import nn
from tvm.s_tir import dlight

from edge_transact.compiler import pipeline
from edge_transact.compiler.gpu import schedules as gpu_schedules
from edge_transact.compiler.library import build_library
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.passes import kv_cache
from edge_transact.compiler.targets import get_target
from edge_transact.quantization import get_quantization
from tests.support.odd_models import OWN_DIMS, make_source

PASSES = [
    relax.transform.LegalizeOps,
    relax.transform.AnnotateTIROpPattern,
    relax.transform.FoldConstant,
    relax.transform.FuseOps,
    relax.transform.FuseTIR,
]


class Product(nn.Module):
    """A linear layer of 64 input features."""

    def __init__(self, features: int) -> None:
        self.linear = nn.Linear(64, features, bias=True)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """``[1, n, 64]`` to ``[1, n, features]``."""
        return self.linear(x)


@pytest.mark.parametrize("phone", ["android", "iphone"])
@pytest.mark.parametrize("features", [1, 34, 96, 444])
def test_products_of_any_width_with_a_bias(features, phone):
    """Of weights that aren't packed, and of all weights on iPhones: others have kernels of ours."""
    model = quantize_modules(Product(features), get_quantization("q0f16"), "float32")
    mod, _ = model.export_tvm(spec={"forward": {"x": nn.spec.Tensor([1, "n", 64], "float16")}})
    target = get_target(phone).tvm_target()
    with target:
        mod = tirx.transform.BindTarget(target)(mod)
        for transform in (*PASSES, lambda: dlight.ApplyDefaultSchedule(*gpu_schedules.rules(target.kind.name))):
            mod = transform()(mod)
    kernels = [function for _, function in mod.functions_items() if isinstance(function, tvm.tirx.PrimFunc)]
    assert kernels and all("threadIdx.x" in kernel.script() for kernel in kernels)
    if phone == "iphone" and features > 1:
        # Tiles of both factors are shared, rather than a thread loading whole rows and columns.
        assert any(kernel.script().count('scope="shared"') == 2 for kernel in kernels)


@pytest.fixture
def no_cache(monkeypatch):
    """Without the kernels of the KV cache, which are those that `archives` has."""
    cache = relax.Call(relax.ExternFunc("kv_cache"), [], ty_args=[relax.AnyType()])
    monkeypatch.setattr(kv_cache, "_kernels", lambda *_: {})
    monkeypatch.setattr(kv_cache, "_creation", lambda *_: cache)


@pytest.mark.parametrize("head_dim", [20, 24])
def test_padded_heads_are_multiplied_only_where_vectors_of_eight_are_aligned(head_dim, no_cache, tmp_path):
    """Values lost dims, and queries and keys didn't: the cache's heads have as many dims as before."""
    widths = {"head_dim": head_dim, "qk_head_dim": head_dim, "v_head_dim": 16, "per_layer_config": {}}
    definition = make_source(tmp_path, {**OWN_DIMS, **widths}).definition.truncated(1)
    model = quantize_modules(definition.model(), get_quantization("q4f16_0"), "float16")
    target = get_target("android").tvm_target()
    phases = pipeline.phases(target, {"prefill_chunk_size": 16, "max_batch_size": 1, "context_window_size": 64}, {})
    with target:
        mod, _, _ = model.export_tvm(spec=model.get_default_spec(), allow_extern=True)
        for name in ("attached", "fused"):
            for run in phases[name]:
                mod = run(mod)
    names = {var.name_hint for var, _ in mod.functions_items()}
    assert any(name.endswith("padded") for name in names) == (head_dim % 8 == 0)
    assert any(name.startswith("heads_without_padding") for name in names) == (head_dim % 8 != 0)


def kernels() -> int:
    """How many there are in this process."""
    gc.collect()
    # Not isinstance: it asks objects for their `__class__`, and some have none.
    return sum(issubclass(type(each), tirx.PrimFunc) for each in gc.get_objects())


@pytest.mark.slow
def test_a_layer_whose_heads_lost_dims_on_an_iphone(own_dims, no_cache, monkeypatch):
    """Without the kernels of sampling, too. No kernel is kept."""
    monkeypatch.setattr(pipeline, "attach_sampling", lambda mod, target: mod)
    path = own_dims.directory / "iphone.tar"
    definition, before = own_dims.definition.truncated(1), kernels()
    metadata = build_library(definition, get_quantization("q4f16_0"), get_target("iphone"), "edge_llama_own_dims", path)
    assert kernels() <= before
    assert path.is_file() and metadata["kv_cache"]["head_dim"] == own_dims.checkpoint.plan.cache_head_dim
