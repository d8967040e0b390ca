"""What a command reads is there afterwards, whatever it is told to write."""

import shutil
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.examples import small_model, split
from tests.support.tokenizers import give_bytes


@pytest.fixture
def models(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and its teacher in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("model", "teacher"):
        small_model(tmp_path / name)


@pytest.mark.parametrize(
    "line",
    [
        "prune model --ratio 0.3 -o model --force",
        "heal model --teacher teacher -o model --force",
        "heal model --teacher teacher -o teacher --force",
        "heal model --teacher teacher -o out --report model --force",
        "heal model --teacher teacher -o out --report out",
        "build model --target host -o model --force",
        "export model --type f16 -o model --force",
        "eval model --report model --force",
        "eval teacher --reference model --report model --force",
        "prune model --ratio 0.3 -o . --force",
        "build model --target host -o .. --force",
    ],
)
def test_no_output_replaces_an_input(line: str, tmp_path, models: None) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    result = run(*split(line))
    assert result.exit_code == 2 and "would replace" in result.stderr, result.output
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    [
        "prune model --ratio 0.3 --calibration o/t.txt -o o --force",
        "heal model --teacher teacher --train o/t.txt -o o --force",
        "build model --target host --ratio 0.3 --calibration o/t.txt -o o --force",
    ],
)
def test_no_output_replaces_a_text(line: str, tmp_path, models: None) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "t.txt").write_text("Words. " * 4000)
    result = run(*split(line))
    assert result.exit_code and ("would replace" in result.stderr or "holds t.txt" in result.stderr), result.output
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["t.txt"]


@pytest.mark.soak
def test_every_command_replaces_what_it_wrote(tiny_model, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Some words for a small model to read. " * 400)
    give_bytes(Path(shutil.copytree(tiny_model, "tiny")))
    for line in (
        "prune tiny --ratio 0.3 --calibration-tokens 512 -o pruned --report page/prune",
        "heal pruned --train text.txt --train-tokens 1024 -o healed",
        "export healed --pre gpt-2 -o healed.gguf",
        "eval pruned --max-windows 1 --report page/eval",
        "inspect pruned --plot page/flops.png",
        "inspect pruned --plot page/flops.svg",
    ):
        for _ in range(2):
            result = run(*split(line), "--force")
            assert result.exit_code == 0, result.output
