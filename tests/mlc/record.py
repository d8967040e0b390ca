"""``python -m tests.mlc.record``: writes what the MLC-LLM of MLC_LLM_SOURCE_DIR makes of the small checkpoint."""

import json
import tempfile
from pathlib import Path

import numpy as np

from edge_transact.inputs import resolve_model
from tests.mlc.small import GOLDEN, measured, small_checkpoint

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = small_checkpoint(resolve_model("demo:tiny"), Path(scratch) / "checkpoint")
        weights, logits = measured(checkpoint, Path(scratch), "mlc")
    np.savez_compressed(GOLDEN, weights=json.dumps(weights), logits=logits)
