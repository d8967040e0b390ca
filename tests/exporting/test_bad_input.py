"""What can't be exported or read is refused with what, which and what to do, and nothing is left."""

import json
import re
import resource
import shlex
import shutil
import subprocess
import sys

import gguf
import pytest

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.writer import write_checkpoint
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.exporting.gguf import export_gguf
from edge_transact.inputs import resolve_model
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import for_model
from edge_transact.runtimes import offer, verdicts
from tests.support.checkpoints import FAMILIES, LLAMA3, YARN, narrowed, odd_plan
from tests.support.command import run, said
from tests.support.gguf_files import copy_gguf
from tests.support.hostile.of_dists import signed, vocabulary
from tests.support.tokenizers import SPLITS, give_bytes, save_byte_level

WIDE = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 400}
"""Rows of 64, but for the MLP's 40, which 32 doesn't divide."""


@pytest.fixture
def model(make_llama):
    directory = make_llama(**WIDE)
    save_byte_level(directory, 380)
    return directory


def refused(model, output, *texts, **options) -> None:
    with pytest.raises(EdgeTransactError) as caught:
        export_gguf(str(model), output, **options)
    said = f"{caught.value.message} {caught.value.fix}"
    assert not [text for text in texts if text not in said], said
    assert not output.exists() and not list(output.parent.glob(f".{output.name}*")), "nothing is left"


def test_the_command(model, tmp_path):
    output = tmp_path / "model.gguf"
    arguments = ["export", str(model), "-o", str(output)]
    made = said(*arguments, "--type", "q8_0")
    assert made["size_bytes"] == output.stat().st_size and made["matrices"] == {"Q8_0": 20, "F16": 3}
    assert made["other_bytes"] == 3 * 64 * 40 * (2 - 34 / 32)
    result = run(*arguments)
    assert result.exit_code == 1 and "exists" in result.stderr
    assert said(*arguments, "--type", "q8_0", "--force") == made
    output.write_bytes(re.sub(rb"edge[-_]transact", b"anothers-tool", output.read_bytes()))
    result = run(*arguments, "--force")
    assert result.exit_code == 1 and "wasn't written by edge-transact" in result.stderr
    result = run(*arguments, "--type", "q4_k", "--force")
    assert result.exit_code == 2 and "q4_0" in result.stderr


def test_a_tokenizer_without_a_name(model, tmp_path):
    file = model / "tokenizer.json"
    spec = json.loads(file.read_text())
    spec["pre_tokenizer"] = SPLITS["smollm"] | {"pretokenizers": [SPLITS["gpt-2"], {"type": "Whitespace"}]}
    file.write_text(json.dumps(spec))
    refused(model, tmp_path / "out.gguf", "no name for this tokenizer", "Whitespace", "--pre")
    export_gguf(str(model), tmp_path / "named.gguf", pre="gpt-2")
    assert gguf.GGUFReader(tmp_path / "named.gguf").get_field("tokenizer.ggml.pre").contents() == "gpt-2"
    spec["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    file.write_text(json.dumps(spec | {"added_tokens": []}))
    refused(model, tmp_path / "out.gguf", "WordLevel")


def test_a_tokenizer_under_another_ones_name(tmp_path):
    """``demo:tiny`` marks spaces and has no bytes: llama.cpp would look for its characters in GPT-2's alphabet."""
    refused("demo:tiny", tmp_path / "tiny.gguf", "GGUF can't hold this tokenizer", "bytes", "MLC", pre="llama-bpe")


def test_vocabularies(make_llama, tmp_path):
    model = make_llama(**WIDE | {"vocab_size": 280})
    refused(model, tmp_path / "out.gguf", "no tokenizer")
    save_byte_level(model, 300)
    refused(model, tmp_path / "out.gguf", "token 299", "280 tokens")
    save_byte_level(model, 270)
    export_gguf(str(model), tmp_path / "out.gguf")
    field = gguf.GGUFReader(tmp_path / "out.gguf").get_field
    tokens, types = (field(f"tokenizer.ggml.{name}").contents() for name in ("tokens", "token_type"))
    assert tokens[270:272] == ["[PAD270]", "[PAD271]"] and len(tokens) == 280
    assert types[269:272] == [gguf.TokenType.NORMAL, gguf.TokenType.UNUSED, gguf.TokenType.UNUSED]


def test_rows_that_a_type_can_not_hold(make_llama, tmp_path):
    model = make_llama(hidden_size=48, vocab_size=400)
    save_byte_level(model, 380)
    for kind in ("q8_0", "q4_0"):
        refused(model, tmp_path / "out.gguf", "groups of 32", "hidden size is 48", "f16", kind=kind)


def test_weights_that_a_type_can_not_hold(make_llama, tmp_path):
    from safetensors.torch import load_file, save_file

    model = make_llama(**WIDE)
    save_byte_level(model, 380)
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e5
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    refused(model, tmp_path / "out.gguf", "layers.1.mlp.up_proj", "not finite in F16", "bf16")
    export_gguf(str(model), tmp_path / "out.gguf", kind="bf16")


@pytest.mark.slow
@pytest.mark.needs("unshare")
def test_a_full_disk(model, tmp_path):
    """A disk of 64 KiB, mounted where nothing else sees it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    export = shlex.join([sys.executable, "-m", "edge_transact", "export", str(model), "-o", str(disk / "out.gguf")])
    mounted = f"mount -t tmpfs -o size=64k tmpfs {shlex.quote(str(disk))} && {export}; ls -A {shlex.quote(str(disk))}"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "MB left" in done.stderr and "Make room" in done.stderr, done.stderr
    assert done.stdout == "", "nothing is left"


def test_a_write_that_fails(model, tmp_path):
    """A file that may not grow beyond 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        refused(model, tmp_path / "out.gguf", "can't be written", "Make room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_dist_that_agrees_with_its_manifest(built_dist, tmp_path):
    """Anyone can sign: what is inside is compared with what it should be."""
    give_bytes(shutil.copytree(built_dist, tmp_path / "dist"))
    signed("mlc-chat-config.json", ("model_config", "prefill_chunk_size"), '"many"')(tmp_path)
    refused(tmp_path / "dist", tmp_path / "m.gguf", "mlc-chat-config.json", "prefill_chunk_size")
    signed("mlc-chat-config.json", ("model_config", "prefill_chunk_size"), "16")(tmp_path)
    vocabulary(lambda _: {"<unk>": 1})(tmp_path)
    refused(tmp_path / "dist", tmp_path / "m.gguf", "its tokenizer makes no token of a letter")


def test_layers_of_linear_attention(model, tmp_path):
    export_gguf(str(model), tmp_path / "model.gguf")
    without = ["edge_transact.", "llama.attention.head_count_kv"]
    copy_gguf(tmp_path / "model.gguf", tmp_path / "zero.gguf", without=without, head_count_kv=[4, 0, 4])
    with pytest.raises(EdgeTransactError, match=r"zero\.gguf: 8 query heads and 0 KV heads"):
        resolve_model(str(tmp_path / "zero.gguf"))


@pytest.mark.parametrize("family", ["qwen3", "smollm3", "phi3"])
def test_different_widths_of_families_with_one_width(make_llama, tmp_path, family):
    every_fourth = {"no_rope_layer_interval": 4} if family == "smollm3" else {}
    source = Checkpoint.open(make_llama(**FAMILIES[family] | {"num_hidden_layers": 4} | every_fourth))
    plan = odd_plan(source.plan)
    path = write_checkpoint(source, plan, narrowed(source, plan), {}, tmp_path / "cut").path
    refused(path, tmp_path / "out.gguf", f"llama.cpp's {family} can't load it", "one width for all", "uniform")
    said = verdicts(Checkpoint.open(path).plan)["llama.cpp"]
    assert said.startswith("no: ") and "one width for all" in said, "as export says"
    assert "not in llama.cpp" in offer(source.plan) and "--for llama.cpp" in offer(source.plan), "before the cut"
    asked = {"ratio": 0.9, "runtime": "llama.cpp"}
    options = for_model(PruneOptions(**asked), source)
    assert (options.allocation, options.units) == ("uniform", ["mlp"] if family == "phi3" else ["mlp", "groups"])
    for given in ({"allocation": "budgeted"}, {"units": ["groups"]} if family == "phi3" else {"units": ["values"]}):
        with pytest.raises(UsageError, match=r"budgeted|values|hidden size"):
            for_model(PruneOptions(**asked | given), source)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("qwen3", {"attention_bias": True}, "none of this model's biases"),
        ("qwen3", {"rope_parameters": LLAMA3}, "doesn't scale RoPE as llama3 does"),
        ("smollm3", {}, "every fourth layer"),
        ("mistral", {"rope_parameters": YARN | {"truncate": False}}, "truncate True, and this model's False"),
        ("qwen2", {"rope_parameters": YARN | {"beta_fast": 16.0}}, "beta_fast 32, and this model's 16.0"),
    ],
)
def test_what_llama_cpps_architectures_lack(make_llama, tmp_path, family, changes, words):
    refused(make_llama(**FAMILIES[family] | changes), tmp_path / "out.gguf", "can't load it", words)
