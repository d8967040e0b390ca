"""The dense parent, whose predictions are computed when needed."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from edge_transact.checkpoint import Checkpoint
from edge_transact.healing.frozen import load_frozen
from edge_transact.healing.losses import Predictions
from edge_transact.progress import working

LOAD_STEP = "load the teacher"


class Teacher:
    """A model that is loaded for its first prediction, and computes in `dtype` on `device`."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        self.checkpoint, self.dtype = checkpoint, dtype
        self._device = device
        self._model: PreTrainedModel | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The loaded model."""
        if self._model is None:
            with working(LOAD_STEP):
                self._model = load_frozen(self.checkpoint, self.dtype).to(self._device)
        return self._model

    @torch.no_grad()
    def predict(self, ids: torch.Tensor, counted: torch.Tensor) -> Predictions:
        """The predictions of the tokens that count, in order; both arguments are ``[batch, length]``."""
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        return Predictions(hidden[:, :-1][counted[:, 1:]], self.model.lm_head.weight)
