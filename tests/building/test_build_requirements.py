"""What a build says of its memory before it begins, next to what was measured."""

from __future__ import annotations

import pytest

from edge_transact import costs
from edge_transact.building.options import BuildOptions
from edge_transact.building.requirements import requirements
from edge_transact.checkpoint import Checkpoint
from edge_transact.costs.memory import COMPILER_BYTES, PACKAGES_BYTES, codes_bytes, scales_bytes
from edge_transact.layerwise.model import BATCH_TOKENS, LOGITS_TOKENS
from edge_transact.pruning.options import PruneChoices
from edge_transact.quantization import get_quantization
from edge_transact.rounding.gptq import CHUNK_ROWS
from edge_transact.widths import LayerWidths, WidthPlan


def llama_2_7b(layers: int) -> WidthPlan:
    return WidthPlan(4096, 32000, False, False, False, (LayerWidths(32, 32, 128, 128, 11008),) * layers)


@pytest.mark.parametrize(
    ("rounding", "layers", "tokens", "peak_mib"),
    [("gptq", 2, 128, 3354), ("fit", 2, 1536, 3264), ("fit", 6, 1536, 3515)],
)
def test_rounding_takes_what_was_measured(rounding, layers, tokens, peak_mib) -> None:
    """The table of docs/lab/w4.md, which is of whole processes."""
    plan = llama_2_7b(layers)
    if rounding == "gptq":
        tensors = codes_bytes(plan, tokens, 4, BATCH_TOKENS, CHUNK_ROWS)
    else:
        tensors = scales_bytes(plan, get_quantization("q4f16_0"), tokens, 128, 4, LOGITS_TOKENS)
    assert (PACKAGES_BYTES + COMPILER_BYTES + tensors) / 2**20 == pytest.approx(peak_mib, rel=0.05)


def test_codes_take_no_more_with_more_layers_and_scales_do() -> None:
    quantization, mib = get_quantization("q4f32_1"), 2**20
    codes = [codes_bytes(llama_2_7b(layers), 8192, 4, BATCH_TOKENS, CHUNK_ROWS) for layers in (2, 32)]
    assert codes[0] == codes[1]
    of = [scales_bytes(llama_2_7b(layers), quantization, 1536, 128, 4, LOGITS_TOKENS) for layers in (2, 3)]
    assert 60 * mib < of[1] - of[0] < 80 * mib


def test_a_model_that_torch_has_no_memory_for_counts_with_its_first_layers(random_model, monkeypatch) -> None:
    checkpoint = Checkpoint.open(random_model)
    with_library, without = (BuildOptions(target=[target], quant="q4f32_1") for target in ("host", "android"))
    whole, cut = requirements(checkpoint, with_library), requirements(checkpoint, without)
    monkeypatch.setattr(
        "edge_transact.system.memory.fits", lambda nbytes: nbytes < 4 * costs.parameters(checkpoint.plan)
    )
    scarce = requirements(checkpoint, with_library)
    assert cut.memory_bytes == scarce.memory_bytes < whole.memory_bytes


def test_rounding_counts_with_the_tokens_that_it_reads(random_model) -> None:
    checkpoint = Checkpoint.open(random_model)

    def memory_bytes(rounding: str, tokens: int) -> int:
        options = BuildOptions(target=["host"], rounding=rounding)
        return requirements(checkpoint, options, PruneChoices(calibration_tokens=tokens)).memory_bytes

    gptq, best = ([memory_bytes(name, tokens) for tokens in (8192, 1 << 17)] for name in ("gptq", "best"))
    assert gptq[0] < gptq[1], "hidden states of all tokens"
    assert best[0] <= best[1] < gptq[1], "best reads a part of them"
    assert gptq[0] > memory_bytes("search", 8192)
