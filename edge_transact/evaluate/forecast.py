"""What an evaluation will take on this machine: its steps, their time and its memory, from formulas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edge_transact import costs
from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.evaluate.answers.answering import MAX_TOKENS
from edge_transact.evaluate.answers.collapse import step_name
from edge_transact.evaluate.answers.decoding import BATCH
from edge_transact.evaluate.answers.questions import questions, quick_questions
from edge_transact.evaluate.models import TEXT_STEP, load_step
from edge_transact.evaluate.perplexity import perplexity_step
from edge_transact.progress import Forecast, Step
from edge_transact.system.memory import PACKAGES_BYTES
from edge_transact.system.speed import matmul_flops, slowness
from edge_transact.widths import WidthPlan

LOAD_S = 0.5
"""Seconds until a model's classes and its tokenizer are loaded, besides its weights, where `slowness` is 1."""

LOAD_BYTES_PER_S = 1e9

CHARACTERS_PER_TOKEN = 4

PROMPT_TOKENS, ANSWER_TOKENS = 40, 24
"""Of a short question, the chat template included, and of its answer."""

READ_BYTES_PER_S = 8e9
"""Bytes of weights that decoding reads in a second, where `slowness` is 1."""

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
    steps = [Step(TEXT_STEP, slowness())]
    if reference:
        steps += load_steps(plans[reference], reference)
    compared_s = perplexity_s(plans[reference], windows, window, _is_dist(reference)) if reference else 0.0
    for name in models:
        steps += load_steps(plans[name], name)
        own_s = perplexity_s(plans[name], windows, window, _is_dist(name))
        steps.append(Step(perplexity_step(name), own_s + compared_s, _kind("perplexity", name)))
        if basics or _chats(name):
            asked = questions() if basics else quick_questions()
            answered_s = answers_s(plans[name], len(asked), _is_dist(name))
            steps.append(Step(step_name(name), answered_s, _kind("questions", name)))
    needed = [loaded_bytes(plans[name]) for name in models]
    kept = loaded_bytes(plans[reference]) if reference else 0
    logits = 4 * window * max(plan.vocab_size for plan in plans.values()) * 4
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
    yield Step(perplexity_step(name), perplexity_s(plan, windows, window), "perplexity")


def load_steps(plan: WidthPlan, name: str) -> Iterator[Step]:
    """Loading of a model."""
    yield Step(load_step(name), slowness() * (LOAD_S + loaded_bytes(plan) / LOAD_BYTES_PER_S), _kind("load", name))


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
    prompts = count * costs.prefill_flops(plan, PROMPT_TOKENS)
    decoded = count * ANSWER_TOKENS * 2 * costs.parameters(plan)
    if in_library:
        read = count * ANSWER_TOKENS * 0.6 * costs.parameters(plan)
        return prompts / (speed * LIBRARY_SPEED) + slowness() * read / READ_BYTES_PER_S
    rounds = -(-count // BATCH) * MAX_TOKENS
    return (prompts + decoded) / speed + slowness() * rounds * loaded_bytes(plan) / READ_BYTES_PER_S


def loaded_bytes(plan: WidthPlan) -> int:
    """Bytes of a model's weights in fp32."""
    return 4 * costs.parameters(plan)


def _kind(step: str, name: str) -> str:
    return f"{step} a library" if _is_dist(name) else step


def _is_dist(name: str | None) -> bool:
    return name is not None and (Path(name) / MANIFEST).is_file()


def _chats(name: str) -> bool:
    from edge_transact.inputs import resolve_model
    from edge_transact.runtime.text import TextCodec

    return TextCodec(Path(name) if _is_dist(name) else resolve_model(name)).has_chat_template


def _plan(name: str) -> WidthPlan:
    from edge_transact.artifacts.manifest import Manifest
    from edge_transact.checkpoint import Checkpoint
    from edge_transact.inputs import resolve_model

    return Manifest.read(Path(name)).plan if _is_dist(name) else Checkpoint.open(resolve_model(name)).plan
