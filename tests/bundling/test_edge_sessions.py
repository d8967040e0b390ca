"""An app's conversations, on the JVM: the core of the edge module, with real tokens of a tiny model."""

import json
import re
import shutil
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_transact.runtime.host import HostModel
from edge_transact.runtime.session import Session
from edge_transact.runtime.text import TextCodec
from tests.support.byte_model import STOP_IDS, TEMPLATE_TOKENS
from tests.support.edge_app import ENOUGH, WINDOW, Failed, java, said
from tests.support.json_ffi.engine import Engine
from tests.support.patience import HANG_S

pytestmark = pytest.mark.needs("java", "javac")

QWEN_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type":"function","function":{"name":"weather","description":"Tells the weather.","parameters":\
{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
"""As Qwen2.5's chat template writes it, but for spaces in the JSON."""


def test_an_answer_is_the_models(app):
    app.load("short")
    odd = 'it\'s "$(x)" <b> &amp; \\ \n\t\x00 é 😀 '
    for text in ("Hi", "Tell me a story", odd, "{user_message} {system_message}"):
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
    with app.core.pace(hold=12):
        events = app.send("Hi", stop_after=3)
    assert events[-2:] == [["end", "STOPPED"], {}]
    assert whole.startswith(said(events)) and 3 <= len(events) - 2 <= 12
    assert app.core("messages")["messages"] == [["user", "Hi"], ["assistant", said(events)]]
    # The engine is free for the next: this answer takes the whole window.
    expected, *_ = app.answer([["user", "Hi"], ["assistant", said(events)], ["user", "And?"]], [])
    assert said(app.send("And?")) == expected
    assert len(app.core.calls("abort")) == aborted + 1


def test_an_answer_is_stopped_before_its_first_token(app):
    app.load("long")
    with app.core.pace(hold=0):
        assert app.send("Hi", stop_after=0) == [["end", "STOPPED"], {}]
    assert said(app.send("Ho")) == app.answer([["user", "Hi"], ["assistant", ""], ["user", "Ho"]], [])[0]


def test_one_answer_at_a_time(app):
    app.load("long")
    with app.core.pace(hold=0), pytest.raises(ValueError, match="still being given"):
        app.send("Hi", twice="")
    app.core("stop")
    app.core("close")
    with pytest.raises(ValueError, match="closed"):
        app.send("Hi")


def test_loading_tells_its_stages(app):
    loaded = app.load("short")
    assert loaded["progress"] == [["LOAD", 0, 1], ["LOAD", 1, 1], ["KERNELS", 0, 1], ["KERNELS", 1, 1]]
    # The first answer was nobody's.
    assert app.core("messages")["messages"] == []


@pytest.mark.parametrize("stage", ["LOAD", "KERNELS"])
def test_loading_is_given_up(app, stage):
    """As when another model is chosen meanwhile: this one is freed."""
    freed = len(app.core.calls("unload"))
    with app.core.pace(hold=0), pytest.raises(ValueError, match="interrupted"):
        app.load("short", interrupt=stage)
    assert len(app.core.calls("unload")) == freed + 1
    app.load("short")
    assert said(app.send("Hi")) == app.answer([["user", "Hi"]], STOP_IDS)[0]


def test_the_engine_gets_room_behind_the_window(app):
    app.load("short")
    assert app.core.calls("reload")[-1] == {
        "model": str(app.assets / "short"), "model_lib": "system://tiny", "mode": "interactive", "max_num_sequence": 1,
        "max_total_sequence_length": WINDOW + 160, "prefix_cache_mode": "radix",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "dies"),
    [
        pytest.param({}, True, id="MLC's own"),
        pytest.param({"max_total_sequence_length": WINDOW + 160}, False, id="more room"),
        pytest.param({"max_single_sequence_length": WINDOW - 8}, False, id="an earlier end"),
    ],
)
def test_without_that_the_engine_dies_at_the_end_as_mlcs_does(app, config, dies):
    heard = []
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


def seen(app) -> list[list[str]]:
    """The messages of the last request."""
    return [[each["role"], each["content"]] for each in app.core.calls("chat_completion")[-1]["messages"]]


def test_the_oldest_turns_are_left_out_when_the_window_is_full(app):
    app.load("short")
    messages: list[list[str]] = []
    sizes = []
    for number in range(8):
        messages.append(["user", f"{number}?"])
        events = app.send(messages[-1][1])
        kept = seen(app)
        # What is left are the latest turns, and the answer is the one to them.
        assert kept == messages[-len(kept) :]
        expected, prompt_tokens, _ = app.answer(kept, STOP_IDS)
        assert said(events) == expected
        assert events[-1]["prompt_tokens"] == prompt_tokens < WINDOW
        sizes.append(len(kept) // 2)
        messages.append(["assistant", expected])
        everything = app.core("messages")
        assert everything == {"messages": messages, "left_out": len(messages) - 1 - len(kept)}
    assert sizes[:2] == [0, 1] and 1 < max(sizes) < 7


def test_an_answer_that_fills_the_window(app):
    app.load("long")
    events = app.send("Hi")
    assert events[-2] == ["end", "LENGTH"]
    assert events[-1]["prompt_tokens"] + events[-1]["completion_tokens"] == WINDOW
    assert said(events) == app.answer([["user", "Hi"]], [])[0]
    # It leaves no room for itself: the next message is the first.
    assert said(app.send("Ho")) == app.answer([["user", "Ho"]], [])[0]
    assert app.core("messages")["left_out"] == 2


def test_a_message_that_is_longer_than_the_window(app):
    app.load("short")
    before = said(app.send("Hi"))
    longest = WINDOW - TEMPLATE_TOKENS - 1
    for characters in (longest + 1, 100_000):
        events = app.send("x" * characters)
        assert events[-2] == ["end", "FAILED"] and events[-1]["code"] == "CONTEXT_FULL"
        assert app.core("messages")["messages"] == [["user", "Hi"], ["assistant", before]]
    events = app.send("x" * longest)
    assert events[-2] == ["end", "LENGTH"]
    assert (events[-1]["prompt_tokens"], events[-1]["completion_tokens"]) == (WINDOW - 1, 1)


def test_a_prompt_that_the_engine_refuses_is_tried_with_fewer_turns(app, tmp_path):
    """This tokenizer makes more tokens of a text than it has bytes, so the core expects them to fit."""
    shutil.copytree(app.assets / "short", tmp_path / "short")
    tokenizer = json.loads((tmp_path / "short" / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "~"}, "content": "~" * 10}
    (tmp_path / "short" / "tokenizer.json").write_text(json.dumps(tokenizer))
    app.load("short", weights=tmp_path / "short")
    app.send("Hi")
    requests = len(app.core.calls("chat_completion"))
    assert said(app.send("~" * 11)) == app.answer([["user", "~" * 110]], STOP_IDS)[0]
    assert [len(each["messages"]) for each in app.core.calls("chat_completion")[requests:]] == [3, 1]
    assert app.core("messages")["left_out"] == 2


def test_conversations_take_turns(app):
    """Each has its messages, its system's message and its sampling, and one answer is given at a time."""
    app.load("short")
    app.core("chat", chat="brief", system="Be brief. ", sampling={"max_tokens": 3})
    app.core("chat", chat="long", sampling={"stop": ["😀"]})
    heard: dict[str, list[list[str]]] = {"brief": [], "long": []}
    for text in ("Hi", "And?"):
        for chat, messages in heard.items():
            messages.append(["user", text])
            events = app.send(text, chat=chat)
            system = [["system", "Be brief. "]] if chat == "brief" else []
            assert seen(app) == system + messages
            messages.append(["assistant", said(events)])
            if chat == "brief":
                assert events[-2] == ["end", "LENGTH"] and events[-1]["completion_tokens"] == 3
            else:
                whole = app.answer(messages[:-1], STOP_IDS)[0]
                assert said(events) == whole[: whole.index("😀")] and events[-2] == ["end", "STOP"]
    assert {chat: app.core("messages", chat=chat)["messages"] for chat in heard} == heard
    with app.core.pace(hold=0):
        with pytest.raises(ValueError, match="another conversation's answer is still being given"):
            app.send("Hi", chat="brief", twice="long")
        app.core("reset", chat="long")
        with pytest.raises(ValueError, match="an answer is still being given"):
            app.send("Hi", chat="brief")
    app.core("stop", chat="brief")
    assert len(app.core("messages", chat="brief")["messages"]) == 6
    assert said(app.send("Hi")) == app.answer([["user", "Hi"]], STOP_IDS)[0]


def test_a_conversation_of_earlier_goes_on(app):
    app.load("short")
    short = {"max_tokens": 4}
    app.core("chat", chat="first", system="Speak.", sampling=short)
    for text in ("Hi", "And?", "Why?"):
        app.send(text, chat="first")
    said_so = app.core("messages", chat="first")["messages"]
    app.core("chat", chat="second", system="Speak.", history=said_so[:-2], sampling=short)
    app.send("Why?", chat="second")
    as_said, restored = app.core.calls("chat_completion")[-2:]
    assert restored == as_said
    assert app.core("messages", chat="second")["messages"] == said_so


def test_a_conversation_of_earlier_is_counted_before_turns_go(app):
    """What its texts and the template may take is more than they do, so it may fit all the same."""
    app.load("short")
    marks = [["user", "Hi"], ["assistant", "😀" * 4], ["user", "Ho"], ["assistant", "😀" * 20]]
    app.core("chat", chat="restored", history=marks, sampling={"max_tokens": 4})
    requests = len(app.core.calls("chat_completion"))
    events = app.send("Well?", chat="restored")
    counted, answered = app.core.calls("chat_completion")[requests:]
    assert counted == {**answered, "max_tokens": 1}
    assert [each["content"] for each in answered["messages"]] == [text for _, text in marks] + ["Well?"]
    assert events[-2] == ["end", "LENGTH"] and events[-1]["completion_tokens"] == 4
    assert said(events) and events[-1]["prompt_tokens"] == WINDOW - 6
    # Twice as much doesn't fit, counted or not.
    app.core("chat", chat="restored", history=marks * 2, sampling={"max_tokens": 4})
    assert app.send("Well?", chat="restored")[-2] == ["end", "LENGTH"]
    assert app.core("messages", chat="restored")["left_out"] > 0 and seen(app)[-1] == ["user", "Well?"]


def test_an_answer_is_given_again(app):
    app.load("short")
    app.core("chat", chat="hot", sampling={"temperature": 2.0})
    with pytest.raises(ValueError, match="no message to answer"):
        app.core("send", chat="hot")
    first = app.send("Hi", chat="hot")
    others = {said(app.core("send", chat="hot")["events"]) for _ in range(3)}
    assert others - {said(first)}
    messages = app.core("messages", chat="hot")["messages"]
    assert [role for role, _ in messages] == ["user", "assistant"] and messages[1][1] in others
    assert seen(app) == [["user", "Hi"]]
    # One that fails leaves the answer that was there.
    with app.core.pace(die=0):
        assert app.core("send", chat="hot")["events"][-2] == ["end", "FAILED"]
    assert app.core("messages", chat="hot")["messages"] == messages
    app.core("close")
    app.load("short")
    # The last message of a conversation that was cut off has no answer yet.
    app.core("chat", chat="cut", history=[["user", "Hi"]])
    assert said(app.core("send", chat="cut")["events"]) == app.answer([["user", "Hi"]], STOP_IDS)[0]


def test_how_answers_are_made_reaches_the_engine(app):
    app.load("short")
    sampling = {
        "temperature": 0.5, "top_p": 0.25, "frequency_penalty": -2.0, "presence_penalty": 1.5, "seed": 7,
        "max_tokens": 9, "stop": ["é", "\n\n"],
    }  # fmt: skip
    app.core("chat", chat="all", sampling=sampling)
    first = app.send("Hi", chat="all")
    request = app.core.calls("chat_completion")[-1]
    assert request.pop("messages") and request == sampling
    assert first[-1]["ttft_s"] > 0
    app.core("chat", chat="all", sampling=sampling)
    assert said(app.send("Hi", chat="all")) == said(first), "a seed gives the same answer"
    app.send("Hi")
    assert set(app.core.calls("chat_completion")[-1]) == {"messages"}
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    app.core("chat", chat="json", sampling={"schema": json.dumps(schema)})
    assert app.send("Hi", chat="json")[-2] == ["end", "STOP"]
    response_format = app.core.calls("chat_completion")[-1]["response_format"]
    assert response_format["type"] == "json_object" and json.loads(response_format["schema"]) == schema
    # MLC's own engine ends at these as they are.
    for bare in ({}, {"type": "object", "description": "anything"}):
        app.core("chat", chat="json", sampling={"schema": json.dumps(bare)})
        app.send("Hi", chat="json")
        response_format = app.core.calls("chat_completion")[-1]["response_format"]
        assert json.loads(response_format["schema"]) == {"anyOf": [bare]}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more, not -0.1"),
        ({"top_p": 1.1}, "topP must be from 0 to 1, not 1.1"),
        ({"top_p": "NaN"}, "topP must be from 0 to 1, not NaN"),
        ({"frequency_penalty": 2.5}, "frequencyPenalty must be from -2 to 2, not 2.5"),
        ({"presence_penalty": -2.5}, "presencePenalty must be from -2 to 2, not -2.5"),
        ({"max_tokens": 0}, "maxTokens must be 1 or more, not 0"),
        ({"stop": ["x", ""]}, "stop must have no empty text"),
        ({"schema": "[1]"}, "jsonSchema must be a JSON object"),
        ({"tools": [["get weather", "", "{}"]]}, "a tool's name has"),
        ({"tools": [["weather", "", "none"]]}, "parameters of weather must be a JSON object"),
        ({"tools": [["weather", "", "{}"]] * 2}, "two tools are called weather"),
        ({"tools": [["weather", "", "{}"]], "tool_choice": "wether"}, "toolChoice is auto, none or a tool's name"),
        ({"tools": [["weather", "", "{}"]], "schema": "{}"}, "set one of both"),
    ],
    ids=str,
)
def test_sampling_that_makes_no_sense(app, wrong, why):
    app.load("short")
    with pytest.raises(ValueError, match=re.escape(why)):
        app.core("chat", chat="wrong", sampling=wrong)


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
BONN = ["weather", '{"city":"Bonn"}']


def talk(app, choice: str, *answers: list[str]) -> list[dict]:
    """What is heard of answers by a model that is told of a tool."""
    models = json.dumps({"models": [app.entry("short", context_window_size=4096)]})
    arguments = (models, "weather", "Tells the weather.", json.dumps(PARAMETERS), choice)
    command = java("edgetransact.edge.ToolTalk", *arguments)
    lines = "".join(json.dumps(answer) + "\n" for answer in answers)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_model_asks_for_tools(app):
    """Calls are found however the text is cut into pieces, and what only looks like one is text."""
    almost = [
        ["<tool_call", "> is a tag"],
        [CALL.replace("weather", "wether")],
        ["a ", CALL[:-20]],
        [CALL, " and more"],
        ["1 < 2 <", "t"],
    ]
    called, twice, after, *texts = talk(
        app, "auto", ["Let me ", "see.\n", *CALL], [CALL + "\n" + CALL.removesuffix("</tool_call>")], ["Sun."], *almost
    )
    assert "".join(each for each in called["heard"][:-2]) == called["said"] == "Let me see.\n"
    assert called["heard"][-2:] == [BONN, "TOOL_CALLS"]
    system, question = called["request"]["messages"]
    assert question == {"role": "user", "content": "Weather?"}
    before, _, tools = system["content"].partition("\n\n# Tools\n")
    assert before == "Be brief." and "# Tools\n" + tools == QWEN_TOOLS
    assert "tools" not in called["request"] and "response_format" not in called["request"]

    _, _, answer, result = twice["request"]["messages"]
    assert answer == {"role": "assistant", "content": "Let me see.\n" + CALL.replace(": ", ":").replace(", ", ",")}
    response = '<tool_response>\n{"of":"weather"}\n</tool_response>'
    assert result == {"role": "tool", "content": response, "tool_call_id": called["ids"][0]}
    assert twice["heard"] == [BONN, BONN, "TOOL_CALLS"]
    assert [each["role"] for each in after["request"]["messages"][-2:]] == ["tool", "tool"]
    assert after["heard"] == ["Sun.", "STOP"]
    for pieces, heard in zip(almost, texts, strict=True):
        assert "".join(heard["heard"][:-1]) == "".join(pieces) == heard["said"] and heard["heard"][-1] == "STOP"


def test_a_model_has_to_ask_for_a_tool(app):
    called, cut = talk(app, "weather", ['{"city": ', '"Bonn"}'], ['{"city": "Bo'])
    assert called["heard"] == [BONN, "TOOL_CALLS"]
    response_format = called["request"]["response_format"]
    assert response_format["type"] == "json_object" and json.loads(response_format["schema"]) == PARAMETERS
    assert cut["heard"] == ['{"city": "Bo', "STOP"]
    (text,) = talk(app, "none", [CALL])
    assert text["heard"] == [CALL, "STOP"] and text["request"]["messages"][0]["content"] == "Be brief."


@pytest.mark.parametrize(
    "written", ["", "{}", '[{"role": "system", "text": "", "tool_calls": []}]', '[{"role": "user"}]']
)
def test_messages_that_were_not_kept_are_refused(app, written):
    app.load("short")
    with pytest.raises(ValueError, match="not written by"):
        app.core("chat", chat="wrong", written=written)


def test_an_engine_that_dies_while_it_answers(app):
    app.load("long")
    whole = said(app.send("Hi"))
    app.core("reset")
    with app.core.pace(die=12):
        events = app.send("Hi")
    assert events[-2] == ["end", "FAILED"] and whole.startswith(said(events)) and said(events)
    assert events[-1]["code"] == "ENGINE_FAILED" and "num_rsentries > 0" in events[-1]["detail"]
    assert app.core("messages")["messages"] == []
    assert app.send("Hi again")[-1]["code"] == "ENGINE_FAILED"
    app.core("close")
    app.load("long")
    assert said(app.send("Hi")) == whole


def test_an_engine_that_dies_while_it_loads(app):
    """`reload` of a dead engine never returns, and the core says so all the same."""
    model = app.entry("short", libraries={"android": "tiny", "android-cpu": "not_there"})
    app.read(model)
    with pytest.raises(Failed, match="Cannot find system lib with not_there") as failed:
        app.core("load", id="short", open_cl=False, memory=ENOUGH, weights=app.assets / "short")
    assert failed.value.code == "ENGINE_FAILED"
    app.load("short")
    assert said(app.send("Hi"))


def test_weights_that_the_library_does_not_fit(app, tmp_path):
    shutil.copytree(app.assets / "short", tmp_path / "short")
    (tmp_path / "short" / "tensor-cache.json").write_text('{"records": []}')
    with pytest.raises(Failed) as failed:
        app.load("short", weights=tmp_path / "short")
    assert failed.value.code == "ENGINE_FAILED"


def test_engines_that_hang_or_throw_errors(app):
    command = java("edgetransact.edge.HostileEngines", json.dumps({"models": [app.entry("short")]}))
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert done.stdout.splitlines() == [
        "unload hangs | true",
        "reload hangs | ENGINE_FAILED | it wasn't ready after 0 seconds | true",
        "answer hangs | ENGINE_FAILED | it wasn't ready after 0 seconds | true",
        "reload waits | left | false",
        "meanwhile | true | false",
        "the next | true",
        "unload throws | true",
        "close throws | true",
        "reload throws | ENGINE_FAILED | reload | true",
        "open throws | ENGINE_FAILED | open",
        "stopped | STOPPED",
        "after stop | ENGINE_FAILED | abort",
    ], done.stderr


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


def test_texts_reach_the_model_as_they_are(app):
    """All but halves of surrogate pairs, which are no characters."""
    app.load("short")

    @settings(max_examples=25)
    @given(text=st.text(st.characters(exclude_categories=()), max_size=15))
    def check(text: str) -> None:
        app.core("reset")
        events = app.send(text)
        heard = app.core.calls("chat_completion")[-1]["messages"][-1]["content"]
        assert heard == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert said(events) == app.answer([["user", heard]], STOP_IDS)[0]

    check()
