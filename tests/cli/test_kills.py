"""Whatever ends a run, and where: the same command ends well, with the bytes of a run that nothing disturbed.

As a test, two are ended three times. ``make soak`` ends each fifty times, half of them inside C.
"""

import json
import os
import random
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.checkpoints import save_llama
from tests.support.dists import make_dist
from tests.support.kills import Ended, Runs
from tests.support.tokenizers import give_bytes

SEED = int(os.environ.get("EDGE_SOAK_SEED", "0"))

CALIBRATION = ("--calibration", "text.txt", "--calibration-tokens", 512)
BUILD = ("--quant", "q0f32", "--context", 64, "-o")
BENCH = ("--device", "host", "--lengths", "8+8", "--repetitions", 2, "--warmups", 0)
COMMANDS = {
    "pruned": ("prune", "model", "--ratio", 0.4, *CALIBRATION, "-o"),
    "healed": ("heal", "pruned", "--train", "text.txt", "--train-tokens", 1024, "-o"),
    "built": ("build", "model", "--target", "host", *BUILD),
    "report": ("eval", "model", "--text", "text.txt", "--window", 32, "--max-windows", 4, "--report"),
    "model.gguf": ("export", "model", "--type", "q4_0", "-o"),
    "bench.jsonl": ("bench", "built", *BENCH, "-o"),
    "app": ("bundle", "dist", "-o"),
    "phone": ("build", "model", "--target", "android-cpu", *BUILD),
}
"""What each command writes, and its words up to the output."""

NEEDED = {"healed": "pruned", "bench.jsonl": "built"}


class Undisturbed(dict):
    """What commands write if nothing disturbs them, made when it is asked for, and how many events that has."""

    def __init__(self, directory: Path, runs: Runs) -> None:
        self.directory, self.runs = directory, runs
        self.events: dict[str, int] = {}

    def __missing__(self, output: str) -> dict[str, object]:
        for needed in filter(None, [NEEDED.get(output)]):
            self[needed]
        ended = self.runs.run(*COMMANDS[output], output, umask=0o077)
        assert ended.code == 0, ended.stderr
        self.events[output] = ended.events
        self[output] = content(self.directory / output)
        return self[output]


@pytest.fixture(scope="module")
def runs():
    with Runs() as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(runs, tiny_model, chapters, tmp_path_factory) -> Undisturbed:
    directory = tmp_path_factory.mktemp("undisturbed")
    save_llama(directory / "model", vocab_size=1024, num_hidden_layers=2, hidden_size=96, intermediate_size=96)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, directory / "model")
    give_bytes(directory / "model")
    shutil.copy(chapters, directory / "text.txt")
    make_dist(directory / "dist", shards=[bytes(1000)])
    return Undisturbed(directory, runs.within(directory))


def content(path: Path) -> dict[str, object]:
    """The bytes of an output's files; of a bench, whose times differ and whose visits may have ended, repetitions."""
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        return {"repetitions": [record["tokens"] for record in records if record["kind"] == "repetition"]}
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def end_often(output: str, undisturbed: Undisturbed, directory: Path, times: int, *, inside: bool) -> None:
    """Ends runs of a command at random events, and looks at what is there after each and when one isn't disturbed."""
    whole, dice = undisturbed[output], random.Random(f"{output} {SEED}")
    for name in ("model", "dist", "text.txt", NEEDED.get(output)):
        if name:
            (directory / name).symlink_to(undisturbed.directory / name)
    runs = undisturbed.runs.within(directory)

    def strays() -> set[str]:
        """What is there besides what may be. From now on it counts as old, so that the next run may sweep it."""
        known = {"model", "dist", "text.txt", NEEDED.get(output), output, "cache", "tmp", "said"}
        found = [directory / name for name in set(os.listdir(directory)) - known]
        found += [file for file in (directory / "tmp").glob("*") if not file.name.startswith("torchinductor")]
        found += directory.glob("cache/*/.*")
        for path in found:
            os.utime(path, (0, 0))
        return {str(path) for path in found}

    def check(ended: Ended, before: set[str]) -> None:
        said = f"seed {SEED}, {output}: {ended}"
        assert not ended.left, said
        there = (directory / output).exists()
        if there and output != "bench.jsonl":
            assert content(directory / output) == whole, said
        if ended.code in (0, 130, 143):
            assert strays() <= before, said
        if ended.code == 1 and there:
            assert "exists" in ended.stderr, said
        else:
            assert ended.code in (0, 130, 143, *(-number for number in (2, 9, 14, 15))), said

    for _ in range(times):
        before = strays()
        number = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
        after_s = dice.choice([0, dice.random() / 5]) if inside else 0
        ended = runs.run(
            *COMMANDS[output], output, at=dice.randint(1, undisturbed.events[output]), number=number, after_s=after_s
        )
        check(ended, before)
        if ended.code in (0, 1):
            assert content(directory / output) == whole
            # The next one begins at the beginning.
            for name in (output, "cache"):
                shutil.rmtree(directory / name, ignore_errors=True)
            (directory / output).unlink(missing_ok=True)
    strays()
    check(runs.run(*COMMANDS[output], output), set())
    assert content(directory / output) == whole


@pytest.mark.parametrize("output", ["pruned", "built"])
def test_three_times(undisturbed, output, tmp_path):
    end_often(output, undisturbed, tmp_path, 3, inside=False)


@pytest.mark.soak
@pytest.mark.parametrize("output", COMMANDS)
def test_fifty_times(undisturbed, output, tmp_path):
    end_often(output, undisturbed, tmp_path, 50, inside=True)


@pytest.mark.soak
@pytest.mark.parametrize("force", [False, True])
def test_two_runs_into_one_output(undisturbed, runs, tmp_path, force):
    """The output is one of the two, whole; the other run says that it is there, unless it may replace it."""
    wholes = []
    directories = [tmp_path / name for name in ("first", "second")]
    words = [("prune", "model", "--ratio", ratio, *CALIBRATION, "-o") for ratio in (0.3, 0.4)]
    for directory, command in zip(directories, words, strict=True):
        directory.mkdir()
        for name in ("model", "text.txt"):
            (directory / name).symlink_to(undisturbed.directory / name)
        assert runs.within(directory).run(*command, "pruned").code == 0
        wholes.append(content(directory / "pruned"))
    with Runs(directories[1]) as second, ThreadPoolExecutor() as pool:
        for number in range(10):
            output = tmp_path / str(number) / "pruned"
            output.parent.mkdir()
            both = [
                pool.submit(its.run, *command, output, *["--force"] * force)
                for its, command in zip((runs.within(directories[0]), second), words, strict=True)
            ]
            ended = [each.result() for each in both]
            assert [each.code for each in ended if each.code] == [1] * (not force)
            assert all("exists" in each.stderr for each in ended if each.code)
            assert content(output) in [whole for whole, each in zip(wholes, ended, strict=True) if each.code == 0]
            assert os.listdir(output.parent) == ["pruned"]
