"""A chat template is a program by a stranger: it may fail, and nothing else."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from edge_transact.errors import EdgeTransactError
from edge_transact.runtime import chat_template
from edge_transact.runtime.chat_template import TemplateRefusal, render_chat, require_template
from tests.support.command import run
from tests.support.patience import HANG_S

HELLO = [{"role": "user", "content": "Hello"}]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(a='xx') %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}{{ n.a }}"
HOSTILE = {
    LOOP: "more than 5 s",
    "{{ 'a' * 10000000000 }}": "MemoryError",
    "{{ '%10000000000d' % 1 }}": "MemoryError",
    "{{ 'a'.center(10 ** 10) }}": "MemoryError",
    DOUBLING: "MemoryError",
    "{{ 'a' * 40000000 }}": "40,000,000 characters",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ 1 + 'a' }}": "TypeError",
    "{% include 'x' %}": "TypeError",
    "{{ range(10 ** 9) | list }}": "OverflowError",
    "{{ '\\ud800' }}": "UnicodeEncodeError",
    "{{ messages[": "unexpected",
    "{{" + "(" * 20000: "RecursionError",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
}


def content(text: str) -> str:
    return render_chat("{{ messages[0].content }}", [{"role": "user", "content": text}], {})


@pytest.mark.parametrize(("template", "why"), HOSTILE.items(), ids=[template[:40] for template in HOSTILE])
def test_whatever_it_does_is_its_error(template, why):
    with pytest.raises(EdgeTransactError, match=f"chat template fails: .*{why}") as caught:
        render_chat(template, HELLO, {})
    assert "chat_template" in caught.value.fix
    assert content("once more") == "once more"


def test_a_refusal_is_no_failure():
    require_template("{{ raise_exception('a system message first') }}", {})
    with pytest.raises(TemplateRefusal, match="a system message first"):
        render_chat("{{ raise_exception('a system message first') }}", HELLO, {})
    for template, why in (("{{ 1 / 0 }}", "ZeroDivisionError"), ("", "empty prompt")):
        with pytest.raises(EdgeTransactError, match=why):
            require_template(template, {})


def test_any_text_comes_back():
    for text in ("\0 é😀\r\n\u2028", "x" * 5_000_000):
        assert content(text) == text


def test_a_process_that_died_is_started_again():
    assert content("a") == "a"
    for ended in (signal.SIGKILL, signal.SIGTERM):
        os.kill(chat_template._renderer._process.pid, ended)
        time.sleep(0.1)
        with pytest.raises(EdgeTransactError):
            content("b")
        assert content("c") == "c"


def test_threads_and_forks_get_their_own_answers():
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: content(f"{i}" * 1000)}), daemon=True) for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert found == {i: f"{i}" * 1000 for i in range(20)}
    program = """
import os
from edge_transact.runtime.chat_template import render_chat
def content(text): return render_chat("{{ messages[0].content }}", [{"role": "user", "content": text}], {})
content("first")
child = os.fork()
assert all(content(f"{child} {i}") == f"{child} {i}" for i in range(50))
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=HANG_S)


def test_it_sees_no_secrets_and_may_neither_write_nor_start(monkeypatch, tmp_path):
    """Were the sandbox broken, there would be little to gain."""
    chat_template._renderer.close()
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert content("a") == "a"
    pid = chat_template._renderer._process.pid
    with open(f"/proc/{pid}/environ", "rb") as environment, open(f"/proc/{pid}/limits") as limits:
        assert b"secret" not in environment.read()
        hard = {line[:26].strip(): line.split()[-2] for line in limits if "unlimited" not in line.split()[-2:]}
    assert hard["Max file size"] == hard["Max processes"] == "0" and int(hard["Max address space"]) <= 512 << 20


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ 'a' * 10000000000 }}"])
@pytest.mark.parametrize(
    "words",
    [
        ("prune", "--ratio", 0.3, "--calibration-tokens", 512),
        ("heal", "--cross-entropy", 1, "--train-tokens", 1000),
        ("build", "--target", "host"),
    ],
    ids=lambda words: words[0],
)
def test_no_output_is_written_before_it_is_known_to_work(random_model, tmp_path, own_cache, words, template):
    shutil.copytree(random_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    result = run(words[0], tmp_path / "model", *words[1:], "-o", tmp_path / "out")
    assert result.exit_code == 1 and "the model's chat template fails" in result.stderr, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "model"]


def test_eval_says_so_before_it_measures(random_model, tmp_path):
    shutil.copytree(random_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ 1 / 0 }}")
    result = run("eval", tmp_path / "model", "--max-windows", 1)
    assert result.exit_code == 1 and "the model's chat template fails" in result.stderr, result.stderr
