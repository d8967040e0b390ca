"""The model that is trained: loading, LoRA, the loss, and the tensors to write."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from edge_transact.architecture.matrices import MATRICES
from edge_transact.cache.journal import whole
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import DecoderLayer
from edge_transact.checkpoint.layout import ROPE_PAIRS, tensor_shapes
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaDecoderLayer
from edge_transact.errors import EdgeTransactError
from edge_transact.healing.lean import load_frozen, load_whole, make_lean
from edge_transact.healing.losses import Predictions, go_on, head_loss, penalty, repeated
from edge_transact.healing.options import HealOptions

LORA_ALPHA = 2
"""LoRA's updates count by this factor, whatever their rank."""


def load(checkpoint: Checkpoint, options: HealOptions) -> PreTrainedModel:
    """A checkpoint to train as a lean model of transformers on the CPU, in fp32 except weights under LoRA."""
    if options.lora is not None:
        return load_frozen(checkpoint, torch.float32)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.tensor_names()}
    model = load_whole(
        checkpoint,
        {name: t.to(torch.float32, copy=True) if t.is_floating_point() else t for name, t in tensors.items()},
    )
    make_lean(model)
    return model


@contextmanager
def generating(model: PreTrainedModel) -> Iterator[None]:
    """In the body, a model from `load` has torch's own attention, for padded prompts and a KV cache."""
    # Layers of an `EdgeLlamaModel` have configurations of their own.
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}.values()
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


class Student(nn.Module):
    """A model under training; after one of `ends`, the tokens that end an answer, nothing counts as repetition."""

    # For FSDP by accelerate: what is gathered at once.
    _no_split_modules = (DecoderLayer.__name__, EdgeLlamaDecoderLayer.__name__)

    def __init__(self, model: PreTrainedModel, options: HealOptions, ends: Collection[int] = ()) -> None:
        super().__init__()
        self.model = model.train()
        self._cross_entropy = options.cross_entropy
        self._ends = ends
        self.model.requires_grad_(options.lora is None)
        if options.freeze_embedding or options.lora is not None:
            model.get_input_embeddings().requires_grad_(False)
        if options.lora is not None:
            _add_lora(model, options.lora, options.seed)
        if options.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            if options.lora is not None:
                model.enable_input_require_grads()

    def forward(
        self, ids: torch.Tensor, counted: torch.Tensor | None, predictions: Predictions | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """The summed loss of the tokens that count, or the penalty on repetition; fp32 scalar, in nats.

        FSDP gathers weights when the whole model is called, so both are computed here.

        Args:
            ids: int64 ``[batch, length]``.
            counted: bool ``[batch, length]``: which tokens' predictions count; `None` for the penalty on continuations
                of `ids`.
            predictions: The teacher's, for these tokens in order.
        """
        if counted is None:
            return self._repetition(ids, dtype)
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        where = counted[:, 1:]
        return head_loss(
            hidden[:, :-1][where],
            self.model.lm_head.weight,
            ids[:, 1:][where],
            predictions,
            cross_entropy=self._cross_entropy,
            dtype=dtype,
        )

    def _repetition(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        head = self.model.lm_head.weight.to(dtype)
        self.model.eval()
        with generating(self.model):
            written = go_on(self.model, ids, head)
        self.model.train()
        again = repeated(written, self._ends)
        rows = again.any(1)
        rows[0] = True  # all processes call the model, since its weights may be sharded
        whole = torch.cat([ids, written], 1)[rows]
        hidden = self.model.model(input_ids=whole, use_cache=False).last_hidden_state
        before = hidden[:, ids.shape[1] - 1 : -1][again[rows]]
        return penalty(before.to(dtype), head, written[again])


def _add_lora(model: PreTrainedModel, rank: int, seed: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise EdgeTransactError("--lora needs peft", fix="pip install 'edge-transact[lora]'") from error
    projections = [name.rpartition(".")[2] for name in MATRICES]
    config = LoraConfig(r=rank, lora_alpha=LORA_ALPHA * rank, target_modules=projections, bias="none")
    with torch.random.fork_rng(devices=[]):  # the model is on the CPU
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()  # peft gives it the dtype of the weight that it adapts
            parameter.requires_grad_(True)


def tensors_of(
    student: Student, checkpoint: Checkpoint, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors to write, by their names in the checkpoint, in `dtype` or in the checkpoint's own.

    LoRA's updates are added one tensor at a time, since the weights may be larger than memory.
    """
    state = {name.replace(".base_layer", ""): tensor for name, tensor in student.model.state_dict().items()}
    for name in tensor_shapes(checkpoint.plan):
        stored = checkpoint.tensor(name)
        if name.endswith(ROPE_PAIRS):
            yield name, stored
            continue
        tensor = whole(state[name])
        first, second = (state.get(f"{name.removesuffix('.weight')}.lora_{part}.default.weight") for part in "AB")
        if first is not None and second is not None:
            tensor = tensor.float() + LORA_ALPHA * (whole(second) @ whole(first))
        yield name, tensor.cpu().to(dtype or stored.dtype)
