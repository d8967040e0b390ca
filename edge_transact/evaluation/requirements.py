"""What an evaluation does and needs: its steps and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edge_transact.artifacts.dist_files import TOKENIZER_FILES
from edge_transact.artifacts.manifest import Manifest
from edge_transact.costs import Requirements
from edge_transact.costs.memory import PACKAGES_BYTES, logits_bytes, model_bytes
from edge_transact.evaluation.answers.collapse import step_name
from edge_transact.evaluation.models import TEXT_STEP, checkpoint_of, is_dist, load_step
from edge_transact.evaluation.options import EvalOptions
from edge_transact.evaluation.perplexity import TOKENS_STEP, perplexity_step
from edge_transact.widths import WidthPlan

CHARACTERS_PER_TOKEN = 4


def plans_of(names: Iterable[str]) -> dict[str, WidthPlan]:
    """The widths of MODELs and DISTs by name, whose tokenizers are intact. MODELs are downloaded or converted."""
    return {name: _dist(Path(name)).plan if is_dist(name) else checkpoint_of(name).plan for name in names}


def _dist(path: Path) -> Manifest:
    manifest = Manifest.read(path)
    manifest.verify(path, *TOKENIZER_FILES)
    return manifest


def requirements(
    plans: Mapping[str, WidthPlan], models: Sequence[str], options: EvalOptions, window: int
) -> Requirements:
    """What `evaluate_models` does and needs, without tasks of lm-eval."""
    from edge_transact.inputs import read_text

    reference = options.reference
    text = read_text(options.text, "evaluation", options.max_windows and options.max_windows * window)
    windows = max(1, len(text) // CHARACTERS_PER_TOKEN // window)
    windows = min(windows, options.max_windows or windows)
    steps = [TEXT_STEP, *([load_step(reference)] if reference else [])]
    for name in models:
        steps += [*perplexity_steps(name), *([step_name(name)] if options.basics or _chats(name) else [])]
    needed = PACKAGES_BYTES + max(model_bytes(plans[name]) for name in models)
    needed += model_bytes(plans[reference]) if reference else 0
    needed += max(logits_bytes(plan, window, is_compared=reference is not None) for plan in plans.values())
    return Requirements(steps, windows * window * len(models), needed, 0)


def perplexity_steps(name: str) -> list[str]:
    """The steps of the perplexity of a model."""
    return [load_step(name), TOKENS_STEP, perplexity_step(name)]


def _chats(name: str) -> bool:
    from edge_transact.runtime.text import TextCodec

    return TextCodec(Path(name) if is_dist(name) else checkpoint_of(name).path).has_chat_template
