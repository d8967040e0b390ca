"""``python -m tests.mlc.record``: writes what the MLC-LLM of MLC_LLM_SOURCE_DIR makes of the tests' models."""

import json
import tempfile
from pathlib import Path

import numpy as np

from edge_transact.inputs import resolve_model
from tests.support.mlc_small import (
    ANDROID_METADATA,
    FAMILIES,
    FAMILIES_GOLDEN,
    GOLDEN,
    android_metadata,
    family_measured,
    measured,
)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        tiny_model = resolve_model("demo:tiny")
        android = android_metadata(tiny_model, Path(scratch) / "android")
        weights, logits, searched = measured(tiny_model, Path(scratch), "mlc")
        families = {name: family_measured(tiny_model, Path(scratch) / name, name, "mlc") for name in FAMILIES}
    np.savez_compressed(GOLDEN, weights=json.dumps(weights), logits=logits, searched=searched)
    ANDROID_METADATA.write_text(json.dumps(android, indent=1) + "\n")
    of_families = json.dumps({name: weights for name, (weights, _) in families.items()})
    np.savez_compressed(
        FAMILIES_GOLDEN, weights=of_families, **{name: logits for name, (_, logits) in families.items()}
    )
