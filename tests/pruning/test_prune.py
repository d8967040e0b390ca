"""The command and the pipeline: what they write, that it is reproducible, and what they refuse."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.evaluation.perplexity import perplexity
from edge_transact.inputs.models import resolve_model
from edge_transact.inputs.source import pruned_from
from edge_transact.inputs.texts import read_text
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune
from tests.support.checkpoints import FAMILIES
from tests.support.command import edge_transact
from tests.support.pruning import weights_of


def test_what_the_command_writes_and_prints(tiny_model, chapters, tmp_path: Path) -> None:
    output = tmp_path / "pruned"
    options = ["--method", "transact", "--ratio", 0.3, "--calibration", chapters]
    code, out, err = edge_transact("prune", tiny_model, *options, "-o", output, "--json")
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
    assert record["source"] == tiny_model.name
    assert (record["method"], record["budget"], record["seed"]) == ("transact", {"ratio": 0.3}, 0)
    (text,) = record["calibration"]["sources"]
    assert text["tokens"] == record["calibration"]["tokens"]
    assert (text["text"], text["sha256"]) == (chapters.name, hashlib.sha256(chapters.read_bytes()).hexdigest())
    assert len(record["scores_sha256"]) == 64
    assert record["versions"]["edge-transact"]


def test_a_source_that_is_a_directory_is_named_by_its_last_part_and_found_again(
    tiny_model, calibration, tmp_path: Path, monkeypatch
):
    """Its name is no hub id, and says nothing of this machine; the source is found wherever the checkpoint goes."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    options = PruneOptions(ratio=0.3, method="magnitude", **calibration)
    prune("models/tiny", Path("pruned"), options)
    written = [path.read_text() for path in Path("pruned").glob("*.*") if path.suffix != ".safetensors"]
    assert json.loads(Path("pruned/edge_transact.json").read_text())["source"] == "tiny"
    assert not any(str(private) in text for private in (tmp_path, tiny_model.parent, Path.home()) for text in written)
    Path("pruned").rename("elsewhere")
    monkeypatch.chdir("/")
    parent = pruned_from(Checkpoint.open(tmp_path / "elsewhere"))
    assert parent and parent.path == tmp_path / "models/tiny"


def test_people_see_a_table_and_the_next_command(tiny_model, chapters, tmp_path: Path) -> None:
    options = ["--heads", 2, "--intermediate", 100, "--calibration", chapters, "-o", tmp_path / "p"]
    code, out, err = edge_transact("prune", tiny_model, *options)
    assert code == 0, err
    assert "intermediate_size" in out and "100" in out
    recommended = next(line for line in Path("README.md").read_text().splitlines() if "heal pruned" in line)
    words = recommended.replace("pruned", str(tmp_path / "p")).replace("healed", f"{tmp_path / 'p'}-healed")
    assert f"Next: {words}\n" in out, "as the README recommends"
    assert "mlc: yes; llama.cpp: in the Q4_0 or F16" in " ".join(re.sub("[│┃|]", " ", out).split())
    assert "To run it elsewhere, say so now: --for" in err


@pytest.mark.parametrize("method", ["obs", "transact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_seed_reproduces_the_bytes(tiny_model, calibration, tmp_path: Path, dtype: torch.dtype, method: str) -> None:
    source = tmp_path / "source"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype).save_pretrained(source)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(source)

    def run(name: str, seed: int) -> Path:
        prune(str(source), tmp_path / name, PruneOptions(ratio=0.5, method=method, seed=seed, **calibration))
        return tmp_path / name

    first, again, other = run("first", 7), run("again", 7), run("other", 8)
    for file in sorted(path.name for path in first.iterdir() if path.name != "README.md"):
        assert (first / file).read_bytes() == (again / file).read_bytes(), file
    scores = [json.loads((path / "edge_transact.json").read_text())["scores_sha256"] for path in (first, other)]
    assert scores[0] != scores[1]
    assert Checkpoint.open(first).tensor("model.layers.0.mlp.up_proj.weight").dtype == dtype


def test_shots_are_prunings_one_after_the_other(tiny_model, calibration, tmp_path: Path) -> None:
    """Two shots write what two commands write, if the second prunes the output of the first."""
    options = {"method": "transact", **calibration}
    prune(str(tiny_model), tmp_path / "at once", PruneOptions(heads=2, intermediate=101, shots=2, **options))
    prune(str(tiny_model), tmp_path / "one shot", PruneOptions(heads=2, intermediate=101, **options))
    # Halfway from 4 heads to 2 is 3, which reaches into both groups of 2.
    prune(str(tiny_model), tmp_path / "half", PruneOptions(heads=4, intermediate=221, **options))
    prune(str(tmp_path / "half"), tmp_path / "whole", PruneOptions(heads=2, intermediate=101, **options))
    assert weights_of(tmp_path / "at once") == weights_of(tmp_path / "whole")
    assert weights_of(tmp_path / "at once") != weights_of(tmp_path / "one shot")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("", 2, "no budget"),
        ("--ratio 0", 2, "--ratio 0 is not between 0 and 1"),
        ("--ratio much", 2, "--ratio: 'much' is not a share"),
        ("--ratio 30", 2, "For 30 %, write 0.3 or 30%."),
        ("--max-memory much", 2, "'much' is not a number of bytes"),
        ("--ratio 0.3 --units mpl", 2, "unknown unit 'mpl'"),
        ("--ratio 0.04 --units mlp,values --method wanda --allocation budgeted", 2, "wanda doesn't say what dims"),
        ("--ratio 0.999", 2, "the smallest model has"),
        ("--max-weight-bytes 1GB", 2, "the model is within all limits already"),
        ("--target-params lots", 2, "'lots' is not a number of parameters"),
        ("--widths missing.json", 2, "missing.json does not exist"),
        ("--ratio 0.3 --method magic", 2, "unknown method 'magic'"),
        ("--ratio 0.3 --shots 0", 2, "--shots 0 is not at least 1"),
        ("--widths none.json --dry-run", 2, "none.json does not exist"),
        ("--ratio 0.3 --shots 99999999999999999999", 2, "--shots 99999999999999999999 is more than 100"),
        ("--target-params " + "9" * 400, 2, "is not a number of parameters"),
        ("--ratio 0.3 --bucket 0", 2, "--bucket 0 is not at least 1"),
        ("--ratio 0.3 --calibration-tokens 3", 2, "less than a window of 128"),
        ("--ratio 0.3 --calibration missing.txt", 1, "missing.txt does not exist"),
        ("--ratio 0.3 --calibration SHORT", 1, "fewer than a window of 128"),
        ("--ratio 0.3 --train missing.txt", 1, "missing.txt does not exist"),
        ("--ratio 0.3 --train-tokens 1000", 2, "--train-tokens, but nothing is trained"),
    ],
)
def test_refusals(tiny_model, chapters, tmp_path: Path, options: str, code: int, message: str) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    words = options.replace("SHORT", str(tmp_path / "short.txt")).split()
    calibration = [] if "--calibration" in words else ["--calibration", chapters]
    for dry_run in ([], ["--dry-run"]):
        actual, _, err = edge_transact("prune", tiny_model, *words, *calibration, "-o", tmp_path / "out", *dry_run)
        assert (actual, message in " ".join(err.split())) == (code, True), err
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"], "nothing half-written"


@pytest.mark.parametrize("method", ["transact", "obs"])
def test_a_dry_run_says_what_limits_are_for_the_model(tiny_model, chapters, tmp_path: Path, method: str) -> None:
    """Named widths and uniform shares are exact; where scores decide, their sum is nearly that of the run."""
    words = [tiny_model, "--max-weight-bytes", "400k", "--method", method, "--calibration", chapters]
    words += ["--calibration-tokens", 512, "-o", tmp_path / "out"]
    code, out, err = edge_transact("prune", *words, "--dry-run", "--json")
    assert code == 0, err
    expected = json.loads(out)
    _, shown, _ = edge_transact("prune", *words, "--dry-run")
    assert "in the last run" not in shown and "400,000 bytes in q4f16_0, of " in " ".join(shown.split())
    code, out, err = edge_transact("prune", *words, "--json")
    assert code == 0, err
    made = json.loads(out.splitlines()[-1])
    (limit,) = made["limits"]
    assert expected["limits"] == [
        {"limit": limit["limit"], "allowed": 400_000, "source": expected["source_weight_bytes"], "unit": limit["unit"]}
    ]
    is_known = method == "transact"
    assert expected["widths"] == (made["widths"] if is_known else None)
    assert expected["ratio"] == pytest.approx(made["ratio"], abs=0 if is_known else 0.02)
    assert expected["weight_bytes"] == pytest.approx(limit["measured"], rel=0 if is_known else 0.02)


def test_an_output_that_exists_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code, _, err = edge_transact("prune", "no/such/model", "--ratio", 0.3, "-o", tmp_path / "out")
    assert code == 1 and "out exists" in err and "--force" in err


def test_a_tokenizer_of_another_model_is_refused(make_llama, tiny_model, calibration, tmp_path: Path) -> None:
    path = make_llama()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((tiny_model / name).read_bytes())
    with pytest.raises(EdgeTransactError, match="vocabulary has 96"):
        prune(str(path), tmp_path / "out", PruneOptions(intermediate=20, **calibration))


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

    zeroed = AutoModelForCausalLM.from_pretrained(resolve_model("demo:smollm2"), dtype=torch.float32)
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype=torch.float32)
    for before, after in zip(zeroed.model.layers, pruned.model.layers, strict=True):
        rows = {row.numpy().tobytes() for row in after.mlp.up_proj.weight.detach()}
        kept = torch.tensor([row.numpy().tobytes() in rows for row in before.mlp.up_proj.weight.detach()])
        assert kept.sum() == 928
        before.mlp.down_proj.register_forward_pre_hook(lambda _, inputs, kept=kept: (inputs[0] * kept,))
    text = read_text("demo:sotu", "evaluation")[:20_000]
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("demo:smollm2"))
    ids = torch.tensor([tokenizer(text[:1000])["input_ids"][:64]])
    with torch.inference_mode():
        expected, actual = zeroed(ids).logits, pruned(ids).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    # Near the dense model's; a wrong cut gives thousands.
    assert perplexity(pruned, tokenizer, text, max_windows=2)["perplexity"] < 80


def test_pairs_under_a_norm_stay(make_llama, tmp_path: Path) -> None:
    model = make_llama(**FAMILIES["qwen3"])
    with pytest.raises(UsageError, match=r"--units queries-keys is not for Qwen3: an RMSNorm reads all dims"):
        prune(str(model), tmp_path / "out", PruneOptions(ratio=0.3, units=["mlp", "queries-keys"]))
    (tmp_path / "widths.json").write_text(json.dumps([{"qk_head_dim": 8}, {}, {}]))
    with pytest.raises(UsageError, match="qk_head_dim is less than 16: an RMSNorm reads all dims"):
        prune(str(model), tmp_path / "out", PruneOptions(widths=tmp_path / "widths.json"))
