"""The costs of a model or a DIST, computed from its configuration without loading weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edge_transact import costs
from edge_transact.artifacts.manifest import MANIFEST, Manifest
from edge_transact.artifacts.outputs import new_file
from edge_transact.artifacts.summary import Summarized, Summary, summary_of_widths
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.reader import read_plan
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.formatting import megabytes
from edge_transact.inputs.models import resolve_model
from edge_transact.options import COMMAS, Count, OneOf, Option, Options
from edge_transact.quantization import QUANTIZATIONS, Quantization, default_quantization, get_quantization
from edge_transact.reading import user_path
from edge_transact.runtimes import misfits
from edge_transact.widths import WidthPlan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class InspectOptions(Options):
    """What the costs are computed for."""

    context: Annotated[Count | None, Option("Tokens in the context.", default="2048, or the DIST's", example=2048)] = (
        None
    )
    quant: Annotated[
        Annotated[str, OneOf(tuple(QUANTIZATIONS), "quantization")] | None,
        Option("Quantization in which bytes are counted: {choices}.", default="q4f16_0, or the DIST's"),
    ] = None
    contexts: Annotated[
        list[Annotated[int, Field(strict=False, ge=1)]],
        COMMAS,
        Option("Also compute FLOPs and memory for these contexts.", metavar="N[,N]", example="128,512,2048"),
    ] = Field([])


@dataclass(frozen=True, repr=False)
class Inspection(Summarized):
    """The costs of one model.

    Attributes:
        quantization: A DIST's own quantization, or the one that a build would use.
    """

    model: str
    plan: WidthPlan
    quantization: Quantization
    context: int
    prefill_chunk: int
    max_batch: int
    contexts: tuple[int, ...] = ()

    def at(self, context: int) -> dict[str, int]:
        """FLOPs and memory at a context of `context` tokens."""
        kv = costs.engine_kv_bytes(self.plan, self.quantization, context, self.max_batch)
        workspace = costs.workspace_bytes(
            self.plan, self.quantization, min(self.prefill_chunk, context), self.max_batch
        )
        return {
            "context": context,
            "prefill_flops": costs.prefill_flops(self.plan, context),
            "decode_flops": costs.decode_flops(self.plan, context),
            "kv_bytes": kv,
            "workspace_bytes": workspace,
            "memory_bytes": costs.memory_bytes(
                self.plan, self.quantization, context, self.prefill_chunk, self.max_batch
            ),
        }

    def summary(self) -> Summary:
        """The costs in a context, and the widths."""
        at = self.at(self.context)
        facts = {
            "parameters": f"{costs.parameters(self.plan):,}",
            "weights": f"{megabytes(costs.weight_bytes(self.plan, self.quantization))} in {self.quantization.name}",
            "memory": f"{megabytes(at['memory_bytes'])} with {self.context:,} tokens",
            "KV cache": f"{costs.kv_bytes_per_token(self.plan, self.quantization):,} bytes a token",
            "decode": f"{at['decode_flops'] / 1e9:,.3f} GFLOPs a token",
        }
        return summary_of_widths(self.model, self.plan, facts=facts)

    def to_dict(self) -> dict[str, object]:
        """The object that ``inspect --json`` prints for one model.

        ``runtimes`` has `None` for each runtime that loads the model, and for others why they don't.
        """
        at = self.at(self.context)
        parameters = costs.parameters(self.plan)
        weights_bytes = costs.weight_bytes(self.plan, self.quantization)
        return {
            "model": self.model,
            "parameters": parameters,
            "quantization": self.quantization.name,
            "weights_bytes": weights_bytes,
            "bits_per_parameter": 8 * weights_bytes / parameters,
            "flops_per_token": at.pop("decode_flops"),
            **at,
            "kv_bytes_per_token": costs.kv_bytes_per_token(self.plan, self.quantization),
            "kv_padding_bytes_per_token": costs.kv_padding_bytes_per_token(self.plan, self.quantization),
            "attention_launches_per_token": self.plan.num_virtual_layers,
            "runtimes": misfits(self.plan),
            "widths": self.plan.to_list(),
            **({"contexts": [self.at(tokens) for tokens in self.contexts]} if self.contexts else {}),
        }


def inspect_model(model: str, options: InspectOptions) -> Inspection:
    """The costs of a MODEL or a DIST. By default, the context is the DIST's, or 2048 or what the model allows.

    A `UsageError` if the quantization isn't that of the DIST, an `EdgeTransactError` if there is no such model.
    """
    contexts = tuple(sorted(set(options.contexts)))
    if (Path(model) / MANIFEST).is_file():
        manifest = Manifest.read(Path(model))
        if options.quant not in (None, manifest.quantization):
            raise UsageError(
                f"{model} was built as {manifest.quantization}, not {options.quant}",
                fix="Leave out --quant, or inspect the checkpoint that it was built from.",
            )
        return Inspection(
            model=model,
            plan=manifest.plan,
            quantization=get_quantization(manifest.quantization),
            context=options.context or manifest.context_window_size,
            prefill_chunk=manifest.prefill_chunk_size,
            max_batch=manifest.max_batch_size,
            contexts=contexts,
        )
    directory = resolve_model(model, weights=False)
    # Weights that are here are checked; those of a hub model may be here in part.
    if any(directory.glob("*.safetensors")) and (user_path(model).exists() or model.startswith("demo:")):
        checkpoint = Checkpoint.open(directory)
        config, plan = checkpoint.config, checkpoint.plan
    else:
        config, plan = read_plan(directory)
    return Inspection(
        model=model,
        plan=plan,
        quantization=get_quantization(options.quant or default_quantization(["android"])),
        context=options.context
        or min(costs.DEFAULT_CONTEXT, config.get("max_position_embeddings") or costs.DEFAULT_CONTEXT),
        prefill_chunk=costs.DEFAULT_PREFILL_CHUNK,
        max_batch=1,
        contexts=contexts,
    )


def picture_begins(path: Path) -> bytes:
    return {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}.get(path.suffix.lower(), b"")


@contextmanager
def plotted(path: Path, size: tuple[float, float], *, force: bool) -> Iterator[Figure]:
    """A figure of so many inches, which is written after the body has drawn on it.

    Raises:
        EdgeTransactError: matplotlib isn't installed or doesn't know the suffix, or `path` exists and `force` is off.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EdgeTransactError("--plot needs matplotlib", fix="pip install 'edge-transact[plot]'") from error
    figure = Figure(figsize=size, layout="constrained")
    yield figure
    try:
        with new_file(path, picture_begins(path), force=force) as fresh:
            figure.savefig(fresh, format=path.suffix[1:], metadata={"Creator": "edge-transact"})
    except ValueError as error:
        raise EdgeTransactError(f"cannot draw {path}: {error}", fix="Use a name that ends in .png or .svg.") from error


def plot_flops(inspections: Sequence[Inspection], contexts: Sequence[int], path: Path, *, force: bool = False) -> None:
    """Plots FLOPs of prefill and of one decoded token over the context, one line per model, as in the paper's Figure 3.

    Raises the errors of `plotted`.
    """
    titles = {"prefill_flops": "prefill", "decode_flops": "one decoded token"}
    with plotted(path, (9, 3.6), force=force) as figure:
        for axes, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for each in inspections:
                axes.plot(contexts, [each.at(n)[key] / 1e9 for n in contexts], marker="o", label=each.model)
            axes.set(title=title, xlabel="context, tokens", ylabel="GFLOPs", ylim=(0, None))
            axes.legend()
