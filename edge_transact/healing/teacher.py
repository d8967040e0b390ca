"""The dense parent and its predictions: computed when needed, or the likeliest tokens kept on disk."""

from __future__ import annotations

import hashlib
import logging
from importlib.metadata import version

import torch
from transformers import PreTrainedModel

from edge_transact import cache
from edge_transact.cache.journal import Journal
from edge_transact.cache.keys import code_of
from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.formatting import megabytes
from edge_transact.healing.frozen import load_frozen
from edge_transact.healing.losses import DensePredictions, TopPredictions, chunks
from edge_transact.progress import working
from edge_transact.system.disk import require_space

logger = logging.getLogger(__name__)

LOAD_STEP = "load the teacher"


class DenseTeacher:
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
    def predict(self, ids: torch.Tensor, counted: torch.Tensor) -> DensePredictions:
        """The predictions of the tokens that count, in order; both arguments are ``[batch, length]``."""
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        return DensePredictions(hidden[:, :-1][counted[:, 1:]], self.model.lm_head.weight)


class KeptTeacher:
    """Keeps the `top` likeliest predictions of another teacher in the cache, by the tokens of a sequence.

    The other one is loaded only if something is missing. `text` is the origin of the sequences, as JSON values.
    """

    def __init__(self, teacher: DenseTeacher, text: object, top: int) -> None:
        self._teacher, self._top = teacher, top
        vocabulary = teacher.checkpoint.plan.vocab_size
        if top >= vocabulary:
            raise EdgeTransactError(
                f"--teacher-top {top} is not less than the vocabulary of {vocabulary}", fix="Give less, such as 64."
            )
        ingredients = {
            "teacher": teacher.checkpoint.digest(),
            "text": text,
            "top": top,
            "dtype": str(teacher.dtype),
            "code": code_of(KeptTeacher),
            **{package: version(package) for package in ("torch", "transformers")},
        }
        directory = cache.entry_of(cache.PREDICTIONS, ingredients)
        cache.hold(directory)
        what = f"{teacher.checkpoint.path.name}: its {top} likeliest predictions of each token"
        cache.write_record(directory, cache.Record(what=what, ingredients=ingredients, files={}))
        self._kept, self._writing = Journal(directory), cache.lock_of(directory)

    def check_space(self, sequences: int, length: int) -> None:
        """Raises an `EdgeTransactError` if the disk has no space for the missing ones of so many sequences."""
        missing = max(0, sequences - len(self._kept.names()))
        needed = missing * (length - 1) * self._top * (torch.int32.itemsize + torch.float16.itemsize)
        directory = self._kept.directory
        logger.info(f"teacher's predictions: {missing} sequences to keep, {megabytes(needed)} in {directory}")
        fix = "Give a smaller --teacher-top, or leave it out; or free some space."
        require_space(directory, needed, "the teacher's predictions need", fix)

    @torch.no_grad()
    def predict(self, ids: torch.Tensor, counted: torch.Tensor) -> TopPredictions:
        """See `DenseTeacher.predict`."""
        everywhere = torch.ones_like(ids[:1], dtype=torch.bool)
        found = []
        for row, sequence in enumerate(ids.cpu().numpy()):
            name = hashlib.sha256(sequence.tobytes()).hexdigest()
            damaged = name in self._kept and self._kept.is_damaged(name)
            if damaged:
                logger.warning(f"predictions in {self._kept.directory} are damaged: making them again")
            if damaged or name not in self._kept or not cache.enabled:
                likeliest = self._likeliest(self._teacher.predict(ids[row : row + 1], everywhere))
                with self._writing:  # another process may keep the same sequence
                    self._kept[name] = likeliest
            kept = self._kept[name]
            where = counted[row, 1:].cpu()
            found.append((kept["ids"][where], kept["log_probabilities"][where]))
        tokens, probabilities = (torch.cat(parts).to(ids.device) for parts in zip(*found, strict=True))
        return TopPredictions(tokens, probabilities)

    def _likeliest(self, dense: DensePredictions) -> dict[str, torch.Tensor]:
        ids, probabilities = [], []
        head = dense.head.to(dense.hidden.dtype)
        for rows in chunks(len(dense.hidden), dense.hidden.device):
            logits = torch.nn.functional.linear(dense.hidden[rows], head).float()
            values, indices = logits.log_softmax(-1).topk(self._top)
            ids.append(indices.int().cpu())
            probabilities.append(values.half().cpu())
        return {"ids": torch.cat(ids), "log_probabilities": torch.cat(probabilities)}


Teacher = DenseTeacher | KeptTeacher
