"""The options of recovery training."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from edge_transact.options import Count, OneOf, Option, Options
from edge_transact.quantization import QUANTIZATIONS

TEXT, TARGET, STEPS, MEMORY = "Text", "What is learned", "Steps", "Memory and speed"
"""Panels of ``heal --help``."""

FOUR_BITS = tuple(name for name, quantization in QUANTIZATIONS.items() if quantization.bits)

TEXTS = "Text to train on. Repeat it to mix texts; TEXT=2 takes twice as much of one."


class TrainOptions(Options):
    """How a model is trained, whether by ``heal`` or between the shots of ``prune``."""

    train: Annotated[
        str | Annotated[list[str], Field(min_length=1)] | None,
        Option(TEXTS, TEXT, metavar="TEXT", example="demo:mixed"),
    ] = None
    train_tokens: Annotated[Count, Option("Number of tokens to train on.", TEXT)] = 131072
    train_window: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Option("Tokens per sequence.", TEXT, default="512, or the model's context if shorter", example=512),
    ] = None
    cross_entropy: Annotated[
        Annotated[float, Field(ge=0, le=1)],
        Option(
            "Weight of the cross-entropy loss on the text itself; the rest is distillation. 1 needs no teacher.", TARGET
        ),
    ] = 0.0
    unlikelihood: Annotated[
        Annotated[float, Field(ge=0)],
        Option(
            "Weight of the unlikelihood loss on repetition in the model's own greedy continuations; 0 disables it.",
            TARGET,
        ),
    ] = 0.0
    learning_rate: Annotated[
        Annotated[float, Field(gt=0, lt=1)], Option("Highest learning rate, after the warm-up.", STEPS)
    ] = 3e-4
    batch_tokens: Annotated[Count, Option("Tokens of a step, over all processes.", STEPS)] = 1024
    gradient_checkpointing: Annotated[
        bool, Option("Compute activations again in the backward pass: a third more time, less memory.", MEMORY)
    ] = False
    micro_batch_tokens: Annotated[
        Count, Option("Tokens that go through the model at once; a step is made of several such parts.", MEMORY)
    ] = 1024

    @property
    def texts(self) -> list[str]:
        return [self.train] if isinstance(self.train, str) else list(self.train or [])


class HealOptions(TrainOptions):
    """The options of ``heal``."""

    train: Annotated[str | Annotated[list[str], Field(min_length=1)], Option(TEXTS, TEXT, metavar="TEXT")] = (
        "demo:mixed"
    )
    seed: Annotated[int, Option("Order of the sequences. The same seed writes the same bytes.", TEXT)] = 0
    teacher: Annotated[
        str | None,
        Option(
            "Model to learn from.",
            TARGET,
            metavar="MODEL",
            default="the one that DIR was pruned from",
            example="demo:smollm2",
        ),
    ] = None
    quant: Annotated[
        Annotated[str, OneOf(FOUR_BITS, "4-bit quantization")] | None,
        Option("Train the model as it is after rounding to 4 bits: {choices}.", TARGET, example="q4f16_0"),
    ] = None
    eval_every: Annotated[
        Count | None,
        Option(
            "Measure perplexity on other text before training, and each time after this many tokens.",
            STEPS,
            example=50000,
        ),
    ] = None
    tasks: Annotated[
        str | None,
        Option(
            "Score these tasks as well, as eval does: basics, or any of lm-eval.",
            STEPS,
            metavar="NAMES",
            example="basics",
        ),
    ] = None
    freeze_embedding: Annotated[
        bool, Option("Leave the embedding as it is, and a head that shares its weights.", MEMORY)
    ] = False
    lora: Annotated[
        Count | None, Option("Train LoRA's updates of this rank instead of all parameters.", MEMORY, example=16)
    ] = None

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on, as JSON values by option, without texts, whose content counts."""
        return self.model_dump(mode="json", exclude={"train", "eval_every", "tasks"})
