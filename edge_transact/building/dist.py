"""Makes a DIST: definition, weights, configuration and libraries of one model, checked against torch."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from edge_transact import costs
from edge_transact.architecture.families import with_rope_of
from edge_transact.artifacts.dist_files import CHAT_CONFIG, LICENCE_FILES, MANIFEST, SHARDS, TOKENIZER_FILES
from edge_transact.artifacts.manifest import Manifest
from edge_transact.artifacts.outputs import new_directory, refuse_existing, scratch_directory
from edge_transact.artifacts.summary import Summarized, Summary
from edge_transact.building.concerns import concerns
from edge_transact.building.options import BuildOptions
from edge_transact.building.parity import DECODE_STEPS, Parity, compare, prompt_ids, reference_model
from edge_transact.building.report.page import write_report
from edge_transact.building.stages import Rounding, Weights, healed, place_library, place_weights, pruned
from edge_transact.cache.resume import Start, resume_hint
from edge_transact.cache.sources import public, remember_source
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import PROVENANCE_FILE, copy_files, license_of, provenance_of
from edge_transact.compiler.gpu.devices import GENERIC
from edge_transact.compiler.library import require_c_compiler
from edge_transact.compiler.targets import BuildTarget, get_target, library_name
from edge_transact.definition import MODEL_TYPE, Definition, load, render
from edge_transact.errors import UsageError
from edge_transact.evaluation.models import prepare_report
from edge_transact.formatting import megabytes
from edge_transact.healing.options import HealOptions
from edge_transact.inputs.models import resolve_model
from edge_transact.inputs.shares import names_of
from edge_transact.inputs.source import pruned_from
from edge_transact.mlc.chat_config import chat_config
from edge_transact.mlc.conversation import plain_note
from edge_transact.mlc.toolchain import MLC
from edge_transact.options import written
from edge_transact.progress import working
from edge_transact.pruning.options import PruneChoices
from edge_transact.quantization import Quantization, default_quantization, get_quantization
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.text import TextCodec, check_chats
from edge_transact.system import memory
from edge_transact.version import __version__
from edge_transact.weights.shards import ShardReader
from edge_transact.weights.trained import TRAINED, TrainedRounding
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)

OPEN_STEP, PARITY_STEP, MANIFEST_STEP = "render the definition", "compare with torch", "write the manifest"

CUT_LAYERS = 2
"""How many layers are compared with torch if the whole model can't be."""


@dataclass(frozen=True, repr=False)
class Build(Summarized):
    """The result of a build; `seconds` are without the report."""

    directory: Path
    manifest: Manifest
    warnings: tuple[str, ...]
    seconds: float
    report: Path | None = None

    def summary(self) -> Summary:
        """Weights and libraries, with their sizes."""
        manifest, parity = self.manifest, self.manifest.parity
        rounded = f" with {manifest.rounding}" if manifest.rounding else ""
        facts = {
            "parameters": f"{manifest.parameters:,}",
            "weights": f"{megabytes(manifest.weights_bytes)} in {manifest.quantization}{rounded}, "
            f"{manifest.bits_per_parameter:.2f} bits a parameter",
            "context": f"{manifest.context_window_size:,} tokens",
        }
        for target, path in manifest.libraries.items():
            facts[f"library for {target}"] = f"{path}, {megabytes((self.directory / path).stat().st_size)}"
        facts["against torch"] = (
            f"logits within {parity['prefill_error']:.1e} (prefill) and {parity['decode_error']:.1e} (decode) of the "
            f"largest, {parity['token_agreement']:.0%} of greedy tokens the same in {parity['library']}"
        )
        return Summary(f"{self.directory}: {manifest.source}, built in {self.seconds:.0f} s", facts)

    def to_dict(self) -> dict[str, object]:
        """The object that ``build --json`` prints."""
        manifest = self.manifest
        return {
            "dist": str(self.directory),
            "model_lib": manifest.model_lib,
            "libraries": {target: str(self.directory / path) for target, path in manifest.libraries.items()},
            "quantization": manifest.quantization,
            "rounding": manifest.rounding,
            "parameters": manifest.parameters,
            "weights_bytes": manifest.weights_bytes,
            "bits_per_parameter": manifest.bits_per_parameter,
            "parity": dict(manifest.parity),
            "warnings": list(self.warnings),
            "seconds": self.seconds,
            **({"report": str(self.report)} if self.report else {}),
        }


@resume_hint()
def build(
    model: str,
    output: Path,
    options: BuildOptions,
    *,
    pruning: PruneChoices | None = None,
    healing: HealOptions | None = None,
    report: Path | None = None,
    fresh: bool = False,
    force: bool = False,
) -> Build:
    """Makes a DIST directory, complete or not at all.

    ``build("demo:smollm2", Path("dist"), BuildOptions(target=["host"]))``

    Args:
        pruning: Prune the model first, to this budget; bytes are counted in the build's quantization and context. Its
            calibration text is also what ``rounding="gptq"`` and ``"best"`` read, with or without a budget.
        healing: Then train the pruned model to predict what its source predicts.
        report: A directory for a report of what rounding cost, written when the DIST is complete.
        fresh: Start pruning and rounding over where an interrupted run has begun. Finished stages come from the cache.

    Raises:
        UsageError: Sizes that contradict each other or the model, or a budget that is beyond it.
        EdgeTransactError: The model can't be read, `output` exists, a library can't be made, or one that was made
            differs from torch.
    """
    started = time.perf_counter()
    names = list(dict.fromkeys(options.target))
    targets = [get_target(name, options.device_profile, options.cpu) for name in names]
    kind = get_quantization(options.quant or default_quantization(names))
    texts = [*names_of(pruning.calibration if pruning else []), *names_of(healing.texts if healing else [])]
    refuse_existing(output, force, apart_from=[model, *texts])
    rounding_name = _rounding_name(options, kind, report)
    require_c_compiler()
    text = prepare_report(report, force=force, apart_from=[output, model]) if report else ""
    if options.engine == "mlc":
        given = {"--cpu": options.cpu, "--device-profile": options.device_profile != GENERIC.name}
        for flag in (flag for flag, is_given in given.items() if is_given):
            raise UsageError(f"{flag} needs our compiler, not MLC-LLM's", fix=f"Leave out {flag} or --engine mlc.")
    mlc = MLC(names) if options.engine == "mlc" else None
    with scratch_directory() as scratch:
        checkpoint = Checkpoint.open(resolve_model(model))
        sizes = _sizes(checkpoint, options)
        check_chats(checkpoint.path)
        source = checkpoint
        if pruning and pruning.budgets():
            budget = pruning.counted(kind.name, options.context or costs.DEFAULT_CONTEXT)
            checkpoint = pruned(source, model, budget, fresh=fresh)
        if healing:
            checkpoint = healed(checkpoint, healing, fresh=fresh)
        if takes_trained(checkpoint, kind, options):
            rounding_name = TRAINED
        teacher = None
        if rounding_name == "best" and (teacher := source if checkpoint is not source else pruned_from(checkpoint)):
            logger.info(f"best aims at the predictions of {teacher.path}, from which this model was pruned")
        with working("look at the model"):
            checkpoint = _with_fast_tokenizer(checkpoint, scratch / "checkpoint")
            warnings = concerns(
                checkpoint.plan, kind, names, **sizes, device_profile=options.device_profile, cpu=options.cpu
            )
            note = plain_note(checkpoint.path)
        for warning in warnings:
            logger.warning(warning)
        if note:
            logger.info(note)
        with new_directory(output, force=force) as directory:
            rounding = Rounding(rounding_name, pruning or PruneChoices(), teacher, Start.of(fresh=fresh))
            manifest, definition = _fill(directory, checkpoint, model, targets, kind, rounding, sizes, scratch, mlc)
        # Without both, 0.9 MB a build stay: what was compiled and compared is in cycles, and leaves small pieces.
        gc.collect()
        memory.trim()
        made = Build(output, manifest, tuple(warnings), time.perf_counter() - started, report)
        if report:
            choices = [*written.words(options), *(written.words(pruning) if pruning else ())]
            command = written.line("build", model, *choices, "-o", output, "--report", report)
            write_report(checkpoint, output, definition.parameter_sources(), report, text, command, force=force)
    return made


def _rounding_name(options: BuildOptions, quantization: Quantization, report: Path | None) -> str:
    """The rounding, once it and the report are known to be possible."""
    rounding = options.rounding or ("nearest" if options.engine == "mlc" else "search")
    if rounding != "nearest" and options.engine == "mlc":
        raise UsageError(
            f"--rounding {rounding} needs our compiler: MLC's rounds to nearest",
            fix="Leave out --rounding or --engine mlc.",
        )
    four_bits = "or give a --quant that begins with q4."
    if options.rounding and quantization.bits is None:
        raise UsageError(
            f"--rounding {rounding} is for 4 bits, and {quantization.name} isn't quantized",
            fix=f"Leave out --rounding, {four_bits}",
        )
    if report and quantization.bits is None:
        raise UsageError(
            f"--report says what rounding to 4 bits costs, and {quantization.name} isn't quantized",
            fix=f"Leave out --report, {four_bits}",
        )
    return rounding


def takes_trained(checkpoint: Checkpoint, quantization: Quantization, options: BuildOptions) -> bool:
    """Whether the codes and scales are those that the checkpoint was trained with. If others are wanted, says so."""
    trained = TrainedRounding.of(checkpoint)
    if trained is None or quantization.bits is None:
        return False
    own = trained.quantization.name
    if trained.fits(quantization) and options.rounding is None and options.engine != "mlc":
        return True
    what, instead = quantization.name, f"Give --quant {own}"
    if trained.fits(quantization):
        what = "--engine mlc" if options.engine == "mlc" else f"--rounding {options.rounding}"
        instead = f"Leave out {what}"
    logger.warning(
        f"{checkpoint.path} was trained as it is rounded to {own}, and {what} rounds it anew. {instead} to build what "
        "was trained."
    )
    return False


def _with_fast_tokenizer(checkpoint: Checkpoint, directory: Path) -> Checkpoint:
    """The checkpoint, or, if it only has a SentencePiece tokenizer, a copy in `directory` with a ``tokenizer.json``."""
    # MLC's engine reads both, but only tokenizer.json has the normalizer and the decoder.
    files = {path.name: path for path in checkpoint.path.iterdir()}
    if "tokenizer.json" in files or "tokenizer.model" not in files:
        return checkpoint
    logger.info("convert tokenizer.model to tokenizer.json")
    directory.mkdir()
    TextCodec(checkpoint.path).tokenizer.save_pretrained(directory)
    for name, path in files.items():
        if not (directory / name).exists() and name != "tokenizer.model":
            (directory / name).symlink_to(path.resolve())
    return Checkpoint.open(directory)


def _sizes(checkpoint: Checkpoint, options: BuildOptions) -> dict[str, int]:
    """``context_window_size``, ``prefill_chunk_size`` and ``max_batch_size`` of the libraries."""
    most = checkpoint.config.get("max_position_embeddings") or costs.DEFAULT_CONTEXT
    context = options.context or min(costs.DEFAULT_CONTEXT, most)
    if context > most:
        raise UsageError(
            f"a context of {context} tokens is more than the model's {most}", fix=f"Give --context {most} or less."
        )
    for_host_alone = set(options.target) == {"host"}
    default_chunk = costs.HOST_PREFILL_CHUNK if for_host_alone else costs.DEFAULT_PREFILL_CHUNK
    chunk = options.prefill_chunk or min(default_chunk, context)
    if chunk > context:
        raise UsageError(
            f"a prefill chunk of {chunk} tokens is more than the context of {context}",
            fix=f"Give --prefill-chunk {context} or less.",
        )
    return {"context_window_size": context, "prefill_chunk_size": chunk, "max_batch_size": options.max_batch}


def _fill(
    directory: Path,
    checkpoint: Checkpoint,
    model: str,
    targets: Sequence[BuildTarget],
    quantization: Quantization,
    rounding: Rounding,
    sizes: dict[str, int],
    scratch: Path,
    mlc: MLC | None,
) -> tuple[Manifest, Definition]:
    with working(OPEN_STEP):
        files = render(checkpoint.plan)
        (directory / "definition").mkdir()
        for name, text in files.items():
            (directory / "definition" / name).write_text(text)
        definition = load(checkpoint.plan, definition_config(checkpoint, sizes))
    model_lib = model_lib_name(files, definition, quantization)
    profile = next((target.profile for target in targets if target.profile is not None), None)
    if profile is not None:
        from edge_transact.compiler.limits import require_model

        require_model(profile, checkpoint.plan, definition, quantization)
    for target in targets:
        if target.device != "llvm" and mlc is None:
            from edge_transact.compiler.limits import require_attention

            require_attention(checkpoint.plan, target.tvm_target(), quantization.model_dtype)

    maker = Maker(checkpoint, quantization, rounding, sizes, model_lib, directory / "definition", mlc)
    with working("read and copy weights"):
        weights = maker.write_model(directory, definition)
    digests = dict(weights.digests)
    libraries = {}
    (directory / "lib").mkdir()
    for target in targets:
        libraries[target.name] = f"lib/{model_lib}-{target.name}{target.suffix}"
        made = maker.build_library(directory, definition, target, directory / libraries[target.name])
        digests |= {f"lib/{name}": digest for name, digest in made.items()}
    runnable = {target.name: libraries[target.name] for target in targets if target.runs_here()}
    parity = _check_parity(maker, directory, definition, runnable, scratch)
    parity.require()
    manifest = Manifest(
        source=public(model),
        model_type=MODEL_TYPE,
        model_lib=model_lib,
        quantization=quantization.name,
        rounding=weights.rounding,
        calibration=public(weights.calibration),
        context_window_size=sizes["context_window_size"],
        prefill_chunk_size=sizes["prefill_chunk_size"],
        max_batch_size=sizes["max_batch_size"],
        # MLC's kernels aren't checked.
        device_profile=profile.name if profile and mlc is None else None,
        plan=checkpoint.plan,
        parameters=costs.parameters(checkpoint.plan),
        weights_bytes=sum(shard.stat().st_size for shard in directory.glob(SHARDS)),
        libraries=libraries,
        parity=parity.to_dict(),
        license=provenance_of(checkpoint.path).get("license") or license_of(checkpoint.path),
        versions={
            "edge-transact": __version__,
            **{package: version(package) for package in ("apache-tvm", "torch", "transformers")},
            **({"mlc-llm": mlc.checkout.revision} if mlc else {}),
        },
    )
    with working(MANIFEST_STEP):
        manifest.write(directory, digests)
        remember_source(directory / MANIFEST, model)
    return Manifest.read(directory), definition


def definition_config(checkpoint: Checkpoint, sizes: dict[str, int]) -> dict[str, object]:
    """The checkpoint's config.json, with the definition's RoPE keys and sizes. A null in it stands for a default."""
    return {
        "rms_norm_eps": 1e-6,  # transformers' default
        **{name: value for name, value in checkpoint.config.items() if value is not None},
        "rope_theta": checkpoint.rope_theta,
        "rope_scaling": checkpoint.rope_scaling,
        **sizes,
    }


def model_lib_name(files: dict[str, str], definition: Definition, quantization: Quantization) -> str:
    """The library's name, an identifier that is unique to plan, sizes and quantization: an app can hold several."""
    content = json.dumps([files, definition.config.asdict(), quantization.name], sort_keys=True)
    return f"{MODEL_TYPE}_{quantization.name}_{hashlib.sha256(content.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Maker:
    """Makes the weights and libraries of one build, for the whole model and for its first layers."""

    checkpoint: Checkpoint
    quantization: Quantization
    rounding: Rounding
    sizes: dict[str, int]
    model_lib: str
    emitted: Path
    mlc: MLC | None

    def write_model(self, directory: Path, definition: Definition) -> Weights:
        """Writes an MLC model directory without libraries."""
        from edge_transact.checkpoint.configuration_edge_llama import FAMILY_FIELDS

        checkpoint, sizes = self.checkpoint, self.sizes
        # The definition has them in its code; they are for `export`.
        of_family = {name: value for name in FAMILY_FIELDS if (value := checkpoint.config.get(name)) is not None}
        config = chat_config(
            checkpoint.path,
            model_type=MODEL_TYPE,
            model_lib=self.model_lib,
            quantization=self.quantization.name,
            model_config={**definition.config.asdict(), **of_family},
            vocab_size=checkpoint.plan.vocab_size,
            context_window_size=sizes["context_window_size"],
            prefill_chunk_size=sizes["prefill_chunk_size"],
        )
        (directory / CHAT_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        copy_files(checkpoint.path, directory, (*TOKENIZER_FILES, *LICENCE_FILES, PROVENANCE_FILE))
        if self.mlc is None:
            return place_weights(checkpoint, definition, self.quantization, self.rounding, directory)
        self.mlc.write_model(self.emitted, checkpoint.path, definition, self.quantization, sizes, directory)
        return Weights(self.rounding.name if self.quantization.bits else None)

    def build_library(self, directory: Path, definition: Definition, target: BuildTarget, path: Path) -> dict[str, str]:
        """Writes the library of `write_model`'s model for a target. Returns its sha256 by file name, where known."""
        name = library_name(self.model_lib, target.name)
        if self.mlc is None:
            return place_library(definition, self.quantization, target, name, path)
        self.mlc.build_library(self.emitted, directory, target, name, path)
        return {}


def compares_whole(plan: WidthPlan, has_library: bool) -> bool:
    """Whether the whole model is compared with torch: a library runs here, and torch's fp32 model fits into memory."""
    return has_library and memory.fits(4 * costs.parameters(plan))


def first_layers(plan: WidthPlan) -> WidthPlan:
    """The layers that are compared with torch instead of all: `CUT_LAYERS`, or more until any has attention or MLP."""
    firsts = ([getattr(layer, has) for layer in plan.layers].index(True) for has in ("has_attention", "has_mlp"))
    return plan.with_layers(plan.layers[: max(CUT_LAYERS, *(first + 1 for first in firsts))])


def _check_parity(
    maker: Maker, directory: Path, definition: Definition, libraries: dict[str, str], scratch: Path
) -> Parity:
    checkpoint, sizes = maker.checkpoint, maker.sizes
    plan, name = checkpoint.plan, "host"
    whole = compares_whole(plan, "host" in libraries)
    if not whole:
        plan = first_layers(plan)
        definition = definition.truncated(plan.num_hidden_layers)
        name = f"host, the first {plan.num_hidden_layers} layers"
    logger.info(f"compare with torch: {name}")
    if not whole:
        directory = scratch / "cut"
        (directory / "lib").mkdir(parents=True)
        with working("read and copy weights"):
            maker.write_model(directory, definition)
        host = get_target("host")
        libraries = {"host": f"lib/{maker.model_lib}-host{host.suffix}"}
        maker.build_library(directory, definition, host, directory / libraries["host"])
    with working(PARITY_STEP):
        config = with_rope_of(checkpoint.config, sizes["context_window_size"])
        reference = reference_model(
            ShardReader(directory), definition.parameter_sources(), config, plan, maker.quantization
        )
        steps = min(DECODE_STEPS, sizes["context_window_size"] // 2)
        # More than one chunk, so that prefill also continues a sequence.
        length = min(sizes["prefill_chunk_size"] + 9, sizes["context_window_size"] - steps)
        prompt = prompt_ids(directory, length)
        library = HostModel(directory / libraries["host"], directory)
        return compare(library, reference, prompt, maker.quantization, decode_steps=steps, name=name)
