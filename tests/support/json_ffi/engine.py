"""The engine behind the protocol: one request at a time, computed by a host library.

The order of events, and what is said of them, follow ``cpp/json_ffi/json_ffi_engine.cc`` and ``cpp/serve`` of MLC-LLM:

- Calls are instructions for a background loop, which makes one token between looking at them.
- A loop that fails is over, and who waits for `reload` or `unload` waits for ever.
- An answer ends with a usage block. One that is aborted ends without: the callback goes on with empty lists.
- Steps that complete no character say nothing, in an empty list.
- Near the end of its KV cache, the engine dies.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edge_transact.runtime.host import HostModel
from tests.support.json_ffi.fields import Fields, refusal
from tests.support.json_ffi.prompt import create_prompt

Heard = Callable[[str], None]
DEATH = "Check failed: num_rsentries > 0 (0 vs. 0) : "


class Request:
    """An answer that is being made."""

    def __init__(self, name: str, ids: list[int], request: Mapping[str, Any], model: Model) -> None:
        debug = request.get("debug_config") or {}
        self.id = name
        self.ids = ids
        self.max_tokens = request.get("max_tokens")
        self.temperature = request.get("temperature", model.config["temperature"])
        self.random = np.random.default_rng(request.get("seed"))
        ignore_eos = debug.get("ignore_eos", False)
        self.stop_ids = set() if ignore_eos else set(model.template["stop_token_ids"])
        self.stop_texts = [] if ignore_eos else [*model.template["stop_str"], *(request.get("stop") or [])]
        self.tokens: list[int] = []
        self.said = ""
        self.added = time.perf_counter()
        self.prefilled = self.added

    def choose(self, logits: np.ndarray) -> int:
        """The next token."""
        if self.temperature > 0:
            logits = logits / self.temperature + self.random.gumbel(size=logits.shape)
        return int(logits.argmax())

    def usage(self) -> dict[str, Any]:
        """The usage block of a complete answer."""
        now, steps = time.perf_counter(), len(self.tokens) - 1
        prefill_s, e2e_s = self.prefilled - self.added, now - self.added
        extra = {
            "prompt_tokens": len(self.ids), "completion_tokens": len(self.tokens), "prefill_tokens": len(self.ids),
            "decode_tokens": steps, "jump_forward_tokens": 0, "prefill_tokens_per_s": len(self.ids) / prefill_s,
            **({"decode_tokens_per_s": steps / (now - self.prefilled)} if steps else {}),
            "end_to_end_latency_s": e2e_s, "ttft_s": prefill_s, "inter_token_latency_s": e2e_s / len(self.tokens),
        }  # fmt: skip
        return usage(len(self.ids), len(self.tokens)) | {"extra": extra}


class Model:
    """A loaded model: a directory and a library, of which one of this host stands for each of an app's."""

    def __init__(self, config: Mapping[str, Any], libraries: Mapping[str, Path]) -> None:
        directory, name = Path(config["model"]), config["model_lib"].removeprefix("system://")
        if name not in libraries:
            raise RuntimeError(f"Cannot find system lib with {name.replace('-', '_')}")
        self.config = json.loads((directory / "mlc-chat-config.json").read_text())
        self.template = self.config["conv_template"]
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.host = HostModel(libraries[name], directory)
        window = self.host.context_window_size
        self.sequence = min(config.get("max_single_sequence_length", window), window)
        self.total = config.get("max_total_sequence_length", window)

    def encode(self, messages: list[dict[str, Any]]) -> list[int]:
        """Token ids of a request's prompt."""
        ids: list[int] = []
        for part in create_prompt(self.template, messages):
            ids += self.tokenizer.encode(part, add_special_tokens=False).ids if isinstance(part, str) else part
        return ids


class Engine:
    """The functions of ``mlc.json_ffi.CreateJSONFFIEngine``, by their names.

    Args:
        libraries: Library name to the shared library that stands for it.
        said: Called with each list of responses, as JSON.
        died: Called when the background loop ends with an exception.
        pace: While this file exists, the engine is slow or ill. It is a JSON object with ``hold``, the tokens at which
            answers wait, ``die``, the tokens at which the engine dies, or ``batch``, the steps of a list of responses.
    """

    def __init__(self, libraries: Mapping[str, Path], said: Heard, died: Heard, pace: Path | None = None) -> None:
        self._libraries, self._said, self._died, self._pace = libraries, said, died, pace
        self._fields = Fields()
        self._wake = threading.Condition()
        self._instructions: deque[Callable[[], None]] = deque()
        self._heard: set[str] = set()
        self._waiting: deque[Request] = deque()
        self._steps: list[list[dict[str, Any]]] = []
        self._model: Model | None = None
        self._exit = False
        threading.Thread(target=self._loop, daemon=True).start()

    def reload(self, config_json: str) -> None:
        """Blocks until the model is loaded."""
        config = json.loads(config_json)
        self._fields.check_read("EngineConfig", config)

        def load() -> None:
            self._model = Model(config, self._libraries)

        self._instruct(load, wait=True)
        assert self._model is not None
        self._fields.check_read("Conversation", self._model.template, strict=False)

    def unload(self) -> None:
        """Blocks until the model is freed."""

        def free() -> None:
            self._waiting.clear()
            self._model = None

        self._instruct(free, wait=True)

    def reset(self) -> None:
        """Ends all answers."""
        self._instruct(self._waiting.clear)

    def chat_completion(self, request_json: str, name: str) -> None:
        """Starts an answer."""
        request = json.loads(request_json)
        model = self._model
        assert model is not None
        self._fields.check_request(request, model.template["roles"])
        if refused := refusal(request):
            self._say([response(name, [choice_of(refused, "error")]), response(name, [], usage(0, 0))])
            return
        self._heard.add(name)
        ids = model.encode(request["messages"])

        def add() -> None:
            if len(ids) >= model.sequence:
                self._emit(name, [response(name, [choice_of("", "length")]), response(name, [], usage(0, 0))])
                return
            self._waiting.append(Request(name, ids, request, model))

        self._instruct(add)

    def abort(self, name: str) -> None:
        """Ends an answer."""
        self._heard.discard(name)

        def remove() -> None:
            if any(request.id == name for request in self._waiting):
                self._waiting = deque(request for request in self._waiting if request.id != name)
                self._emit(name, [])

        self._instruct(remove)

    def exit_background_loop(self) -> None:
        """Ends the loop."""
        with self._wake:
            self._exit = True
            self._wake.notify()

    def _instruct(self, what: Callable[[], None], wait: bool = False) -> None:
        done = threading.Event()

        def instruction() -> None:
            what()
            done.set()

        with self._wake:
            self._instructions.append(instruction)
            self._wake.notify()
        if wait:
            done.wait()

    def _loop(self) -> None:
        try:
            while True:
                with self._wake:
                    self._wake.wait_for(lambda: self._exit or self._instructions or self._waiting)
                    if self._exit:
                        return
                    instructions, self._instructions = self._instructions, deque()
                for instruction in instructions:
                    instruction()
                if self._waiting and self._may_go_on(self._waiting[0]):
                    self._step(self._waiting[0])
        except Exception as error:
            self._died(f"{type(error).__name__}: {error}")

    def _paced(self, name: str, otherwise: float) -> float:
        if self._pace is None:
            return otherwise
        try:
            return json.loads(self._pace.read_text()).get(name, otherwise)
        except FileNotFoundError:  # One reading, not a look before it: the file may go at any time.
            return otherwise

    def _may_go_on(self, request: Request) -> bool:
        if len(request.tokens) < self._paced("hold", math.inf):
            return True
        time.sleep(0.005)
        return False

    def _step(self, request: Request) -> None:
        model = self._model
        assert model is not None
        is_full = len(request.ids) + len(request.tokens) >= model.total - 7
        if is_full or len(request.tokens) >= self._paced("die", math.inf):
            raise RuntimeError(DEATH)
        if not request.tokens:
            model.host.reset()
            logits = model.host.prefill(request.ids)
            request.tokens.append(request.choose(logits))
            request.prefilled = time.perf_counter()
        else:
            request.tokens.append(request.choose(model.host.decode(request.tokens[-1])))
        text, finish = self._finish(request, model)
        responses = []
        if text or finish:
            responses.append(response(request.id, [choice_of(text, finish)]))
        if finish:
            self._waiting.popleft()
            responses.append(response(request.id, [], request.usage()))
        self._emit(request.id, responses)

    def _finish(self, request: Request, model: Model) -> tuple[str, str | None]:
        """The new text, and why the answer ends with it."""
        finish = None
        ids = request.tokens
        if ids[-1] in request.stop_ids:
            ids, finish = ids[:-1], "stop"
        elif len(ids) == request.max_tokens or len(request.ids) + len(ids) >= model.sequence:
            finish = "length"
        text = model.tokenizer.decode(ids, skip_special_tokens=False)
        for stop in request.stop_texts:
            if stop in text:
                text, finish = text[: text.index(stop)], "stop"
        if finish is None:
            # The last character may be incomplete, or the beginning of a text that ends the answer.
            text = text.rstrip("\ufffd")
            begun = [stop[:size] for stop in request.stop_texts for size in range(1, len(stop))]
            text = text[: len(text) - max((len(part) for part in begun if text.endswith(part)), default=0)]
        new = text[len(request.said) :]
        request.said += new
        return new, finish

    def _emit(self, name: str, responses: list[dict[str, Any]]) -> None:
        """Say what the loop made, unless nobody hears it any more."""
        self._steps.append(responses if name in self._heard else [])
        last = any("usage" in each for each in responses)
        if last:
            self._heard.discard(name)
        if last or len(self._steps) >= self._paced("batch", 1):
            steps, self._steps = self._steps, []
            self._say([each for step in steps for each in step])

    def _say(self, responses: list[dict[str, Any]]) -> None:
        for each in responses:
            self._fields.check_written("ChatCompletionStreamResponse", each)
            for choice in each["choices"]:
                self._fields.check_written("choices", choice)
                self._fields.check_written("delta", choice["delta"])
            self._fields.check_written("usage", each.get("usage", {}))
            self._fields.check_written("extra", each.get("usage", {}).get("extra", {}))
        self._said(json.dumps(responses, ensure_ascii=False))


def response(name: str, choices: list[dict[str, Any]], used: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A ``ChatCompletionStreamResponse``."""
    return {
        "id": name, "choices": choices, "created": int(time.time()), "model": "", "system_fingerprint": "",
        "object": "chat.completion.chunk", **({"usage": used} if used is not None else {}),
    }  # fmt: skip


def choice_of(text: str, finish: str | None) -> dict[str, Any]:
    """A choice of a response: without content if there is no text."""
    return {"finish_reason": finish, "index": 0, "delta": {**({"content": text} if text else {}), "role": "assistant"}}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """A usage block without ``extra``."""
    tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {**tokens, "total_tokens": prompt_tokens + completion_tokens}
