"""The core of an app's edge module, on the JVM: sessions, weights and errors, with real tokens of a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.byte_model import STOP_IDS, TEMPLATE_TOKENS, byte_model
from tests.support.edge_app import Core, Failed, entry, said
from tests.support.json_ffi.engine import Engine

pytestmark = pytest.mark.needs("java", "javac")

WINDOW = 128
LIMIT = WINDOW - 10
ENOUGH = 10**9
BOTH = {"android": "tiny", "android-cpu": "tiny-cpu"}


class App:
    """An app with models on a phone: the core, the files of the app, and the model itself to compare with.

    Attributes:
        core: The core, in its process.
        assets: What travels in the app.
    """

    def __init__(self, dist: Path, directory: Path) -> None:
        (library,) = (dist / "lib").glob("*-host.so")
        self.assets, self._directory = directory / "assets", directory
        self.assets.mkdir(parents=True)
        byte_model(dist, self.assets / "short")
        byte_model(dist, self.assets / "long", stop_ids=[])
        self.core = Core({"tiny": library, "tiny-cpu": library}, directory / "calls.jsonl")
        self.library, self._model = library, None

    def entry(self, directory: str, /, **changes: Any) -> dict[str, Any]:
        """A model's entry in ``models.json``."""
        return entry(self.assets / directory, **{"libraries": BOTH} | changes)

    def read(self, *entries: dict[str, Any]) -> list[dict[str, str]]:
        """Have the core read ``models.json``."""
        return self.core("models", json=json.dumps({"models": entries}))["models"]

    def phone(self, name: str) -> dict[str, Path]:
        """The directories of a phone with this name, as arguments of a command."""
        home = self._directory / "phones" / name
        home.mkdir(parents=True, exist_ok=True)
        return {"assets": self.assets, "internal": home / "internal", "external": home / "external"}

    def load(self, name: str) -> None:
        """Load a model straight from the assets."""
        self.read(self.entry(name))
        self.core("load", id=name, open_cl=True, memory=ENOUGH, weights=self.assets / name)

    def send(self, text: str, **options: Any) -> list[Any]:
        """Send a message, and return all that is heard of the answer."""
        return self.core("send", text=text, **options)["events"]

    def answer(self, messages: list[list[str]], stop_ids: list[int]) -> tuple[str, int, int]:
        """What the model says, as edge-transact runs it: text, tokens of the prompt, tokens of the answer."""
        from edge_transact.runtime.host import HostModel
        from edge_transact.runtime.text import TextCodec

        self._model = self._model or HostModel(self.library, self.assets / "short")
        codec = TextCodec(self.assets / "short")
        ids = codec.encode_chat([{"role": role, "content": text} for role, text in messages])
        self._model.reset()
        tokens: list[int] = []
        for token in self._model.generate(ids, LIMIT - len(ids)):
            tokens.append(token)
            if token in stop_ids:
                break
        text = codec.tokenizer.decode([token for token in tokens if token not in stop_ids])
        return text, len(ids), len(tokens)


@pytest.fixture(scope="module")
def app(built_dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An app, whose core keeps running."""
    app = App(built_dist, tmp_path_factory.mktemp("app"))
    yield app
    app.core.kill()


def test_an_answer_is_the_models(app):
    app.load("short")
    for text in ("Hi", "Tell me a story", 'it\'s "$(x)" <b> &amp; \\ \n\t\x00 é 😀 ', "{user_message} {system_message}"):
        app.core("reset")
        events = app.send(text)
        expected, prompt_tokens, completion_tokens = app.answer([["user", text]], STOP_IDS)
        assert said(events) == expected and "😀" in expected
        assert events[-2] == ["end", "STOP"]
        assert events[-1]["prompt_tokens"] == prompt_tokens == len(text.encode()) + TEMPLATE_TOKENS
        assert events[-1]["completion_tokens"] == completion_tokens
        assert min(events[-1]["prefill_tokens_per_s"], events[-1]["decode_tokens_per_s"]) > 0
        assert app.core("messages")["messages"] == [["user", text], ["assistant", expected]]


def test_edge_transact_run_says_the_same(app):
    from edge_transact.runtime.host import HostModel
    from edge_transact.runtime.session import Session
    from edge_transact.runtime.text import TextCodec

    directory = app.assets / "short"
    session = Session(HostModel(app.library, directory), TextCodec(directory), stop_token_ids=set(STOP_IDS))
    app.load("short")
    answer = session.answer("Hi")
    assert said(app.send("Hi")) == session.codec.decode(answer.tokens) and answer.text


def test_characters_arrive_whole_and_in_pieces(app):
    app.load("long")
    pieces = [text for kind, text in app.send("Hi")[:-2] if kind == "text"]
    assert len(pieces) > 20 and all(pieces)
    # Its halves are the ends of two tokens.
    assert any("😀" in piece for piece in pieces)
    assert not any("\ud800" <= unit <= "\udfff" for piece in pieces for unit in piece)


def test_the_model_sees_the_turns_before(app):
    app.load("short")
    messages: list[list[str]] = []
    for text in ("Hi", "And?", "Why?"):
        messages.append(["user", text])
        events = app.send(text)
        expected, prompt_tokens, _ = app.answer(messages, STOP_IDS)
        assert said(events) == expected
        assert events[-1]["prompt_tokens"] == prompt_tokens
        messages.append(["assistant", expected])
        assert app.core("messages")["messages"] == messages
    app.core("reset")
    assert app.core("messages")["messages"] == []
    assert said(app.send("Hi")) == messages[1][1]


def test_an_answer_is_stopped(app):
    app.load("long")
    whole = said(app.send("Hi"))
    app.core("reset")
    aborted = len(app.core.calls("abort"))
    events = app.send("Hi", stop_after=5)
    assert events[-2:] == [["end", "STOPPED"], {}]
    assert whole.startswith(said(events)) and 5 <= len(events) - 2 < 40
    assert app.core("messages")["messages"] == [["user", "Hi"], ["assistant", said(events)]]
    # The engine is free for the next: this answer takes the whole window.
    expected, *_ = app.answer([["user", "Hi"], ["assistant", said(events)], ["user", "And?"]], [])
    assert said(app.send("And?")) == expected
    assert len(app.core.calls("abort")) == aborted + 1


def test_an_answer_is_stopped_before_its_first_token(app):
    app.load("long")
    events = app.send("Hi", stop_after=0)
    assert events == [["end", "STOPPED"], {}]
    assert said(app.send("Hi again", stop_after=3)) != ""


def test_one_answer_at_a_time(app):
    app.load("long")
    with pytest.raises(ValueError, match="still being given"):
        app.send("Hi", twice=True)
    app.core("stop")
    app.core("close")
    with pytest.raises(ValueError, match="closed"):
        app.send("Hi")


def test_the_engine_gets_room_behind_the_window(app):
    app.load("short")
    assert app.core.calls("reload")[-1] == {
        "model": str(app.assets / "short"),
        "model_lib": "system://tiny",
        "mode": "interactive",
        "max_num_sequence": 1,
        "max_total_sequence_length": WINDOW + 160,
        "max_single_sequence_length": LIMIT,
        "prefix_cache_mode": "radix",
    }


@pytest.mark.parametrize(
    ("config", "dies"),
    [
        ({}, True),
        ({"max_total_sequence_length": WINDOW + 160}, False),
        ({"max_single_sequence_length": LIMIT}, False),
    ],
    ids=["MLC's own", "more room", "an earlier end"],
)
def test_without_that_the_engine_dies_at_the_end_as_mlcs_does(app, config, dies):
    heard: list[dict[str, Any]] = []
    ended = threading.Event()

    def said(responses: str) -> None:
        heard.extend(json.loads(responses))
        if heard and "usage" in heard[-1]:
            ended.set()

    def died(reason: str) -> None:
        heard.append({"died": reason})
        ended.set()

    engine = Engine({"tiny": app.library}, said, died)
    engine.reload(json.dumps({"model": str(app.assets / "long"), "model_lib": "tiny", "mode": "interactive"} | config))
    engine.chat_completion(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}), "one")
    assert ended.wait(60)
    assert ("died" in heard[-1]) == dies
    if not dies:
        assert heard[-2]["choices"][0]["finish_reason"] == "length"


def test_the_oldest_turns_go_when_the_window_is_full(app):
    app.load("short")
    messages: list[list[str]] = []
    sizes = []
    for number in range(8):
        text = f"{number}, please"
        events = app.send(text)
        kept = app.core("messages")["messages"]
        messages += [["user", text], ["assistant", said(events)]]
        # What is left are the latest turns, and the answer is the one to them.
        assert kept == messages[-len(kept) :]
        expected, prompt_tokens, _ = app.answer(kept[:-1], STOP_IDS)
        assert said(events) == expected
        assert events[-1]["prompt_tokens"] == prompt_tokens < LIMIT
        sizes.append(len(kept) // 2)
    assert sizes[:2] == [1, 2] and max(sizes) < 8


def test_an_answer_that_fills_the_window(app):
    app.load("long")
    events = app.send("Hi")
    assert events[-2] == ["end", "LENGTH"]
    assert events[-1]["prompt_tokens"] + events[-1]["completion_tokens"] == LIMIT
    assert said(events) == app.answer([["user", "Hi"]], [])[0]
    # It leaves no room for itself: the next message is the first.
    assert said(app.send("Ho")) == app.answer([["user", "Ho"]], [])[0]
    assert len(app.core("messages")["messages"]) == 2


def test_a_message_that_is_longer_than_the_window(app):
    app.load("short")
    before = said(app.send("Hi"))
    longest = LIMIT - TEMPLATE_TOKENS - 1
    for characters in (longest + 1, 100_000):
        events = app.send("x" * characters)
        assert events[-2] == ["end", "FAILED"] and events[-1]["code"] == "CONTEXT_FULL"
        assert app.core("messages")["messages"] == [["user", "Hi"], ["assistant", before]]
    events = app.send("x" * longest)
    assert events[-2] == ["end", "LENGTH"]
    assert (events[-1]["prompt_tokens"], events[-1]["completion_tokens"]) == (LIMIT - 1, 1)


def test_an_engine_that_dies(app):
    """`reload` of a dead engine never returns, and the core says so all the same."""
    model = app.entry("short", libraries={"android": "tiny", "android-cpu": "not_there"})
    app.read(model)
    with pytest.raises(Failed, match="Cannot find library system://not_there") as failed:
        app.core("load", id="short", open_cl=False, memory=ENOUGH, weights=app.assets / "short")
    assert failed.value.code == "ENGINE_FAILED"
    app.load("short")
    assert said(app.send("Hi"))


def test_weights_that_the_library_does_not_fit(app, tmp_path):
    shutil.copytree(app.assets / "short", tmp_path / "short")
    (tmp_path / "short" / "tensor-cache.json").write_text('{"records": []}')
    app.read(app.entry("short"))
    with pytest.raises(Failed) as failed:
        app.core("load", id="short", open_cl=True, memory=ENOUGH, weights=tmp_path / "short")
    assert failed.value.code == "ENGINE_FAILED"


BYTES = {"android": 1000, "android-cpu": 900}


@pytest.mark.parametrize(
    ("libraries", "open_cl", "memory", "chosen"),
    [
        (BOTH, True, 1000, "android"),
        (BOTH, False, 1000, "android-cpu"),
        (BOTH, False, 900, "android-cpu"),
        (BOTH, True, 999, "TOO_LITTLE_MEMORY"),
        (BOTH, False, 899, "TOO_LITTLE_MEMORY"),
        ({"android-cpu": "tiny-cpu"}, True, 900, "android-cpu"),
        ({"android": "tiny"}, True, 1000, "android"),
        ({"android": "tiny"}, False, 1000, "NO_LIBRARY"),
    ],
)
def test_the_choice_of_a_library(app, libraries, open_cl, memory, chosen):
    app.read(app.entry("short", libraries=libraries, memory_bytes={name: BYTES[name] for name in libraries}))
    arguments = {"id": "short", "open_cl": open_cl, "memory": memory}
    if chosen in libraries:
        assert app.core("choose", **arguments) == {"device": chosen, "library": libraries[chosen]}
        return
    with pytest.raises(Failed) as failed:
        app.core("choose", **arguments)
    assert failed.value.code == chosen
    if chosen == "TOO_LITTLE_MEMORY":
        needed = BYTES["android" if open_cl else "android-cpu"]
        assert (failed.value.fields["needed"], failed.value.fields["available"]) == (needed, memory)


def test_two_models(app):
    app.read(app.entry("short"), app.entry("long", name="Long & <b>"))
    answers = []
    for name in ("short", "long", "short"):
        app.core("load", id=name, open_cl=False, memory=ENOUGH, weights=app.assets / name)
        assert app.core.calls("reload")[-1]["model_lib"] == "system://tiny-cpu"
        answers.append(said(app.send("Hi")))
        app.core("close")
    assert answers[0] == answers[2] == app.answer([["user", "Hi"]], STOP_IDS)[0]
    assert answers[1] == app.answer([["user", "Hi"]], [])[0]


def change(path: Path, offset: int = 1000) -> None:
    """Flip bits of one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def same(directory: Path, other: Path) -> bool:
    """Whether two directories hold the same files."""
    contents = [{path.name: path.read_bytes() for path in each.iterdir()} for each in (directory, other)]
    return contents[0] == contents[1]


SHARD = "params_shard_0.bin"


def test_weights_are_copied_once(app):
    phone = app.phone("once")
    model = app.entry("short")
    app.read(model)
    result = app.core("prepare", id="short", **phone)
    assert result["path"] == str(phone["internal"] / "short")
    assert same(phone["internal"] / "short", app.assets / "short")
    total = sum(file["bytes"] for file in model["files"])
    assert {(stage, all_of_it) for stage, _, all_of_it in result["progress"]} == {("COPY", total)}
    done = [done for _, done, _ in result["progress"]]
    assert done == sorted(done) and (done[0], done[-1]) == (0, total)
    assert app.core("prepare", id="short", **phone)["progress"] == []


def test_a_damaged_copy_is_made_again(app):
    phone = app.phone("damaged")
    app.read(app.entry("short"))
    app.core("prepare", id="short", **phone)
    change(phone["internal"] / "short" / SHARD)
    (phone["internal"] / "short" / "tokenizer.json").unlink()
    app.core("prepare", id="short", **phone)
    assert same(phone["internal"] / "short", app.assets / "short")


def test_an_update_of_the_app_brings_other_weights(app, tmp_path):
    phone = app.phone("update")
    app.read(app.entry("short"))
    app.core("prepare", id="short", **phone)
    phone["assets"] = tmp_path
    shutil.copytree(app.assets / "short", tmp_path / "short")
    change(tmp_path / "short" / SHARD)
    app.read(entry(tmp_path / "short", BOTH))
    app.core("prepare", id="short", **phone)
    assert same(phone["internal"] / "short", tmp_path / "short")
    app.read(app.entry("long"))
    app.core("keep_only", **phone)
    assert list(phone["internal"].iterdir()) == []


def test_a_damaged_or_missing_asset(app, tmp_path):
    phone = app.phone("asset") | {"assets": tmp_path}
    shutil.copytree(app.assets / "short", tmp_path / "short")
    change(tmp_path / "short" / SHARD)
    app.read(app.entry("short"))
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **phone)
    assert (failed.value.code, failed.value.fields["detail"]) == ("WEIGHTS_DAMAGED", SHARD)
    (tmp_path / "short" / SHARD).unlink()
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **phone)
    assert (failed.value.code, failed.value.fields["detail"]) == ("WEIGHTS_MISSING", f"short/{SHARD}")
    assert not (phone["internal"] / "short").exists()


def test_installed_weights(app):
    phone = app.phone("installed")
    app.read(app.entry("short", weights="install"))
    directory = phone["external"] / "short"

    def code() -> str:
        with pytest.raises(Failed) as failed:
            app.core("prepare", id="short", **phone)
        return failed.value.code

    assert code() == "WEIGHTS_MISSING"
    shutil.copytree(app.assets / "short", directory)
    os.truncate(directory / SHARD, 1000)
    assert code() == "WEIGHTS_MISSING"
    shutil.copy(app.assets / "short" / SHARD, directory)
    change(directory / SHARD)
    assert code() == "WEIGHTS_DAMAGED"
    shutil.copy(app.assets / "short" / SHARD, directory)
    result = app.core("prepare", id="short", **phone)
    assert result["path"] == str(directory) and {stage for stage, *_ in result["progress"]} == {"VERIFY"}
    assert app.core("prepare", id="short", **phone)["progress"] == []
    # Whoever can write there can't make the app believe it.
    change(directory / SHARD)
    assert code() == "WEIGHTS_DAMAGED"


def test_a_copy_that_was_killed_goes_on(app, tmp_path):
    """The second time, the first half of the asset is wrong: nobody reads it again."""
    phone = app.phone("killed") | {"assets": tmp_path}
    model = app.entry("short")
    shutil.copytree(app.assets / "short", tmp_path / "short")
    content, shard = (tmp_path / "short" / SHARD).read_bytes(), tmp_path / "short" / SHARD
    half = len(content) // 2
    shard.unlink()
    os.mkfifo(shard)
    core = Core({}, tmp_path / "calls.jsonl")
    core("models", json=json.dumps({"models": [model]}))
    copying = threading.Thread(target=lambda: pytest.raises(ValueError, core, "prepare", id="short", **phone))
    copying.start()
    part = phone["internal"] / ".short.part" / SHARD
    with shard.open("wb", buffering=0) as pipe:
        pipe.write(content[:half])
        wait_until(lambda: part.exists() and part.stat().st_size == half)
        core.kill()
        copying.join()
    shard.unlink()
    shard.write_bytes(bytes(half) + content[half:])
    app.read(model)
    app.core("prepare", id="short", **phone)
    assert same(phone["internal"] / "short", app.assets / "short")


def wait_until(condition: Any) -> None:
    """Wait for another process."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB, which the weights almost fill."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_storage_that_is_too_small_from_the_start(app, small):
    phone = app.phone("small") | {"internal": small / "models"}
    (small / "photos").write_bytes(bytes(200_000))
    model = app.entry("short")
    app.read(model)
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **phone)
    assert failed.value.code == "STORAGE_FULL"
    assert failed.value.fields["needed"] == sum(file["bytes"] for file in model["files"])
    assert 0 < failed.value.fields["available"] < failed.value.fields["needed"]
    (small / "photos").unlink()
    app.core("prepare", id="short", **phone)
    assert same(small / "models" / "short", app.assets / "short")


def test_storage_that_fills_up_meanwhile(app, small, tmp_path):
    phone = app.phone("filling") | {"internal": small / "models", "assets": tmp_path / "assets"}
    shutil.copytree(app.assets / "short", tmp_path / "assets" / "short")
    shard = tmp_path / "assets" / "short" / SHARD
    content = shard.read_bytes()
    shard.unlink()
    os.mkfifo(shard)
    app.read(app.entry("short"))

    def fill() -> None:
        with shard.open("wb") as pipe:
            (small / "photos").write_bytes(bytes(400_000))
            with pytest.raises(BrokenPipeError):
                pipe.write(content)

    filling = threading.Thread(target=fill)
    filling.start()
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **phone)
    filling.join()
    assert failed.value.code == "STORAGE_FULL"
    (small / "photos").unlink()
    shard.unlink()
    shard.write_bytes(content)
    app.core("prepare", id="short", **phone)
    assert same(small / "models" / "short", app.assets / "short")


IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
ODD = st.text(st.characters(), max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.tuples(IDS, ODD), unique_by=lambda each: each[0].lower(), min_size=1, max_size=3))
def test_names_are_data(app, names):
    entries = [app.entry("short", id=model, name=name) for model, name in names]
    assert app.read(*entries) == [{"id": model, "name": name} for model, name in names]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "../short"},
        {"id": ".short"},
        {"id": "a/b"},
        {"id": ""},
        {"libraries": {}},
        {"libraries": {"android": "$(reboot)"}},
        {"libraries": {"iphone": "tiny"}},
        {"memory_bytes": {}},
        {"weights": "cloud"},
        {"digest": "1234"},
        {"files": []},
        {"files": [{"path": "../../databases/x", "bytes": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "x", "bytes": "many", "sha256": "0" * 64}]},
        {"context_window_size": None},
    ],
    ids=str,
)
def test_models_that_make_no_sense(app, wrong):
    with pytest.raises(Failed) as failed:
        app.read(app.entry("short", **wrong))
    assert failed.value.code == "MODELS_INVALID"


def test_two_models_of_one_name(app):
    with pytest.raises(Failed, match="two models"):
        app.read(app.entry("short", id="Tiny"), app.entry("long", id="tiny"))


def test_texts_reach_the_model_as_they_are(app):
    """All but halves of surrogate pairs, which are no characters."""
    app.load("short")

    @settings(max_examples=25, deadline=None)
    @given(text=st.text(st.characters(exclude_categories=()), max_size=15))
    def check(text: str) -> None:
        app.core("reset")
        events = app.send(text)
        heard = app.core.calls("chat_completion")[-1]["messages"][-1]["content"]
        assert heard == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert said(events) == app.answer([["user", heard]], STOP_IDS)[0]

    check()
