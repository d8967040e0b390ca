"""Tokenizers of checkpoints without tokenizer.json: SentencePiece models, as LLaMA-2 came with, are converted."""

import json
import sys

import pytest
from typer.testing import CliRunner

from edge_transact.building import dist
from edge_transact.checkpoint import Checkpoint
from edge_transact.cli import app
from edge_transact.errors import EdgeTransactError
from edge_transact.mlc.chat_config import tokenizer_info
from edge_transact.runtime.text import TextCodec

TEXTS = ["The quick brown fox 7 jumps", "two  spaces, ünïcödé and \N{GRINNING FACE}", "a\nb\tc"]


@pytest.fixture(scope="module")
def sentencepiece_files(tmp_path_factory):
    """A SentencePiece model trained on a few lines, with LLaMA-2's settings, as in a checkpoint's directory."""
    import sentencepiece

    directory = tmp_path_factory.mktemp("sentencepiece")
    lines = [f"The quick brown fox {i} jumps over the lazy dog, and {i * i} more. ünïcödé" for i in range(300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(directory / "tokenizer"),
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config | names))
    return directory


@pytest.fixture
def checkpoint(make_llama, sentencepiece_files):
    directory = make_llama(vocab_size=360)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (directory / name).write_bytes((sentencepiece_files / name).read_bytes())
    return directory


def test_a_converted_sentencepiece_tokenizer_gives_the_same_ids(checkpoint, tmp_path):
    import sentencepiece

    converted = dist._with_fast_tokenizer(Checkpoint.open(checkpoint), tmp_path / "converted").path
    assert (converted / "tokenizer.json").is_file() and not (converted / "tokenizer.model").exists()
    original = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint / "tokenizer.model"))
    codec = TextCodec(converted)
    for text in TEXTS:
        ids = codec.encode(text)
        assert ids == [1, *original.encode(text)]
        assert codec.decode(ids) == original.decode(ids)
    assert tokenizer_info(converted)["token_postproc_method"] == "byte_fallback"


@pytest.mark.slow
def test_its_dist_has_tokenizer_json_and_continues_text(checkpoint, tmp_path):
    """A base model: without a chat template, MLC gets its plain conversation, and `run` needs no --raw."""
    output = tmp_path / "dist"
    arguments = ["build", str(checkpoint), "--target", "host", "--quant", "q0f32", "-o", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "convert tokenizer.model" in result.stderr
    config = json.loads((output / "mlc-chat-config.json").read_text())
    assert "tokenizer.json" in config["tokenizer_files"] and "tokenizer.model" not in config["tokenizer_files"]
    assert config["conv_template"]["name"] == "LM" and config["conv_template"]["system_prefix_token_ids"] == [1]
    answers = [
        CliRunner().invoke(
            app, ["run", str(output), "--prompt", "The fox", "--max-tokens", "4", "--temperature", "0", "--json", *raw]
        )
        for raw in ([], ["--raw"])
    ]
    assert [answer.exit_code for answer in answers] == [0, 0]
    tokens = [json.loads(answer.stdout.splitlines()[-1])["tokens"] for answer in answers]
    assert tokens[0] == tokens[1] and len(tokens[0]) > 0


def test_a_missing_package_names_its_extra(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(EdgeTransactError, match="needs sentencepiece") as caught:
        dist._with_fast_tokenizer(Checkpoint.open(checkpoint), tmp_path / "converted")
    assert "edge-transact[sentencepiece]" in caught.value.fix
