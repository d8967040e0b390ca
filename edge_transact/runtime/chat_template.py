"""Chat templates: prompts from messages, as transformers' ``apply_chat_template``, whose import takes seconds.

A template is a program by a stranger. jinja2's sandbox keeps it from Python's objects, and nothing there keeps it from
endless loops and from filling the memory. So another process renders it, with limits of time and memory.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.template_process import CPU_S, MEMORY_BYTES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROGRAM = "template_process.py"

WALL_S = 60
"""The most seconds to wait for a rendering, whatever else the machine does."""

MOST_CHARACTERS = 100_000
"""The longest prompt of one short question, the model's system message included."""

_FIX = "Correct chat_template in its tokenizer files, or remove it there: the model then continues plain text."

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``."""


class TemplateRefusal(EdgeTransactError):
    """A template that works rejects a conversation."""


def render_chat(
    template: str,
    messages: Sequence[Message],
    special_tokens: Mapping[str, str],
    *,
    answers_next: bool = True,
    thinking: bool | None = None,
) -> str:
    """The prompt up to the beginning of the assistant's next answer; up to the last message without `answers_next`.

    `special_tokens` are the tokenizer's, by name: ``bos_token``, ... `thinking` is whether a model that can is to
    reason first (``enable_thinking``). A `TemplateRefusal` if the template rejects the conversation, an
    `EdgeTransactError` if it is invalid or fails, or needs too much time or memory.
    """
    variables = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": answers_next}
    variables |= {} if thinking is None else {"enable_thinking": thinking}
    found = _renderer.ask({"template": template, "variables": {**variables, **special_tokens}})
    if why := found.get("refused"):
        raise TemplateRefusal(
            f"the model's chat template rejects the conversation: {why}",
            fix="Its chat_template defines which roles are allowed, and in which order.",
        )
    if "text" not in found:
        raise EdgeTransactError(f"the model's chat template fails: {found['failed']}", fix=_FIX)
    return found["text"]


def render_row(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answers_next: bool = False) -> str:
    """A whole conversation, as transformers' ``tokenizer.apply_chat_template``. Raises the errors of `render_chat`."""
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return render_chat(default_template(tokenizer.chat_template) or "", messages, special, answers_next=answers_next)


def default_template(template: str | Sequence[Mapping[str, str]] | Mapping[str, str] | None) -> str | None:
    """The template that conversations without tools have, of the one or the several, by name, that a tokenizer has."""
    if isinstance(template, Sequence) and not isinstance(template, str):
        template = {each["name"]: each["template"] for each in template}
    return template.get("default") if isinstance(template, Mapping) else template


def require_template(template: str, special_tokens: Mapping[str, str]) -> None:
    """Raises the error of a template that can't render one question, before hours of work. It may reject it."""
    try:
        text = render_chat(template, [{"role": "user", "content": "Hello"}], special_tokens)
    except TemplateRefusal:
        return
    if not text:
        raise EdgeTransactError("the model's chat template makes an empty prompt of a question", fix=_FIX)
    if len(text) > MOST_CHARACTERS:
        what = f"the model's chat template makes a prompt of {len(text):,} characters of a question"
        raise EdgeTransactError(what, fix=_FIX)


class _Renderer:
    """A process that renders, started when it is needed, and again after it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.close)
        # A fork must not talk to its parent's process.
        os.register_at_fork(after_in_child=self._forget)

    def ask(self, request: Mapping[str, object]) -> dict[str, str]:
        with self._lock:
            process = self._process = self._process or _start()
            assert process.stdin is not None and process.stdout is not None
            timer = threading.Timer(WALL_S, process.kill)
            timer.daemon = True
            timer.start()
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                if line := process.stdout.readline():
                    answer: dict[str, str] = json.loads(line)
                    return answer
            except (BrokenPipeError, ValueError):
                pass
            except BaseException:
                self.close()  # an interrupt: its answer to this would be taken for one to the next
                raise
            finally:
                timer.cancel()
            code = self.close()
        limits = f"it needs more than {CPU_S} s or {MEMORY_BYTES / 1e6:.0f} MB"
        return {"failed": f"it computes for more than {CPU_S} s" if code == -signal.SIGXCPU else limits}

    def close(self) -> int | None:
        """Ends the process. Returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:
                continue  # a request that it didn't read
        process.kill()
        return process.wait()

    def _forget(self) -> None:
        self._lock, self._process = threading.Lock(), None


def _start() -> subprocess.Popen[str]:
    found = [find_spec(name) for name in ("jinja2", "markupsafe")]
    packages = {str(Path(spec.origin).parents[1]) for spec in found if spec and spec.origin}
    kept = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TZ")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name(PROGRAM)), *sorted(packages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: os.environ[name] for name in kept if name in os.environ},  # no tokens of the hub
        start_new_session=True,  # Ctrl-C in a chat ends an answer, not this
    )


_renderer = _Renderer()
