"""The chat on a real pseudo terminal: editing, history, commands, interrupts, and terminals that can do little."""

import json
import os
import re
import stat
import sys
import time

import pexpect
import pytest

from tests.support.chats import READY, Terminal, chatting
from tests.support.command import run
from tests.support.patience import HANG_S

HOSTILE = "<script>\x1b]0;owned\x07 \"'[bold]😀\n/a/b\x1b[2J<b>"


@pytest.fixture(scope="module")
def dist(built_dist, tmp_path_factory):
    return chatting(built_dist, tmp_path_factory.mktemp("chatting") / "dist")


@pytest.fixture
def home(tmp_path):
    return tmp_path / "state"


def visible(text: str) -> list[str]:
    """Lines without escape sequences. What is drawn again, from the line's begin, is another line."""
    return re.split("[\r\n]", re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)", "", text))


def test_a_conversation_with_commands(dist, home, tmp_path):
    chat = Terminal(home, dist, "--max-tokens", 6)
    assert "loading demo:tiny ..." in chat.expect(READY)
    chat.say("Once upon")
    assert re.search(r"--max-tokens 6\. 6 tokens, \d+\.\d tokens/s", chat.expect(READY))
    # Several lines, by a backslash and by Alt-Enter.
    chat.say("one\\")
    chat.say("two", end="\x1b\r")
    chat.say("three")
    chat.expect("tokens/s")
    chat.expect(READY)
    chat.say("/system", end=" Be brief.\r")
    chat.expect(READY)
    file = tmp_path / "é.json"
    for _ in range(2):  # the chat's own file may be written again
        chat.say(f"/save {file}")
        assert "Saved 5 messages" in " ".join(visible(chat.expect(READY)))
    messages = json.loads(file.read_text(encoding="utf-8"))
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2]
    assert [messages[index]["content"] for index in (0, 1, 3)] == ["Be brief.", "Once upon", "one\ntwo\nthree"]
    assert messages[2]["content"] and messages[2]["content"] in chat.seen.replace("\r", "")
    (tmp_path / "other").write_text("mine")
    for typed, says in [
        ("/st\t", "2 turns.*temperature 0, top_p 1.*first token after"),
        ("/h\t", "/save +FILE.*Alt-Enter.*Ctrl-C"),
        ("/sav", "no /sav .*'/save'"),
        (f"/save {tmp_path / 'other'}", "exists"),
        (f"/save {tmp_path / 'other'}/file", "not a directory"),
        ("/save", "/save chat.json"),
        ("x" * 3000, "too long for the model"),
        ("", ""),
        ("\x1b[200~pasted\nlines\x1b[201~", "tokens/s"),
        ("/reset", "forgotten"),
        ("/stats", "0 turns"),
        ("/etc/passwd is", "tokens/s"),
    ]:
        chat.say(typed)
        assert re.search(says, " ".join(" ".join(visible(chat.expect(READY))).split())), typed
    assert (tmp_path / "other").read_text() == "mine"
    os.write(chat.child.child_fd, b"no UTF-8: \xff\xc3\r")
    chat.expect("tokens/s")
    chat.expect(READY)
    chat.say("", end="\x04")
    assert chat.ended() == 0


def test_history_is_kept_for_the_next_chat_and_for_its_user_alone(dist, home):
    first = Terminal(home, dist, "--max-tokens", 2)
    first.expect(READY)
    first.say("Once upon a midnight")
    first.expect(READY)
    first.say("/exit")
    assert first.ended() == 0
    (history,) = home.rglob("chat-history")
    assert stat.S_IMODE(history.stat().st_mode) == 0o600 and stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    second = Terminal(home, dist, "--max-tokens", 2, columns=40)
    second.expect(READY)
    second.say("\x1b[A\x1b[A", end="")
    second.expect("Once upon a midnight")
    second.say("\x01Say: ")  # at the beginning of the line
    second.expect("tokens/s")
    second.expect(READY)
    second.say("/exit")
    assert second.ended() == 0
    assert "+Say: Once upon a midnight\n" in history.read_text()


def test_ctrl_c_stops_the_answer_and_twice_leaves(dist, home, tmp_path):
    chat = Terminal(home, dist, decode_s=0.02)
    chat.expect(READY)
    chat.say("Once upon")
    chat.expect("\a.*\a")
    chat.interrupt()
    assert re.search(r"Stopped\. \d+ tokens, ", chat.expect(READY))
    chat.say(f"/save {tmp_path / 'chat.json'}")
    chat.expect(READY)
    assert len(json.loads((tmp_path / "chat.json").read_text())[1]["content"]) > 0
    chat.say("a time")
    chat.expect("\a")
    chat.interrupt()
    chat.expect(READY)
    chat.child.sendintr()
    assert chat.ended() == 0 and "Traceback" not in chat.seen


def test_ctrl_c_twice_in_an_answer_and_twice_at_the_prompt_leave(dist, home):
    chat = Terminal(home, dist, decode_s=60)
    chat.expect(READY)
    chat.say("half a line", end="")
    chat.child.sendintr()
    chat.expect("Ctrl-C again leaves")
    chat.expect(READY)
    chat.say("Once upon")
    chat.expect("\a")
    chat.interrupt()
    time.sleep(1.5)  # signals that come at once are one
    chat.interrupt()
    assert chat.ended() == 0 and "Traceback" not in chat.seen


@pytest.mark.parametrize("locale", [pytest.param("C", marks=pytest.mark.soak), "C.UTF-8"])
def test_a_dumb_terminal_gets_plain_text(dist, home, locale):
    chat = Terminal(home, dist, "--max-tokens", 4, TERM="dumb", LANG=locale, LC_ALL=locale, PYTHONUTF8="0")
    chat.expect("\n> ")
    chat.say("Once \\")
    chat.expect(r"\. ")
    chat.say("upon")
    chat.expect("tokens/s\r\n> ")
    chat.say("", end="\x04")
    assert chat.ended() == 0
    assert "\x1b" not in chat.seen and "WARNING" not in chat.seen
    assert not home.exists()


def test_a_hostile_name_on_a_narrow_terminal(built_dist, home, tmp_path):
    dist = chatting(built_dist, tmp_path / "[red]'\"$(x)", source=HOSTILE)
    chat = Terminal(home, dist, "--max-tokens", 4, columns=40)
    chat.expect(READY)
    for line in ("/help", "/stats", "Once"):
        chat.say(line)
        chat.expect(READY)
    chat.say("/exit")
    assert chat.ended() == 0
    assert "owned" not in chat.seen or "\x1b]0" not in chat.seen
    assert "\x1b[2J" not in chat.seen and "loading b\ufffd[2J<b> ..." in chat.seen
    assert max(len(line) for line in visible(chat.seen)) <= 41


@pytest.mark.parametrize("answering", [pytest.param(False, marks=pytest.mark.soak), True])
def test_a_closed_terminal_ends_the_chat_as_an_interrupt(dist, home, answering):
    chat = Terminal(home, dist, decode_s=0.02)
    chat.expect(READY)
    if answering:
        chat.say("Once upon")
        chat.expect("\a")
    chat.child.ptyproc.fileobj.close()  # the other side hangs up
    _, status = os.waitpid(chat.child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130


def test_a_suspended_chat_goes_on(dist, home):
    """In a shell, which alone has job control."""
    shell = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile", "-i"],
        env={**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(home), "PS1": "shell$ "},
        encoding="utf-8",
        timeout=HANG_S,
    )
    shell.expect_exact("shell$ ")
    shell.sendline(f"{sys.executable} -m edge_transact run {dist} --max-tokens 4")
    shell.expect(READY)
    shell.send("Once up\x1a")
    shell.expect("Stopped")
    shell.sendline("fg")
    shell.expect("Once up")
    shell.send("on\r")
    shell.expect("tokens/s")
    shell.expect(READY)
    shell.send("/exit\r")
    shell.expect_exact("shell$ ")
    shell.sendline("echo code=$?")
    shell.expect("code=0")
    shell.close(force=True)


def test_a_model_without_a_chat_template_continues_text(built_dist, home):
    refused = run("run", str(built_dist), "--system", "Be brief.", "--prompt", "Once")
    assert refused.exit_code == 2 and "--system" in refused.stderr
    chat = Terminal(home, built_dist, "--max-tokens", 4, "--temperature", 0)
    chat.expect(READY)
    file = home.parent / "chat.json"
    for line, says in (
        ("/system Be brief.", "no chat template"),
        ("Once upon", "tokens/s"),
        (f"/save {file}", "Saved 2 messages"),
    ):
        chat.say(line)
        chat.expect(says)
        chat.expect(READY)
    chat.say("/exit")
    assert chat.ended() == 0


def test_one_answer_takes_the_chats_options(dist):
    def answer(*options: object) -> str:
        result = run("run", dist, "--max-tokens", 8, *options, input="Once upon")
        assert result.exit_code == 0, result.stderr
        return result.stdout

    assert answer() == answer("--temperature", 0)
    sampled = [answer("--temperature", 2, "--seed", seed) for seed in (5, 5, 6)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert answer("--system", "Be brief.") != answer()
