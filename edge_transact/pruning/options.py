"""Pruning's options: how small, how what stays is chosen, and on which text."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from edge_transact import costs
from edge_transact.errors import UsageError
from edge_transact.healing.options import TrainOptions
from edge_transact.layerwise.options import CalibrationOptions
from edge_transact.options import (
    COMMAS,
    Bytes,
    Count,
    OneOf,
    Option,
    Options,
    Parameters,
    Seconds,
    Share,
    TokensAndTime,
)
from edge_transact.pruning.units import UNITS
from edge_transact.quantization import QUANTIZATIONS, default_quantization
from edge_transact.runtimes import RUNTIMES

if TYPE_CHECKING:
    from edge_transact.pruning.score.methods.scorer import Scorer

LIMITS, WIDTHS, HOW = "Limits, which can be combined", "Widths, instead of limits", "Method"
SEARCH = "Search for better widths"
"""Panels of ``prune --help``."""

BUDGETS = (
    ("ratio", "target_params", "max_weight_bytes", "max_kv_bytes_per_token", "max_memory", "max_decode", "max_prefill"),
    ("widths",),
    ("heads", "intermediate"),
)
"""The options that say how small. Those of one tuple can be combined; those of two exclude each other."""

BUDGET_KEYS = tuple(key for keys in BUDGETS for key in keys)

EXECUTORS = ("processes", "ray")
"""Where searches compare plans: in processes of this machine, or through Ray on several machines."""

METHODS = {
    "obs": "obs.Obs",
    "transact": "transact.Transact",
    "llm-pruner": "llm_pruner.LlmPruner",
    "wanda": "wanda.Wanda",
    "flap": "flap.Flap",
    "magnitude": "magnitude.Magnitude",
    "random": "random_scores.Random",
}
"""The module in `score.methods` and the class of each method: the command line offers names without importing torch."""

ALLOCATIONS = ("uniform", "sensitivity", "budgeted")
"""How limits are spread: the same share of every layer; by measured sensitivity over the MLPs of all layers; or by
predicted loss over units and layers."""


class Budget(Options):
    """How small a model should become: limits, or widths by name."""

    ratio: Annotated[
        Share | None, Option("Share of attention and MLP parameters to remove.", LIMITS, example="30%")
    ] = None
    target_params: Annotated[Parameters | None, Option("Parameters to keep.", LIMITS, example="1.3B")] = None
    max_weight_bytes: Annotated[Bytes | None, Option("Maximum size of all weights.", LIMITS, example="600MB")] = None
    max_kv_bytes_per_token: Annotated[
        Bytes | None, Option("Maximum size of one token in the KV cache.", LIMITS, example="12k")
    ] = None
    max_memory: Annotated[
        Bytes | None, Option("Maximum size of weights, KV cache and workspace together.", LIMITS, example="1.5GiB")
    ] = None
    max_decode: Annotated[
        Seconds | None, Option("Maximum time of one decoded token, by the profile.", LIMITS, example="12ms")
    ] = None
    max_prefill: Annotated[
        TokensAndTime | None,
        Option("Maximum time of the prefill of so many tokens, by the profile.", LIMITS, example="256:1.5s"),
    ] = None
    profile: Annotated[
        Annotated[Path, Field(strict=False)] | None,
        Option("Profile that predicts times, as edge-transact profile writes it.", LIMITS, example="phone.json"),
    ] = None
    widths: Annotated[
        Annotated[Path, Field(strict=False)] | None,
        Option("JSON file with the widths of every layer, as --json prints them.", WIDTHS, example="widths.json"),
    ] = None
    heads: Annotated[Count | None, Option("Query heads per layer, in complete KV groups.", WIDTHS, example=6)] = None
    intermediate: Annotated[Count | None, Option("MLP dims per layer.", WIDTHS, example=1536)] = None

    def budgets(self) -> list[tuple[str, ...]]:
        """The entries of `BUDGETS` of which something is given."""
        return [keys for keys in BUDGETS if any(getattr(self, key) is not None for key in keys)]


class PruneChoices(CalibrationOptions, Budget):
    """What can be chosen about pruning, each with its default; `PruneOptions` also wants a budget.

    Bytes are counted in the quantization and for the context of the build that they are chosen for.
    """

    method: Annotated[Annotated[str, OneOf(tuple(METHODS))], Option("How units are scored: {choices}.", HOW)] = "obs"
    allocation: Annotated[
        Annotated[str, OneOf(ALLOCATIONS)] | None,
        Option(
            "How limits are spread over layers and units: {choices}.",
            HOW,
            default="budgeted with the method obs, else uniform",
            example="budgeted",
        ),
    ] = None
    units: Annotated[
        list[Annotated[str, OneOf(tuple(UNITS))]],
        COMMAS,
        Option(
            "What limits may cut: {choices}; comma-separated.",
            HOW,
            default="depends on the allocation",
            example=["mlp", "groups"],
        ),
    ] = Field([])
    compensate: Annotated[
        bool | None,
        Option(
            "Solve o_proj and down_proj again by least squares, to make up for what was cut.",
            HOW,
            flags=("--compensate/--no-compensate",),
            default="only with the method obs",
            example=True,
        ),
    ] = None
    drop: Annotated[
        bool | None,
        Option(
            "Let layers lose their attention or their MLP whole.",
            HOW,
            flags=("--drop/--no-drop",),
            default="only with the allocation budgeted",
            example=False,
        ),
    ] = None
    bucket: Annotated[Count, Option("Round MLP widths that follow from limits to multiples of this.", HOW)] = 32
    runtime: Annotated[
        Annotated[str, OneOf(tuple(RUNTIMES))] | None,
        Option(
            "Cut only what this runtime can load: {choices}.", HOW, flags=("--for",), default="mlc", example="llama.cpp"
        ),
    ] = None
    shots: Annotated[Count, Field(le=100), Option("Number of pruning steps; each scores the model again.", HOW)] = 1
    search: Annotated[
        bool, Option("Let plans evolve from the allocation's, by their predictions on more calibration text.", SEARCH)
    ] = False
    search_generations: Annotated[Count, Field(le=10_000), Option("Generations of plans.", SEARCH)] = 32
    search_tokens: Annotated[
        Count, Option("Tokens on which plans are compared, a quarter of them only at the end.", SEARCH)
    ] = 16384
    search_on: Annotated[
        Annotated[str, OneOf(EXECUTORS)],
        Option("Where plans are compared: {choices}; ray uses the machines of RAY_ADDRESS.", SEARCH),
    ] = "processes"

    def counted(self, quant: str, context: int) -> PruneOptions:
        """The same choices as options that count bytes in this quantization and for this context.

        Raises:
            UsageError: There is no budget, or there are several.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set & PruneChoices.model_fields.keys()}
        return PruneOptions(**given, quant=quant, context=context)


class ShotTraining(TrainOptions):
    """How the model is trained after each shot; without a text, it isn't, and options raise `UsageError`."""

    @model_validator(mode="after")
    def _has_a_text(self) -> ShotTraining:
        others = sorted(self.model_fields_set & TrainOptions.model_fields.keys() - {"train"})
        if others and self.train is None:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
            raise UsageError(f"{flags}, but nothing is trained", fix="Give the text to train on with --train.")
        return self


class PruneOptions(PruneChoices):
    """The options of one pruning, with exactly one budget.

    Raises:
        UsageError: There is no budget or more than one, or a value is out of range.
    """

    quant: Annotated[
        Annotated[str, OneOf(tuple(QUANTIZATIONS), "quantization")],
        Option("Quantization in which limits count bytes: {choices}.", LIMITS),
    ] = default_quantization(["android"])
    context: Annotated[Count, Option("Tokens in the KV cache that --max-memory and --max-decode count.", LIMITS)] = (
        costs.DEFAULT_CONTEXT
    )

    @model_validator(mode="after")
    def _one_budget(self) -> PruneOptions:
        budgets = self.budgets()
        if not budgets:
            raise UsageError(
                "no budget: how small should the model be?",
                fix="Give --ratio, --target-params, another limit, --widths, or --heads with --intermediate.",
            )
        if len(budgets) > 1:
            limits = [f"--{key.replace('_', '-')}" for key in BUDGETS[0] if getattr(self, key) is not None]
            names = {BUDGETS[1]: "--widths", BUDGETS[2]: "--heads/--intermediate"}
            raise UsageError(
                f"several budgets at once: {', '.join(limits + [names[keys] for keys in budgets if keys in names])}",
                fix="Limits can be combined; --widths, or --heads with --intermediate, stand alone.",
            )
        has_times = self.max_decode is not None or self.max_prefill is not None
        if has_times != (self.profile is not None):
            named, missing = ("--max-decode or --max-prefill", "--profile")[:: 1 if has_times else -1]
            raise UsageError(f"{named} without {missing}", fix="Give both: times are predicted from a profile.")
        if self.search and budgets[0] != BUDGETS[0]:
            raise UsageError("--search where the widths are named", fix="Give a limit, such as --ratio 30%.")
        return self

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on, as JSON values by option.

        `quant` and `context` are left out where no limit depends on them, so that builds share a pruned model.
        """
        unused = {"search_on"} | ({"context"} if self.max_memory is None and self.max_decode is None else set())
        if not self.search:
            unused |= {"search", "search_generations", "search_tokens"}
        if self.runtime is None:
            unused.add("runtime")
        if all(value is None for value in (self.max_weight_bytes, self.max_kv_bytes_per_token, self.max_memory)):
            unused |= {"quant"} if self.profile is None else set()
        return self.model_dump(mode="json", exclude=unused)

    def provenance(self) -> dict[str, Any]:
        """The options as ``edge_transact.json`` records them: the budget as an object without what wasn't asked for.

        A record of the text that was read takes the place of the calibration's options.
        """
        values = self.identity()
        budget = {key: values.pop(key) for key in (*BUDGET_KEYS, "profile", "quant", "context") if key in values}
        for key in ("calibration_tokens", "calibration_window", "packing"):
            del values[key]
        return {
            "method": values.pop("method"),
            "budget": {key: value for key, value in budget.items() if value is not None},
            **values,
        }


def find_method(name: str) -> type[Scorer]:
    module, _, method = METHODS[name].partition(".")
    scorer: type[Scorer] = getattr(import_module(f"edge_transact.pruning.score.methods.{module}"), method)
    return scorer
