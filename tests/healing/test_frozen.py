"""Models that stay in their files while they teach or while LoRA adapts them."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from edge_transact.checkpoint import Checkpoint
from edge_transact.healing.lean import FrozenLinear, Teacher, load_frozen
from edge_transact.healing.options import HealOptions
from edge_transact.healing.student import Student, load, tensors_of
from tests.support.checkpoints import save_llama
from tests.support.mappings import file_at, needs_maps

IDS = torch.arange(1, 25).reshape(2, 12)


@pytest.fixture(params=["pruned", "bf16, tied"])
def model_path(request, pruned_model: Path, tmp_path: Path) -> Path:
    if request.param == "pruned":
        return pruned_model
    return save_llama(tmp_path / "tied", dtype=torch.bfloat16, tie_word_embeddings=True)


def test_it_computes_what_transformers_does(model_path: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    frozen = load_frozen(Checkpoint.open(model_path), torch.float32)
    with torch.no_grad():
        want, got = reference(IDS).logits, frozen(IDS, use_cache=False).logits
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


@needs_maps
def test_weights_are_mapped_in_the_dtype_of_the_file(model_path: Path) -> None:
    checkpoint = Checkpoint.open(model_path)
    frozen = load_frozen(checkpoint, torch.float32)
    weight = frozen.model.layers[1].mlp.up_proj.weight
    stored = checkpoint.tensor("model.layers.1.mlp.up_proj.weight")
    assert weight.dtype == stored.dtype and torch.equal(weight, stored)
    assert file_at(weight.data_ptr()).parent == model_path
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@needs_maps
def test_predictions_share_the_head_in_the_file(model_path: Path) -> None:
    """So that keeping those of held-out text keeps hidden states only."""
    teacher = Teacher(Checkpoint.open(model_path), torch.float32, torch.device("cpu"))
    predictions = teacher.predict(IDS, torch.ones_like(IDS, dtype=torch.bool))
    assert file_at(predictions.head.data_ptr()).parent == model_path


def test_gradients_pass_through_a_frozen_linear() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, 5).requires_grad_(False)
    ours, theirs = (torch.randn(3, 8, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    FrozenLinear(linear)(ours).square().sum().backward()
    linear(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_what_lora_learned_is_in_the_weights_that_are_written(model_path: Path) -> None:
    checkpoint, options = Checkpoint.open(model_path), HealOptions(lora=4)
    student = Student(load(checkpoint, options), options)
    learned = {name: parameter for name, parameter in student.model.named_parameters() if parameter.requires_grad}
    assert learned and all("lora_" in name and each.dtype == torch.float32 for name, each in learned.items())
    for name, parameter in learned.items():
        if "lora_B" in name:  # zeros in the beginning
            nn.init.normal_(parameter, std=0.02)
    reference = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    missing = reference.load_state_dict(dict(tensors_of(student, checkpoint, torch.float32)), strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"} and not missing.unexpected_keys
    with torch.no_grad():
        want, got = reference(IDS).logits, student.model(IDS, use_cache=False).logits
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
