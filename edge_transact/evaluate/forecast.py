"""What an evaluation will take on this machine: its steps, their time and its memory, from formulas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edge_transact import costs
from edge_transact.evaluate.answers.answering import MAX_TOKENS
from edge_transact.evaluate.answers.collapse import step_name
from edge_transact.evaluate.answers.decoding import BATCH
from edge_transact.evaluate.answers.questions import questions, quick_questions
from edge_transact.evaluate.models import TEXT_STEP, is_dist, load_step
from edge_transact.evaluate.perplexity import TOKENS_STEP, perplexity_step
from edge_transact.progress import Forecast, Step
from edge_transact.system.memory import PACKAGES_BYTES
from edge_transact.system.speed import matmul_flops, slowness
from edge_transact.widths import WidthPlan

LOAD_S = 0.1
"""Seconds until a model's classes and its tokenizer are loaded, besides its weights, where `slowness` is 1."""

LOAD_BYTES_PER_S = 1e9

TOKENIZE_S = 0.6
"""Seconds for the tokens of a text of about a million characters, where `slowness` is 1."""

CHARACTERS_PER_TOKEN = 4

PROMPT_TOKENS, OWN_TOKENS, ANSWER_TOKENS = 40, 15, 24
"""Of a short question, the chat template included; of those, without what all questions have in common, which a host
library computes once; and of its answer."""

READ_BYTES_PER_S, READ_BYTES_PER_S_IN_TORCH = 8e9, 4e9
"""Bytes of weights that decoding reads in a second, where `slowness` is 1: in a host library, and in torch."""

LIBRARY_SPEED = 0.5
"""The speed of a host library's products in prefill, as a share of torch's in fp32."""


def plans_of(names: Iterable[str]) -> dict[str, WidthPlan]:
    """The widths of MODELs and DISTs by name. MODELs that aren't here are downloaded or converted."""
    return {name: _plan(name) for name in names}


def forecast(
    plans: Mapping[str, WidthPlan],
    models: Sequence[str],
    reference: str | None,
    text: str,
    *,
    window: int,
    max_windows: int | None,
    basics: bool = False,
) -> Forecast:
    """What `evaluate_models` will take, without tasks of lm-eval.

    Args:
        plans: The models' and the reference's widths.
        models: MODELs or DISTs.
        reference: Another, or none.
        text: The TEXT.
        window: Tokens of a window.
        max_windows: The most windows.
        basics: Whether all of the short questions are asked.
    """
    from edge_transact.inputs import read_text

    windows = max(1, len(read_text(text, "evaluation")) // CHARACTERS_PER_TOKEN // window)
    windows = min(windows, max_windows or windows)
    steps = [Step(TEXT_STEP, 0.3 * slowness())]
    if reference:
        steps += load_steps(plans[reference], reference, is_dist(reference))
    compared_s = perplexity_s(plans[reference], windows, window, is_dist(reference)) if reference else 0.0
    for name in models:
        in_library = is_dist(name)
        steps += load_steps(plans[name], name, in_library)
        own_s = perplexity_s(plans[name], windows, window, in_library)
        steps.append(Step(TOKENS_STEP, TOKENIZE_S * slowness()))
        steps.append(Step(perplexity_step(name), own_s + compared_s, kind_of("perplexity", in_library)))
        if basics or _chats(name):
            asked = questions() if basics else quick_questions()
            answered_s = answers_s(plans[name], len(asked), in_library)
            steps.append(Step(step_name(name), answered_s, kind_of("questions", in_library)))
    needed = [loaded_bytes(plans[name]) for name in models]
    kept = loaded_bytes(plans[reference]) if reference else 0
    logits = max(logits_bytes(plan, window, is_compared=reference is not None) for plan in plans.values())
    return Forecast(steps, windows * window * len(models), PACKAGES_BYTES + max(needed) + kept + logits)


def perplexity_steps(plan: WidthPlan, name: str, windows: int, window: int) -> Iterator[Step]:
    """The steps of the perplexity of a checkpoint in torch.

    Args:
        plan: Its widths.
        name: What the steps call it.
        windows: How many windows are measured.
        window: Tokens of each.
    """
    yield from load_steps(plan, name)
    yield Step(TOKENS_STEP, TOKENIZE_S * slowness())
    yield Step(perplexity_step(name), perplexity_s(plan, windows, window), "perplexity")


def load_steps(plan: WidthPlan, name: str, in_library: bool = False) -> Iterator[Step]:
    """Loading of a model. A library's weights are packed to about a seventh."""
    seconds = LOAD_S + loaded_bytes(plan) / LOAD_BYTES_PER_S * (1 / 7 if in_library else 1)
    yield Step(load_step(name), slowness() * seconds, kind_of("load", in_library))


def perplexity_s(plan: WidthPlan, windows: int, window: int, in_library: bool = False) -> float:
    """Seconds of all logits of some windows, in fp32."""
    import torch

    head = 2 * plan.hidden_size * plan.vocab_size
    flops = windows * (costs.prefill_flops(plan, window) + 1.5 * (window - 1) * head)
    speed = matmul_flops(torch.float32, torch.device("cpu"))
    return 1.2 * flops / (speed * (LIBRARY_SPEED if in_library else 1))


def answers_s(plan: WidthPlan, count: int, in_library: bool = False) -> float:
    """Seconds of the answers to some short questions."""
    import torch

    speed = matmul_flops(torch.float32, torch.device("cpu"))
    prompts = count * costs.prefill_flops(plan, OWN_TOKENS if in_library else PROMPT_TOKENS)
    if in_library:
        read = count * ANSWER_TOKENS * 0.6 * costs.parameters(plan)
        return prompts / (speed * LIBRARY_SPEED) + slowness() * read / READ_BYTES_PER_S
    rounds = -(-count // BATCH) * MAX_TOKENS
    return prompts / speed + slowness() * rounds * loaded_bytes(plan) / READ_BYTES_PER_S_IN_TORCH


def loaded_bytes(plan: WidthPlan) -> int:
    """Bytes of a model's weights in fp32."""
    return 4 * costs.parameters(plan)


def logits_bytes(plan: WidthPlan, window: int, *, is_compared: bool = False) -> int:
    """Bytes of a window's logits and of their logarithms, fp32; with a reference, of both models' and the divergence.

    Args:
        plan: The widths of a model.
        window: Tokens of a window.
        is_compared: Whether there is a reference.
    """
    return (5 if is_compared else 2) * 4 * window * plan.vocab_size


def kind_of(step: str, in_library: bool) -> str:
    """What such a step is called whatever the model; in a host library, times are others."""
    return f"{step} a library" if in_library else step


def _chats(name: str) -> bool:
    from edge_transact.inputs import resolve_model
    from edge_transact.runtime.text import TextCodec

    return TextCodec(Path(name) if is_dist(name) else resolve_model(name)).has_chat_template


def _plan(name: str) -> WidthPlan:
    from edge_transact.artifacts.manifest import Manifest
    from edge_transact.checkpoint import Checkpoint
    from edge_transact.inputs import resolve_model

    return Manifest.read(Path(name)).plan if is_dist(name) else Checkpoint.open(resolve_model(name)).plan
