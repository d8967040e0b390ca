"""Every family, cut to equal widths and to different ones, from its checkpoint to a phone, an app and a GGUF file."""

from contextlib import nullcontext

import pytest

import edge_transact as et
from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.runtimes import gguf_architecture
from tests.support.published import PUBLISHED, save_published, use
from tests.support.tokenizers import give_bytes

TARGETS = ["host", "android", "android-cpu", "iphone"]
TRAINING = {"train_tokens": 2048, "batch_tokens": 256, "train_window": 64}
MEASURED = {"lengths": "8+4", "repetitions": 1, "warmups": 0}
FAMILIES = [name for name, config in PUBLISHED.items() if "model_type" in config]


@pytest.mark.soak
@pytest.mark.parametrize("allocation", ["uniform", "budgeted"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_from_checkpoint_to_phone(
    phone, runner, tiny_model, calibration, chapters, tmp_path, name, allocation
):
    model = save_published(name, tiny_model / "tokenizer.json", tmp_path / name)
    give_bytes(model)
    sizes = {"heads": PUBLISHED[name]["num_attention_heads"] // 2, "intermediate": 64}
    sizes = sizes if allocation == "uniform" else {"ratio": 0.5, "bucket": 8}
    et.prune(model, tmp_path / "pruned", **sizes, **calibration)
    assert (len(set(Checkpoint.open(tmp_path / "pruned").plan.layers)) == 1) is (allocation == "uniform")
    et.heal(tmp_path / "pruned", tmp_path / "healed", train=str(chapters), quant="q4f16_0", **TRAINING)
    dist = tmp_path / "dist"
    made = et.build(tmp_path / "healed", dist, target=TARGETS, quant="q4f16_0", context=64, prefill_chunk=16)
    assert made.manifest.parity["passed"] and made.manifest.rounding == "trained"
    assert list(made.manifest.libraries) == TARGETS
    use(tmp_path / "healed", dist, chapters, tmp_path)
    on_host = et.bench(dist, tmp_path / "host.jsonl", **MEASURED)
    emulated = {"device": phone.serial, "target": "android-cpu", "runner": runner, "timeout_s": 600}
    on_phone = et.bench(dist, tmp_path / "phone.jsonl", **MEASURED, **emulated)
    assert on_phone.failures == []
    assert on_phone.results[0]["tokens"] == on_host.results[0]["tokens"]
    misfit = gguf_architecture(made.manifest.plan)[1]
    assert misfit is None or allocation == "budgeted" or name in ("SmolLM3-3B", "Phi-4-mini")
    with pytest.raises(EdgeTransactError, match="can't load it") if misfit else nullcontext():
        et.export(dist, tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").is_file() is (misfit is None)
