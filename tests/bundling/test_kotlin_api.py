"""The library's Kotlin API on the JVM, over the stand-in engine: `EdgeMain` does what an app does, and tells."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.byte_model import STOP_IDS
from tests.support.edge_api import DUMP, public_api
from tests.support.edge_app import REPOSITORY, engine
from tests.support.edge_library import library_command, shown_kotlin
from tests.support.patience import HANG_S

pytestmark = pytest.mark.needs("java", "javac", "npm")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the engine writes down what it is called with."""
    return tmp_path_factory.mktemp("log") / "calls.jsonl"


@pytest.fixture(scope="module")
def assets(app, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app's, with two models."""
    assets = tmp_path_factory.mktemp("assets")
    for name in ("short", "long"):
        (assets / name).symlink_to(app.assets / name)
    (assets / "models.json").write_text(json.dumps({"models": [app.entry("short"), app.entry("long")]}))
    return assets


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs a main class of the tests, but for its name."""
    return library_command(tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="module")
def told(app, log, assets, command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """What `EdgeMain` says at each step, on a phone where the app was killed at an earlier start."""
    phone = tmp_path_factory.mktemp("phone")
    names = {"JSON_FFI_LOG": str(log), "JSON_FFI_PACE": str(log.with_suffix(".pace")), "PYTHONPATH": str(REPOSITORY)}
    lines: list[str] = []
    for engines, code in ((["killed"], -signal.SIGKILL), (engine({"tiny": app.library, "tiny-cpu": app.library}), 0)):
        arguments = [*command, "edgetransact.tests.EdgeMain", str(phone), str(assets), *engines]
        variables = {**os.environ, **names}
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=HANG_S, cwd=REPOSITORY, env=variables)
        assert done.returncode == code, done.stdout + done.stderr
        lines += done.stdout.splitlines()
    return {step: words for step, *words in map(json.loads, lines)}


UNEXPECTED = "engine failed: java.lang."
CLOSED = "the model was closed: load it with Edge.load"
NO_ANDROID = (
    f"{UNEXPECTED}UnsatisfiedLinkError: 'android.content.Context android.content.Context.getApplicationContext()'"
)
TOLD = {
    "loading tells its stages, and the model last": ("stages", ["COPY", "LOAD", "KERNELS", True]),
    "after a start at which the app was killed, the CPU is taken": ("gave way", ["CPU", "GPU_FAILED"]),
    "and there is a way back": ("retried", ["OPENCL", "USUAL"]),
    "an answer's times are told": ("times", [True, True]),
    "its end alone is in the last piece": ("begun", [True]),
    "observers see the same": ("observers", ["Ready Answering Ready"] * 2),
    "an answer waits for another chat's": ("take turns", [True]),
    "another model takes the memory": ("another model", ["Unloaded", "null", "CPU", "PREFERRED"]),
    "a stopped answer ends its flow": ("stopped", ["STOPPED", "null", 2]),
    "so does an unloaded one's": ("unloaded", ["STOPPED", "Unloaded", 6]),
    "Java hears how loading goes": ("java reloads", ["LOAD KERNELS true", "OPENCL"]),
    "a message that is too long leaves all as it was": ("too long", ["CONTEXT_FULL 0 0", "Ready", 0]),
    "an engine that ends fails the flow": ("died", ["ENGINE_FAILED 0 0", "Failed", 0]),
    "a model that is too large is not loaded": ("small", ["TOO_LITTLE_MEMORY 1000 10", "Unloaded"]),
    "unless its user goes on all the same": ("anyway", ["Ready", "short"]),
    "there is nothing to answer again": (
        "nothing said", ["IllegalStateException there is no message to answer", "Ready"],
    ),
    "Java hears of errors": ("java hears", ["context full"]),
    "of there being nothing to answer": (
        "java has nothing to answer", [f"{UNEXPECTED}IllegalStateException: there is no message to answer"],
    ),
    "of a model that the app doesn't have": (
        "java has no such model",
        [f"{UNEXPECTED}IllegalArgumentException: the app has no model none, but [short, long]"],
    ),
    "of what no exception is": ("java has no Android", [NO_ANDROID]),
    "of a model that was closed": ("java closed", [f"{UNEXPECTED}IllegalStateException: {CLOSED}"] * 2),
    "who closes a model has no more of it": (
        "closed", [f"IllegalStateException {CLOSED}"],
    ),
    "nothing that failed or was closed is kept": ("watched", [2]),
    "nor a model that was loaded for somebody who left": ("given to nobody", [True, 0]),
    "but one that was handed over": ("given to somebody", ["Unloaded", "Ready", 2]),
    "an engine that can't be freed is given up": ("not freed", ["Unloaded", "Unloaded", "null"]),
    "nothing ends the app": ("uncaught", []),
}  # fmt: skip


@pytest.mark.parametrize("demand", TOLD)
def test_what_the_api_does(told, demand):
    step, words = TOLD[demand]
    assert told[step] == words


def answers(app, stop_ids, *messages: str) -> str:
    """What the model says after messages of its user and itself by turns."""
    roles = ("user", "assistant") * len(messages)
    return app.answer([list(message) for message in zip(roles, messages, strict=False)], stop_ids)[0]


def test_an_answer_streams(app, told):
    text, prompt_tokens, completion_tokens = app.answer([["user", "Hi"]], STOP_IDS)
    assert told["answer"][:4] == [text, "STOP", prompt_tokens, completion_tokens]
    assert told["answer"][4] > 2, "it came in pieces"


def test_weights_are_copied_once_with_progress(app, told):
    size = sum(path.stat().st_size for path in (app.assets / "short").iterdir())
    assert told["copied"] == [size, size]


def test_a_conversation_is_restored_and_its_answer_given_again(app, told):
    hi = answers(app, STOP_IDS, "Hi")
    assert told["restored"] == told["given again"] == [answers(app, STOP_IDS, "Hi", hi, "And?"), 4]


def test_two_chats_have_one_model(app, told):
    first, second = told["both"]
    assert first == answers(app, STOP_IDS, "Hi") == told["forgotten"][0]
    assert second and second != first


def test_cancelling_stops_the_engine_and_keeps_what_was_said(app, told):
    heard, kept, messages = told["cancelled"]
    whole = answers(app, [], "Hi")
    assert heard and kept.startswith(heard) and whole.startswith(kept) and len(kept) < len(whole) / 2
    assert messages == 2
    assert told["goes on"] == [answers(app, [], "Hi", kept, "And?"), 4]


def test_chats_survive_unloading_and_what_takes_their_place(app, told):
    hi = answers(app, STOP_IDS, "Hi")
    assert told["back again"] == [hi, answers(app, STOP_IDS, "Hi", hi, "And?"), "Ready", "Unloaded"]
    assert told["reloaded"] == ["PREFERRED", answers(app, STOP_IDS, "Hi", hi, "And?", told["back again"][1], "Why?"), 6]


def test_after_an_engine_ends_the_next_message_is_answered_on_the_cpu(app, told):
    assert told["after death"] == [answers(app, STOP_IDS, "Hi"), "CPU", "GPU_FAILED"]


def test_java_can_ask(app, told):
    assert told["java"] == ["STOP " + answers(app, STOP_IDS, "Hi")]


def test_what_the_engine_is_asked(told, log):
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    functions = [call["function"] for call in calls]
    asked = [call["arguments"] for call in calls if call["function"] == "chat_completion"]
    requests = [json.loads(request) for request, _ in asked]
    all_of_it = {
        "temperature": 0.5, "top_p": 0.25, "frequency_penalty": -2.0, "presence_penalty": 1.5, "seed": 7,
        "max_tokens": 9, "stop": ["é", "\n\n"],
    }  # fmt: skip
    (full,) = [request for request in requests if request.get("seed") == 7]
    assert full.items() >= all_of_it.items()
    (brief,) = [request["messages"] for request in requests if request.get("max_tokens") == 3]
    assert [(each["role"], each["content"]) for each in brief] == [("system", "Be brief. "), ("user", "Hi")]
    assert [request["response_format"] for request in requests if "response_format" in request]
    said = [[message["content"] for message in request["messages"]] for request in requests]
    after = next(index for index, texts in enumerate(said) if told["cancelled"][1] in texts)
    assert [asked[after - 1][1]] in [call["arguments"] for call in calls if call["function"] == "abort"]
    # Each model that was loaded was freed but that of the engine that ended.
    assert functions.count("unload") == functions.count("reload") - 1
    assert "not cancelled" not in told


def test_whatever_an_app_does_at_once_one_model_is_in_memory_and_nothing_hangs(command, assets, tmp_path):
    """Eight users of two models, with an engine that dies now and then."""
    arguments = [*command, "edgetransact.tests.StressMain", str(tmp_path), str(assets), "60", "1"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stdout + done.stderr
    most, answers, watched = map(int, done.stdout.split())
    assert (most, watched) == (1, 0) and answers > 0


def test_what_is_public_is_what_the_dump_says():
    """Whoever changes it changes `edge_api.DUMP`, too."""
    again = f"{DUMP.name} has another API; if that is meant: python -m tests.support.edge_api"
    assert public_api() == DUMP.read_text(), again


def test_the_lines_that_documents_show_compile_as_they_stand(command):
    """They are compiled with the tests: `library_command` fails otherwise."""
    assert any("Edge.load(context" in block for block in shown_kotlin())
