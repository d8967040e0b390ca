"""The loss over the vocabulary in blocks, and the lean layers, against torch's own operations and autograd."""

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from edge_transact.checkpoint import causal_attention
from edge_transact.healing import losses
from edge_transact.healing.lean import make_lean
from edge_transact.healing.losses import Predictions, head_loss
from edge_transact.widths import ACTIVATIONS
from tests.support.checkpoints import TINY

TOKENS, HIDDEN, OF_TEACHER, VOCABULARY = 45, 16, 24, 50


@pytest.mark.parametrize("cross_entropy", [0.0, 0.3, 1.0])
def test_loss_and_gradients_are_those_of_whole_logits(monkeypatch, cross_entropy: float) -> None:
    monkeypatch.setattr(losses, "CHUNK_TOKENS", {"cpu": 7, "cuda": 7})
    monkeypatch.setattr(losses, "BLOCK_TOKENS", 20)
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, requires_grad=True)
    teacher, head = torch.randn(TOKENS, OF_TEACHER), torch.randn(VOCABULARY, OF_TEACHER).bfloat16() / 3
    labels = torch.randint(0, VOCABULARY, (TOKENS,))

    log_student = (hidden @ weight.T).log_softmax(-1)
    log_teacher = (teacher @ head.float().T).log_softmax(-1)
    predictions = Predictions(teacher, head)
    divergence = functional.kl_div(log_student, log_teacher, log_target=True, reduction="sum")
    expected = (1 - cross_entropy) * divergence + cross_entropy * functional.nll_loss(
        log_student, labels, reduction="sum"
    )
    by_torch = torch.autograd.grad(expected / 2, (hidden, weight))

    loss = head_loss(hidden, weight, labels, predictions, cross_entropy=cross_entropy, dtype=torch.float32)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(torch.autograd.grad(loss / 2, (hidden, weight)), by_torch, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lean_layers_have_the_gradients_of_stock_ones(activation: str) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**TINY | {"vocab_size": VOCABULARY, "tie_word_embeddings": True, "hidden_act": activation})
    stock = LlamaForCausalLM(config)
    config._attn_implementation = causal_attention.NAME
    lean = LlamaForCausalLM(config)
    lean.load_state_dict(stock.state_dict())
    make_lean(lean)
    ids = torch.randint(0, VOCABULARY, (2, 20))
    for model in (stock, lean):
        model(ids, labels=ids).loss.backward()
    assert stock.state_dict().keys() == lean.state_dict().keys()
    for (name, ours), theirs in zip(lean.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
