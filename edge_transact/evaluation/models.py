"""Perplexity and tasks of checkpoints in transformers, and of DISTs in their host libraries."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired

from edge_transact import cache, costs
from edge_transact.artifacts.digests import files_digest, text_digest
from edge_transact.artifacts.dist_files import CHAT_CONFIG, MANIFEST
from edge_transact.artifacts.manifest import Manifest
from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.cache.keys import code_of
from edge_transact.cache.resume import Start, journal_of
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.evaluation.answers.basics import AnswerRow, ask
from edge_transact.evaluation.answers.basics import scores as basics_scores
from edge_transact.evaluation.answers.collapse import CollapseFigures, figures_of, step_name
from edge_transact.evaluation.answers.questions import QUESTIONS, quick_questions
from edge_transact.evaluation.options import BASICS, EvalOptions
from edge_transact.evaluation.perplexity import LogitsFunction, Perplexity, perplexity, perplexity_step
from edge_transact.progress import working
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.reading import read_json, read_object
from edge_transact.system.memory import trim

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from edge_transact.cache.journal import Journal
    from edge_transact.checkpoint import Checkpoint
    from edge_transact.evaluation.tasks import Scores, Tasks
    from edge_transact.runtime.host import HostModel
    from edge_transact.runtime.text import TextCodec

logger = logging.getLogger(__name__)


WINDOW = 512
"""Tokens of a window, unless a model's context is shorter."""

REPORT_TEXT, REPORT_WINDOWS = "demo:sotu", 6
"""The text of whose evaluation part reports measure so many windows. Calibration doesn't read that part."""

REPORT_TEXTS = {REPORT_TEXT: "speeches", "demo:docs": "documentation", "demo:code": "Python code"}
"""The texts on which a pruning's report measures, and what they are: a cut costs some kinds several times the others"""

TEXT_STEP = "read the text and the models' files"


def load_step(model: str) -> str:
    return f"load {Path(model).name}"


class Evaluation(Perplexity):
    """The object that ``eval --json`` prints for a model: its perplexity, and its scores by task.

    `threads` are those that the model was computed on. `weights_bytes` are a DIST's shards, or a checkpoint in 16 bits.
    ``degenerate`` is there if the model has a chat template that takes the questions, and ``answers`` if the task
    ``basics`` was asked for.
    """

    model: str
    text: str
    threads: int
    weights_bytes: NotRequired[int]
    reference: NotRequired[str]
    tasks: Scores
    degenerate: NotRequired[CollapseFigures]
    answers: NotRequired[list[AnswerRow]]


def window_of(models: Sequence[str], window: int | None) -> int:
    """Tokens of a window for these models: what was asked for, or else 512 or the models' smallest context.

    Raises:
        UsageError: The window is longer than a DIST's context, which its library can't compute.
    """
    contexts = {name: _context(name) for name in models}
    if window is None:
        return min(WINDOW, *filter(None, contexts.values()), WINDOW)
    for name, context in contexts.items():
        if context and context < window and is_dist(name):
            raise UsageError(
                f"--window {window} is longer than the context of {name}: {context} tokens",
                fix=f"Give --window {context}, or build it with a larger --context.",
            )
    return window


def is_dist(name: str) -> bool:
    return (Path(name) / MANIFEST).is_file()


def checkpoint_of(name: str) -> Checkpoint:
    from edge_transact.checkpoint import Checkpoint
    from edge_transact.inputs import resolve_model

    return Checkpoint.open(resolve_model(name))


def _context(name: str) -> int | None:
    """The context of a MODEL or DIST in tokens, if its configuration says it."""
    if is_dist(name):
        return Manifest.read(Path(name)).context_window_size
    return checkpoint_of(name).config.get("max_position_embeddings")


def evaluate_models(
    models: Sequence[str],
    options: EvalOptions,
    window: int = WINDOW,
    *,
    tasks: Tasks | None = None,
    fresh: bool = False,
) -> list[Evaluation]:
    """Evaluates models. Returns the objects that ``eval --json`` prints, one per model.

    Windows and tasks that an interrupted run with the same arguments has measured aren't measured again.

    `window` is that of `window_of`, and `tasks` are those of the options, loaded. The reference stays in memory.

    Raises:
        EdgeTransactError: A model or the text can't be read, the text is shorter than a window, or the reference has
            another vocabulary.
    """
    import torch

    from edge_transact.inputs import read_text

    reference, max_windows, threads = options.reference, options.max_windows, options.threads
    with working(TEXT_STEP):
        document = read_text(options.text, "evaluation", max_windows and max_windows * window)
        ingredients = {
            "models": [_digest(model) for model in (*models, *([reference] if reference else []))],
            "text": text_digest(document),
            "window": window,
            "max_windows": max_windows,
            "reference": reference,
            "tasks": tasks and tasks.to_dict(),
            "code": code_of(evaluate_models, *([type(tasks)] if tasks else ())),
            **{package: version(package) for package in ("apache-tvm", "torch", "transformers")},
        }
    results: list[Evaluation] = []
    with journal_of(f"eval {' '.join(models)}", ingredients, Start.of(fresh=fresh)) as journal:
        if threads:
            torch.set_num_threads(threads)
        compared_with = load(reference, threads)[0] if reference else None
        for number, name in enumerate(models, start=1):
            logger.debug(f"{name} on {options.text}")
            model, codec = load(name, threads)
            result = perplexity(
                _network(model),
                codec.tokenizer,
                document,
                window=window,
                max_windows=max_windows,
                reference=None if compared_with is None else _network(compared_with),
                journal=journal,
                name=f"model {number} window",
                step=perplexity_step(name),
            )
            scores: Scores = {}
            if (tasks or options.basics) and getattr(model, "max_batch_size", None) == 1:
                logger.info(f"{name} answers one question at a time; built with `--max-batch 4`, it would answer four")
            if tasks:
                logger.info(f"{name} on tasks")
                if (group := f"model {number} tasks") not in journal:
                    journal.note(group, tasks.scores(model, codec.tokenizer))
                scores = journal.noted(group)
            rows = _answers(model, codec, journal, f"model {number} answers", name) if options.basics else []
            if options.basics:
                scores = {BASICS: basics_scores(rows)} | scores
                figures = figures_of(rows) if codec.has_chat_template else None
            else:
                figures = unusable_answers(name, (model, codec))
            evaluation = Evaluation(
                model=name,
                text=options.text,
                **result,
                threads=getattr(model, "threads", torch.get_num_threads()),
                weights_bytes=_weights_bytes(name),
                tasks=scores,
            )
            if reference:
                evaluation["reference"] = reference
            if figures:
                evaluation["degenerate"] = figures
            if options.basics:
                evaluation["answers"] = rows
            results.append(evaluation)
            del model  # the next one needs the memory
            trim()
    if len({result["text_tokens"] for result in results}) > 1:
        counts = ", ".join(f"{result['text_tokens']:,} for {result['model']}" for result in results)
        logger.warning(f"perplexities of different tokenizers don't compare: the text's tokens are {counts}")
    return results


def evaluate_model(model: str, document: str, *, window: int = 512, max_windows: int | None = None) -> Perplexity:
    """The perplexity of a MODEL in float32, or of a DIST in the dtype of its host library."""
    (found,) = evaluate_documents(model, [document], window=window, max_windows=max_windows)
    return found


def evaluate_documents(
    model: str, documents: Iterable[str], *, window: int = 512, max_windows: int | None = None
) -> list[Perplexity]:
    """`evaluate_model` for several documents."""
    network, codec = load(model)
    each = partial(
        perplexity,
        _network(network),
        codec.tokenizer,
        window=window,
        max_windows=max_windows,
        step=perplexity_step(model),
    )
    return [each(document) for document in documents]


def prepare_report(directory: Path, *, force: bool, apart_from: Iterable[str | Path | None]) -> str:
    """Checks before the work that a report can be written. Returns the text to measure on.

    Raises:
        UsageError: The report would replace one of `apart_from`, the work's own inputs and outputs.
        EdgeTransactError: `directory` exists, or the text can't be read.
    """
    from edge_transact.inputs import read_text

    refuse_existing(directory, force, apart_from=apart_from)
    return read_text(REPORT_TEXT, "evaluation")


def _answers(
    model: PreTrainedModel | HostModel, codec: TextCodec, journal: Journal, group: str, name: str
) -> list[AnswerRow]:
    """A model's answers to all questions, from the journal if it has them."""
    if group not in journal:
        journal.note(group, ask(model, codec, QUESTIONS, step=step_name(name)))
    kept: list[AnswerRow] = journal.noted(group)
    return kept


def unusable_answers(
    model: str, loaded: tuple[PreTrainedModel | HostModel, TextCodec] | None = None
) -> CollapseFigures | None:
    """The figures of a MODEL's or DIST's answers to the dozen questions; `None` if it has no chat template for them.

    A model is asked once: its answers stay in the cache. `loaded` is what `load` returned of it.
    """
    from edge_transact.runtime.text import TextCodec

    if not TextCodec(Path(model) if is_dist(model) else checkpoint_of(model).path).has_chat_template:
        return None

    def make(content: Path) -> None:
        network, codec = loaded or load(model)
        (content / "answers.json").write_text(json.dumps(ask(network, codec, quick_questions(), step=step_name(model))))

    ingredients = {
        "model": _digest(model),
        "code": code_of(ask),
        **{package: version(package) for package in ("apache-tvm", "torch", "transformers")},
    }
    recipe = cache.Recipe("answers", f"answers of {Path(model).name}", ingredients, make, is_step=False)
    try:
        return figures_of(read_json(cache.made(recipe) / "answers.json"))
    except EdgeTransactError as error:  # a template that takes no such message, or a window that is too short
        logger.info(f"no questions to {model}: {error.message}")
        return None


def _weights_bytes(model: str) -> int:
    """The bytes of a DIST's shards, or of a checkpoint's weights in 16 bits."""
    if is_dist(model):
        return Manifest.read(Path(model)).weights_bytes
    return costs.weight_bytes(checkpoint_of(model).plan, QUANTIZATIONS["q0f16"])


def _digest(model: str) -> str:
    """A digest of everything that a MODEL's or a DIST's predictions depend on."""
    from edge_transact.checkpoint.writer import COPIED_FILES

    if is_dist(model):
        # The manifest has the digests of all files, and people may edit the configuration.
        return files_digest([Path(model) / MANIFEST, Path(model) / CHAT_CONFIG])
    read_object(checkpoint_of(model).path / "generation_config.json", optional=True)  # transformers reads all of it
    return checkpoint_of(model).digest(*COPIED_FILES)


def load(model: str, threads: int | None = None) -> tuple[PreTrainedModel | HostModel, TextCodec]:
    """The network of a MODEL in fp32, or the host library of a DIST, and its tokenizer."""
    from edge_transact.runtime.text import TextCodec

    with working(load_step(model)):
        if is_dist(model):
            from edge_transact.runtime.host import HostModel

            library, codec = HostModel.load(Path(model), threads=threads), TextCodec(Path(model))
            codec.check_chats()
            return library, codec

        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        from edge_transact.checkpoint.auto_classes import register

        register()
        directory = checkpoint_of(model).path
        codec = TextCodec(directory)
        codec.check_chats()
        disable_progress_bar()  # ours names what is loaded
        try:
            network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        except Exception as error:  # of config.json's fields that are transformers' own
            raise EdgeTransactError(
                f"transformers can't load {directory}: {error}", fix="Correct its config.json."
            ) from error
        network.get_input_embeddings().register_forward_pre_hook(_check_tokens)
        return network, codec


def _network(model: PreTrainedModel | HostModel) -> PreTrainedModel | LogitsFunction:
    from edge_transact.runtime.host import HostModel

    return model.window_logits if isinstance(model, HostModel) else model


def _check_tokens(embedding: torch.nn.Embedding, inputs: tuple[torch.Tensor, ...]) -> None:
    if (most := int(inputs[0].max())) >= embedding.num_embeddings:
        raise EdgeTransactError(
            f"the tokenizer makes token {most}, the model's vocabulary has {embedding.num_embeddings}",
            fix="Use the tokenizer that belongs to the model.",
        )
