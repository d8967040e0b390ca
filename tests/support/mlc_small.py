"""The small checkpoints of the comparison with MLC, their weights the same on every machine; and what is compared."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.artifacts.manifest import Manifest
from edge_transact.building.dist import Maker, build
from edge_transact.building.options import BuildOptions
from edge_transact.building.stages import Rounding
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM
from edge_transact.compiler.targets import get_target
from edge_transact.mlc.toolchain import MLC
from edge_transact.pruning.options import PruneChoices
from edge_transact.quantization import get_quantization
from edge_transact.runtime import host
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.parameters import load_parameters
from edge_transact.weights import ShardReader
from tests.support.dists import edit_json
from tests.support.odd_models import CONFIG, MODEL_LIB, NO_ATTENTION, NO_MLP, emitted
from tests.support.odd_models import SIZES as ODD_SIZES

GOLDEN = Path(__file__).parents[1] / "data" / "mlc_engine.npz"
ANDROID_METADATA = GOLDEN.with_name("mlc_android_metadata.json")
"""What the library says of itself that MLC compiles of the odd model of ``tests/engine`` for Android, in q4f16_0."""
FAMILIES_GOLDEN = GOLDEN.with_name("mlc_families.npz")
QUANTIZATIONS = ("q4f16_0", "q4f16_1", "q4f32_1", "q0f16")
SIZES = {"context": 64, "prefill_chunk": 8}
PROMPT = [3, 141, 59, 26, 535, 897, 932, 384, 626, 433, 832]
"""More than a chunk."""
DECODED = [795, 28, 841]


WIDTHS = {
    "whole heads": {
        "0": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 33},
        "2": {"intermediate_size": 40},
    },
    "cut heads": {
        "0": {"num_attention_heads": 2, "num_key_value_heads": 1, "qk_head_dim": 10, "v_head_dim": 7},
        "1": {"v_head_dim": 12},
        "2": {"intermediate_size": 40, "qk_head_dim": 12},
    },
    "attention and MLPs gone": {"0": NO_ATTENTION, "1": NO_MLP, "2": {"intermediate_size": 40}},
}
"""``per_layer_config`` of the models that are compared."""


def fill(model: torch.nn.Module, random: np.random.Generator) -> None:
    """Fills a model with weights that are the same on every machine."""
    for _, parameter in sorted(model.named_parameters()):
        values = random.uniform(-0.4, 0.4, tuple(parameter.shape)).astype(np.float32)
        parameter.data = torch.from_numpy(values + 1 if values.ndim == 1 else values)


def small_checkpoint(tiny_model: Path, directory: Path, widths: str) -> Path:
    """Three layers of different widths, ragged quantization groups among them, with the tokenizer of ``demo:tiny``."""
    config = EdgeLlamaConfig(
        vocab_size=1024, hidden_size=72, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=64, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0}, per_layer_config=WIDTHS[widths],
    )  # fmt: skip
    model = EdgeLlamaForCausalLM(config)
    random = np.random.default_rng(6)
    fill(model, random)
    for name, buffer in model.named_buffers():
        if name.endswith("rope_pairs"):
            for row in buffer:
                row.copy_(torch.from_numpy(np.sort(random.permutation(8)[: len(row)])))
    model.save_pretrained(directory)
    for path in tiny_model.glob("*token*"):
        if path.is_file():
            shutil.copyfile(path, directory / path.name)
    return directory


FAMILIES = {
    "mistral": {"sliding_window": None, "head_dim": 16},
    "qwen2": {"tie_word_embeddings": True, "use_sliding_window": False},
    "qwen3": {"num_attention_heads": 8, "head_dim": 16, "attention_bias": False, "use_sliding_window": False},
    "phi3": {"sliding_window": 64, "pad_token_id": 0, "num_key_value_heads": 4},
}
"""What stock models of other families than LLaMA have in ``config.json``; MLC has definitions of its own for them."""


def family_checkpoint(tiny_model: Path, directory: Path, family: str) -> Path:
    """A small stock model of a family, its ``config.json`` as on the hub, with the tokenizer of ``demo:tiny``."""
    config = {
        "model_type": family, "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "rope_theta": 50000.0, "hidden_act": "silu", "tie_word_embeddings": False, **FAMILIES[family],
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    fill(model, np.random.default_rng(7))
    model.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config))
    shutil.copyfile(tiny_model / "tokenizer.json", directory / "tokenizer.json")
    return directory


def family_measured(
    tiny_model: Path, scratch: Path, family: str, engine: str
) -> tuple[dict[str, dict[str, str]], np.ndarray]:
    """`digests` of a family's stock model in every quantization, and `logits` in ``q4f32_1``.

    With the engine ``mlc``, all is MLC's, the definition too; its names become ours by `THEIRS`.
    """
    checkpoint, converted = family_checkpoint(tiny_model, scratch / "checkpoint", family), {}
    if engine == "tvm":
        converted = {name: weights(checkpoint, name, scratch / name, engine) for name in QUANTIZATIONS}
        options = BuildOptions(target=["host"], quant="q4f32_1", rounding="nearest", **SIZES)
        build(str(checkpoint), scratch / "dist", options)
        return converted, logits(HostModel.load(scratch / "dist"))
    mlc, ours = MLC(["host"]), scratch / "definition"
    emitted(Checkpoint.open(checkpoint), ours)
    for name in QUANTIZATIONS:
        (scratch / name).mkdir()
        common = (str(checkpoint), f"--quantization={name}", f"--output={scratch / name}")
        sizes = (f"--context-window-size={SIZES['context']}", f"--prefill-chunk-size={SIZES['prefill_chunk']}")
        mlc._run(ours, "gen_config", *common, "--conv-template=LM", *sizes)
        mlc._run(ours, "convert_weight", *common, "--device=cpu")
        found = digests(scratch / name)
        converted[name] = {_our_name(each): digest for each, digest in found.items()}
    directory, library = scratch / "q4f32_1", scratch / "library.so"
    mlc._run(ours, "compile", str(directory), "--device=cpu", f"--output={library}")
    with patch.object(host, "load_parameters", _with_vocabulary):
        return converted, logits(HostModel(library, directory))


THEIRS = {
    "c_attn": "qkv_proj", "transformer.embd": "model.embed_tokens", "transformer.h": "model.layers",
    "transformer.norm": "model.norm", ".ln.": ".input_layernorm.", "mixer.out_proj": "self_attn.o_proj",
    "mixer": "self_attn",
}  # fmt: skip
"""MLC's names of parameters in other definitions than LLaMA's, and ours."""


def _our_name(name: str) -> str:
    for theirs, ours in THEIRS.items():
        name = name.replace(theirs, ours)
    return name


def _with_vocabulary(directory: Path, expected: list[dict[str, Any]], verified: bool) -> Any:
    """`load_parameters` for a definition of MLC's, which takes any number of tokens."""
    shapes = [[1024 if size == "vocab_size" else size for size in each["shape"]] for each in expected]
    return load_parameters(
        directory, [each | {"shape": shape} for each, shape in zip(expected, shapes, strict=True)], verified
    )


def digests(directory: Path) -> dict[str, str]:
    """Parameter name to the sha256 of its dtype, shape and bytes."""
    reader, result = ShardReader(directory), {}
    for name in sorted(reader.names()):
        array = reader.array(name)
        content = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
        result[name] = hashlib.sha256(content).hexdigest()
    return result


def logits(library: HostModel) -> np.ndarray:
    """After the prompt, and after each of the decoded tokens."""
    return np.stack([library.prefill(PROMPT), *(library.decode(token) for token in DECODED)])


def weights(checkpoint: Path, name: str, directory: Path, engine: str, rounding: str = "nearest") -> dict[str, str]:
    """`digests` of a checkpoint's weights in a quantization, as an engine converts them into `directory`."""
    source = Checkpoint.open(checkpoint)
    sizes = {"context_window_size": 64, "prefill_chunk_size": 8, "max_batch_size": 1}
    definition = emitted(source, directory / "definition", sizes)
    how = get_quantization(name), Rounding(rounding, PruneChoices()), sizes, "edge_llama_small"
    mlc = MLC([]) if engine == "mlc" else None
    Maker(source, *how, directory / "definition", mlc).write_model(directory, definition)
    return digests(directory)


def searched_logits(checkpoint: Path, dist: Path, scratch: Path) -> np.ndarray:
    """`logits` of a library that gets weights from `search`: every code, and scales of both signs."""
    converted = scratch / "searched"
    weights(checkpoint, "q4f32_1", converted, "tvm", "search")
    reader = ShardReader(converted)
    words = np.concatenate([reader.array(name).ravel() for name in reader.names() if name.endswith("q_weight")])
    scales = np.concatenate([reader.array(name).ravel() for name in reader.names() if name.endswith("q_scale")])
    assert any((words >> shift & 15 == 15).any() for shift in range(0, 32, 4)) and (scales < 0).any()
    for path in dist.iterdir():
        if path.name != MANIFEST and not (converted / path.name).exists():
            (converted / path.name).symlink_to(path)
    shutil.copyfile(dist / MANIFEST, converted / MANIFEST)
    edit_json(converted / MANIFEST, files={name: sha256(converted / name) for name in Manifest.read(dist).files})
    return logits(HostModel.load(converted))


def measured(
    tiny_model: Path, scratch: Path, engine: str
) -> tuple[dict[str, dict[str, dict[str, str]]], np.ndarray, np.ndarray]:
    """All that is compared: the weights of all models in every quantization, and logits in ``q4f32_1``.

    The logits are those of whole heads: with MLC's rounding, and in the same library with that of `search`. The DIST
    stays in ``scratch/dist``.
    """
    checkpoints = {widths: small_checkpoint(tiny_model, scratch / "checkpoints" / widths, widths) for widths in WIDTHS}
    converted = {
        widths: {name: weights(checkpoint, name, scratch / widths / name, engine) for name in QUANTIZATIONS}
        for widths, checkpoint in checkpoints.items()
    }
    dist = scratch / "dist"
    options = BuildOptions(target=["host"], quant="q4f32_1", rounding="nearest", engine=engine, **SIZES)
    build(str(checkpoints["whole heads"]), dist, options)
    return converted, logits(HostModel.load(dist)), searched_logits(checkpoints["whole heads"], dist, scratch)


def archive_metadata(path: Path) -> dict[str, Any]:
    """What ``_metadata`` of an archive would return, read from its bytecode."""
    with tarfile.open(path) as archive:
        objects = [archive.extractfile(member).read() for member in archive]
    (found,) = [data.partition(b'{"model_type"') for data in objects if b'{"model_type"' in data]
    text = (found[1] + found[2]).decode(errors="replace")
    return json.JSONDecoder().raw_decode(text)[0]


def android_metadata(tiny_model: Path, scratch: Path) -> dict[str, Any]:
    """`archive_metadata` of what MLC compiles of the odd model of ``tests/engine``."""
    EdgeLlamaForCausalLM(EdgeLlamaConfig(**CONFIG)).save_pretrained(scratch / "odd")
    shutil.copyfile(tiny_model / "tokenizer.json", scratch / "odd" / "tokenizer.json")
    source, path = Checkpoint.open(scratch / "odd"), scratch / "model" / "definition"
    definition = emitted(source, path)
    how = get_quantization("q4f16_0"), Rounding("nearest", PruneChoices()), ODD_SIZES, MODEL_LIB
    maker = Maker(source, *how, path, MLC(["android"]))
    maker.write_model(scratch / "model", definition)
    maker.build_library(scratch / "model", definition, get_target("android"), scratch / "odd.tar")
    return archive_metadata(scratch / "odd.tar")
