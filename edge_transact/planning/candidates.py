"""What could be made of a model: its dense widths and cut ones, in each number of bits, with and without training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import provenance_of
from edge_transact.compiler.identity import require_current
from edge_transact.costs.profile import read_profile
from edge_transact.errors import UsageError
from edge_transact.inputs.models import resolve_model
from edge_transact.options import tokens_and_seconds
from edge_transact.options.written import line
from edge_transact.planning import phones
from edge_transact.planning.options import PROMPT, PlanOptions
from edge_transact.planning.quality import RECORD, UNKNOWN, Figure, healing_cpu_s, rise, weights_kind
from edge_transact.pruning.allocate.allocation import allocate
from edge_transact.pruning.options import PruneOptions
from edge_transact.quantization import QUANTIZATIONS, Quantization, default_quantization, get_quantization
from edge_transact.widths import WidthPlan


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that could be made, and what is known of it.

    Attributes:
        ratio: The share of attention and MLP parameters that is cut; 0 for the dense model.
        plan: Its widths: the dense model's, or every layer cut by the same share. `prune` spreads a cut of as many
            parameters by predicted loss.
        context: At which memory and `decode_s` are.
        decode_s: Seconds of a token, and `empty_s` with an empty cache. `prefill_s` are those of prompts, by tokens.
        rise: Of log-perplexity over the dense model in 16 bits, in nats a token.
        cpu_s: What training takes on one core; 0 without.
    """

    model: str
    ratio: float
    quantization: Quantization
    is_healed: bool
    plan: WidthPlan
    context: int
    weight_bytes: int
    memory_bytes: int
    decode_s: Figure
    empty_s: float | None
    prefill_s: Mapping[int, Figure]
    rise: Figure
    cpu_s: float

    @property
    def name(self) -> str:
        """What is done to the model, in words."""
        cut = f"cut by {self.ratio:.0%}" if self.ratio else "dense"
        return f"{cut}, {self.quantization.name}{', trained' if self.is_healed else ''}"

    def objectives(self) -> tuple[float | None, ...]:
        """What is to be small; `None` for what is unknown."""
        times = (figure.value for figure in (self.decode_s, *self.prefill_s.values()))
        return (self.rise.value, self.weight_bytes, self.memory_bytes, *times)

    def commands(self, options: PlanOptions) -> list[str]:
        """The lines that make it: `prune` within the same bytes, `heal` as it was measured, and `build`."""
        made, lines, quant = self.model, [], self.quantization.name
        if self.ratio:
            given = {"--max-memory": options.memory, "--max-weight-bytes": options.max_weight_bytes}
            limits = [word for flag, most in given.items() if most for word in (flag, int(most))]
            counted = ["--quant", quant, "--context", self.context] if limits else []
            words = ["--ratio", f"{self.ratio:g}", *limits, *counted, *RECORD["calibration"].split()]
            lines.append(line("prune", made, *words, "-o", "pruned"))
            made = "pruned"
        for recipe, output in zip(RECORD["healing"], ("trained", "healed"), strict=True) if self.is_healed else ():
            # The last training has the rounding inside.
            rounding = ["--quant", quant] if output == "healed" and self.quantization.bits else []
            teacher = [] if self.ratio else ["--teacher", self.model]
            lines.append(line("heal", made, *recipe.split(), *rounding, *teacher, "-o", output))
            made = output
        target = "host" if self.quantization.model_dtype == "float32" else "android,host"
        rounding = RECORD["rounding"].split() if self.quantization.bits and not self.is_healed else []
        words = ["--quant", quant, "--target", target, "--context", self.context, *rounding]
        return [*lines, line("build", made, *words, "-o", "dist")]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the widths that were priced."""
        values = {**vars(self), "name": self.name, "quantization": self.quantization.name}
        del values["plan"]
        figures = {name: asdict(values[name]) for name in ("decode_s", "rise")}
        prefill = {str(tokens): asdict(figure) for tokens, figure in self.prefill_s.items()}
        return {**values, **figures, "prefill_s": prefill, "widths": self.plan.to_list()}


class Times:
    """The times of plans, by profiles or a phone's roofline; a `UsageError` for a profile of another machine."""

    def __init__(self, options: PlanOptions) -> None:
        self.options = options
        self.profiles = {profile.quantization: profile for profile in map(read_profile, options.profile)}
        for profile in self.profiles.values():
            require_current(profile)

    def check(self, source: Source) -> None:
        """Raises the `UsageError` for a model, a context or quantizations that the profiles weren't measured for."""
        for name, profile in self.profiles.items():
            asked = self.options.quant or [name]
            name = name if set(asked) & set(self.profiles) else asked[0]
            profile.check(source.plan, name, [source.context, *source.prompts])

    def quantizations(self) -> list[Quantization]:
        """Those that were asked for, or one of each number of bits: as profiled, or else as the target prefers."""
        if self.options.quant:
            return [get_quantization(name) for name in dict.fromkeys(self.options.quant)]
        target = next((profile.target for profile in self.profiles.values()), "android")
        best = get_quantization(default_quantization([target]))

        def fits(each: Quantization) -> tuple[bool, ...]:
            alike = (getattr(each, name) == getattr(best, name) for name in ("model_dtype", "linear_layout"))
            return (each.name in self.profiles, *alike)

        return list({weights_kind(each): each for each in sorted(QUANTIZATIONS.values(), key=fits)}.values())

    def of(
        self, plan: WidthPlan, source: Source, quantization: Quantization
    ) -> tuple[Figure, float | None, dict[int, Figure]]:
        """Seconds of a decoded token, the same with an empty cache, and of prompts by their tokens."""
        context, prompts = source.context, source.prompts
        if self.options.phone:
            phone = phones.PHONES[self.options.phone]
            slow, fast = phones.rooflines(phone, source.plan, quantization, sorted({context, *prompts}))
            note = "{:.0%} to {:.0%} of {} GB/s".format(*phones.shares(), phone.bandwidth_gb_s)
            decode = Figure(slow.decode_s(plan, context), "rule of thumb", note, fast.decode_s(plan, context))
            prefill = dict.fromkeys(prompts, Figure(None, UNKNOWN, f"no prefill on {phone.chip} was found published"))
            if row := phones.prefill_of(phone):
                note = f"as fast as {row.program} on its CPU ({row.source})"
                prefill = {n: Figure(slow.prefill_s(plan, n), "rule of thumb", note) for n in prompts}
            return decode, slow.decode_s(plan, 0), prefill
        if profile := self.profiles.get(quantization.name):
            note = f"by the profile of {profile.device.get('name')}"
            prefill = {n: Figure(profile.prefill_s(plan, n), "predicted", note) for n in prompts}
            return Figure(profile.decode_s(plan, context), "predicted", note), profile.decode_s(plan, 0), prefill
        what = f"no profile of {quantization.name}" if self.profiles else "no device: give --profile or --phone"
        return Figure(None, UNKNOWN, what), None, dict.fromkeys(prompts, Figure(None, UNKNOWN, what))


@dataclass(frozen=True)
class Source:
    """A model whose candidates are listed; `is_dense` unless it was pruned or trained here."""

    model: str
    plan: WidthPlan
    is_dense: bool
    context: int
    prompts: tuple[int, ...]

    @classmethod
    def of(cls, model: str, options: PlanOptions) -> Source:
        """Raises an `EdgeTransactError` if there is no such model, and a `UsageError` for too long a prompt."""
        checkpoint = Checkpoint.open(resolve_model(model))
        most = int(checkpoint.config.get("max_position_embeddings") or 1 << 30)
        context = options.context or min(costs.DEFAULT_CONTEXT, most)
        limited = [tokens_and_seconds(options.max_prefill)[0]] if options.max_prefill else []
        prompts = sorted({*(options.prompts or ([] if limited else [min(PROMPT, context)])), *limited})
        for tokens, allowed, what in ((context, most, "the model's maximum"), (prompts[-1], context, "the context")):
            if tokens > allowed:
                raise UsageError(f"{model}: {tokens:,} tokens are more than {what}, {allowed:,}", fix="Give fewer.")
        return cls(model, checkpoint.plan, not provenance_of(checkpoint.path), context, tuple(prompts))

    @cache  # noqa: B019
    def cut(self, ratio: float) -> WidthPlan | None:
        """The widths with this share of attention and MLP removed; `None` if rounding or the units don't allow it."""
        try:
            return allocate(PruneOptions(ratio=ratio, allocation="uniform"), self.plan).plan if ratio else self.plan
        except UsageError:
            return None

    def candidates(self, ratios: Iterable[float], quantization: Quantization, times: Times) -> Iterator[Candidate]:
        """A candidate for each ratio that can be cut, and one that is trained."""
        for ratio in ratios:
            if (plan := self.cut(ratio)) is None:
                continue
            seconds = times.of(plan, self, quantization)
            sizes = (costs.weight_bytes(plan, quantization), costs.memory_bytes(plan, quantization, self.context))
            for healed in (False, True) if times.options.heal and (ratio or quantization.bits) else (False,):
                quality = rise(self.plan, self.is_dense, ratio, quantization, healed)
                cpu_s = healing_cpu_s(plan, self.plan) if healed else 0.0
                known = (*sizes, *seconds, quality, cpu_s)
                yield Candidate(self.model, ratio, quantization, healed, plan, self.context, *known)
