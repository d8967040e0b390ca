"""Conversations: what is computed, what is kept, and what is forgotten when the context is full."""

import json
import subprocess
import sys

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.session import Session
from edge_transact.runtime.text import TextCodec
from tests.support.chats import chatting
from tests.support.dists import edit_json
from tests.support.patience import HANG_S
from tests.support.tokenizers import save_byte_level

SPOKEN = ["Once upon", "a time", "there", "was"]


@pytest.fixture(scope="module")
def dist(built_dist, tmp_path_factory):
    return chatting(built_dist, tmp_path_factory.mktemp("chatting") / "dist")


@pytest.fixture
def session(dist):
    return Session.load(dist, max_tokens=8)


def prompt(session, *said, system=None):
    """Ids of a conversation, from the codec alone."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant") * len(said)
    messages += [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return session.codec.encode_chat(messages)


def test_turns_prefill_only_what_is_new_and_answer_the_same(session, dist):
    model = HostModel.load(dist)
    said = []
    for number, text in enumerate(SPOKEN[:3]):
        answer = session.answer(text)
        said += [text, answer.text]
        ids = prompt(session, *said[:-1])
        model.reset()
        assert answer.tokens == list(model.generate(ids, 8)) and answer.prompt_tokens == len(ids)
        assert answer.finish == "length" and answer.dropped_turns == 0
        # The cache has the prompt and the answer before, which the template writes again with a role before it.
        assert answer.prefill_tokens == len(ids) if number == 0 else answer.prefill_tokens < len(ids) / 2
    assert [message["content"] for message in session.messages] == said


@pytest.mark.parametrize("token", [-1, -7, 2**31 - 1, 50_000_005, "vocab_size"])
def test_a_token_outside_the_vocabulary_does_not_reach_the_library(dist, token):
    """It would read, or crash on, memory behind the embedding."""
    model = HostModel.load(dist)
    token = model.vocab_size if token == "vocab_size" else token
    assert len(model.prefill([model.vocab_size - 1])) == model.vocab_size
    for call in (
        lambda: model.prefill([1, token, 2]),
        lambda: model.decode(token),
        lambda: model.window_logits([token]),
    ):
        with pytest.raises(EdgeTransactError, match=rf"token {token}, the model's vocabulary has"):
            call()


def test_a_rewound_cache_gives_the_logits_of_a_fresh_one(dist):
    model, ids = HostModel.load(dist), list(range(40, 90))
    fresh = model.prefill(ids).copy()
    for kept in (49, 33, 16, 0):
        model.rewind(kept)
        assert model.length == kept
        np.testing.assert_allclose(model.prefill(ids[kept:]), fresh, atol=1e-4)
    model.rewind(45)
    for token in ids[45:]:
        logits = model.decode(token)
    np.testing.assert_allclose(logits, fresh, atol=1e-4)


def test_the_oldest_turns_go_by_exact_counts(session):
    """Prompts leave a quarter of the window of 128 tokens for the answer, as in the app."""
    said, dropped = [], 0
    for text in SPOKEN * 3:
        answer = session.answer(text)
        fits = [first for first in range(0, len(said) + 1, 2) if len(prompt(session, *said[first:], text)) <= 96]
        said = [*said[fits[0] :], text, answer.text]
        assert answer.dropped_turns == fits[0] // 2
        assert [message["content"] for message in session.messages] == said
        assert answer.prompt_tokens == len(prompt(session, *said[:-1])) <= 96
        dropped += answer.dropped_turns
    assert dropped > 0


def test_a_message_that_never_fits_is_refused_and_changes_nothing(session):
    session.answer("Once")
    before = session.messages
    room = 127 - len(prompt(session, ""))
    word = next(word for word in (" a", " the") if len(session.codec.encode(word)) == 1)
    with pytest.raises(EdgeTransactError, match=r"too long for the model: 1\d\d tokens, .* room for 127"):
        session.answer(word * (room + 20))
    assert session.messages == before
    session.max_tokens = 256
    long = session.answer(word * (room - 20))
    assert long.dropped_turns == 1 and long.finish == "context"
    assert long.prompt_tokens + len(long.tokens) == 128 + 1  # the token after a full window is still known
    assert session.answer("Once").dropped_turns == 1


def test_a_stopped_answer_stays_and_the_next_turn_sees_it(session):
    heard = []
    answer = session.answer("Once upon", on_text=heard.append, stopped=lambda: len(heard) >= 3)
    assert answer.finish == "stopped" and answer.text == "".join(heard) and len(heard) == 3
    following = session.answer("a time")
    assert following.prompt_tokens == len(prompt(session, "Once upon", answer.text, "a time"))
    nothing = session.answer("there", stopped=lambda: True)
    assert (nothing.text, nothing.tokens, nothing.decode_tok_s) == ("", [], None)
    assert session.messages[-1] == {"role": "assistant", "content": ""}


def test_an_exception_in_an_answer_leaves_the_conversation_as_it_was(session):
    before = session.answer("Once upon")

    def fail(_text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.answer("a time", on_text=fail)
    assert session.messages[-1]["content"] == before.text and session.model.length == 0
    again = session.answer("a time")
    assert again.prefill_tokens == again.prompt_tokens


def test_the_system_message_comes_first(session):
    session.system = "Be brief."
    assert session.answer("Once").prompt_tokens == len(prompt(session, "Once", system="Be brief."))
    session.reset()
    assert session.messages == [{"role": "system", "content": "Be brief."}]


def test_sampling_is_that_of_the_configuration_unless_it_is_given(dist, tmp_path, built_dist):
    warm = chatting(built_dist, tmp_path / "dist", top_p=0.7, repetition_penalty=1.1, presence_penalty=0.2)
    edit_json(warm / "mlc-chat-config.json", temperature=0.8)
    sampling = Session.load(warm).sampler.sampling
    assert (sampling.temperature, sampling.top_p) == (0.8, 0.7)
    assert (sampling.repetition_penalty, sampling.presence_penalty) == (1.1, 0.2)
    given = Session.load(warm, temperature=0.0, top_p=1.0).sampler.sampling
    assert (given.temperature, given.top_p, given.repetition_penalty) == (0.0, 1.0, 1.1)
    texts = [Session.load(warm, seed=seed, max_tokens=16).answer("Once").tokens for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    edit_json(warm / "mlc-chat-config.json", top_p=2.0)
    with pytest.raises(EdgeTransactError, match="top_p"):
        Session.load(warm)


def test_run_imports_neither_torch_nor_transformers_nor_tvms_compiler(dist):
    program = (
        "import sys\nsys.argv[0] = 'edge-transact'\nfrom edge_transact.cli import app\n"
        f"try:\n    app(['run', {str(dist)!r}, '--prompt', 'Once', '--max-tokens', '4', '--json'])\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "print([name for name in ('torch', 'transformers', 'tvm', 'scipy', 'prompt_toolkit') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=HANG_S)
    result, imported = done.stdout.splitlines()
    assert imported == "[]" and len(json.loads(result)["tokens"]) == 4


class Scripted:
    """A model that says these tokens, whatever it is asked."""

    context_window_size, prefill_chunk_size, length = 512, 512, 0

    def __init__(self, tokens, size):
        self.tokens, self.size, self.prompts, self.cached = tokens, size, [], []

    def rewind(self, length):
        del self.cached[length:]

    def _next(self):
        logits = np.zeros(self.size, np.float32)
        logits[next(self.rest)] = 1
        return logits

    def prefill(self, ids):
        self.cached += ids
        self.prompts.append(list(self.cached))
        self.rest = iter(self.tokens)
        return self._next()

    def decode(self, token):
        self.cached.append(token)
        return self._next()


def test_reasoning_is_no_part_of_the_answer_or_of_the_history(tmp_path):
    save_byte_level(tmp_path, 300)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer.add_tokens(["<think>", "</think>"])
    (tmp_path / "chat_template.jinja").unlink()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    codec, stop = TextCodec(tmp_path), 1
    said = codec.encode("<think>\nFrance?\n</think>\n\nParis.")
    model = Scripted([*said, stop], len(tokenizer))
    session, heard = Session(model, codec, stop_token_ids={stop}), []
    answer = session.answer("Which?", on_text=heard.append)
    assert (answer.reasoning, answer.text, answer.tokens) == ("France?", "Paris.", said)
    assert "".join(heard) == "<think>\nFrance?\n</think>\n\nParis."
    assert answer.to_dict()["text"] == "Paris." and answer.to_dict()["reasoning"] == "France?"
    session.max_tokens = 4
    cut = session.answer("And?", on_text=heard.append)
    assert model.prompts[-1] == codec.encode("Which?|Paris.|And?|")
    assert cut.text == "" and cut.reasoning and heard[-1] == "</think>", "a terminal isn't left dim"
    # R1's template begins the reasoning itself.
    model.tokens = [*codec.encode("France?</think>Paris."), stop]
    opened = Session(model, TextCodec(tmp_path), stop_token_ids={stop})
    opened.codec.chat_template = "{{ messages[0]['content'] }}<think>\n"
    answer = opened.answer("Which?")
    assert (answer.reasoning, answer.text) == ("France?", "Paris.")
    raw = Session(model, codec, stop_token_ids={stop}, raw=True).answer("Which?")
    assert raw.text == "France?</think>Paris."
