"""A benchmark run as an app makes it, and its JSON, which is one schema for `bench` and for the app."""

import json
from dataclasses import MISSING, asdict, fields

import pytest

from edge_transact.benchmarking.records import lines
from edge_transact.benchmarking.records.lines import AppRequest
from edge_transact.benchmarking.records.plan import Lengths
from tests.support.byte_model import BYTES
from tests.support.edge_app import BOTH, ENOUGH, WINDOW, App

pytestmark = pytest.mark.needs("java", "javac")

PROMPT = [BYTES + byte for byte in b"u:Hi\na:"]
"""The tokens of a chat's prompt, so that the answers are known."""
REQUEST = AppRequest(
    run="run-1", model_lib=BOTH["android-cpu"], prompt=PROMPT, decode_tokens=20, repetitions=2, warmups=1,
    check=([BYTES + byte for byte in b"u:?\na:"], [0] * 5), timeout_s=60.0,
)  # fmt: skip


class Run:
    """One run of an app with its files in `home`: what the app wrote."""

    def __init__(self, app: App, home, request) -> None:
        app.read(app.entry("short"))
        directory, self.scratch = home / "bench", home / "cache" / "bench"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "run-1.json").write_text(json.dumps(request))
        places = {"directory": directory, "scratch": self.scratch, **app.phone("bench")}
        app.core("bench", run="run-1", open_cl=False, memory=ENOUGH, **places)
        self.texts = (directory / "run-1.jsonl").read_text().splitlines()
        self.lines = [lines.parse_line(text, "run-1") for text in self.texts]
        self.kinds = [getattr(line, "kind", None) for line in self.lines]

    @property
    def error(self) -> str:
        """The message of the last line."""
        assert self.kinds[-1] == "error"
        return self.lines[-1].message


def test_the_lines_are_what_bench_reads(app, tmp_path):
    (tmp_path / "bench").mkdir()
    for name in ("run-0.json", "run-0.jsonl", "notes.txt"):
        (tmp_path / "bench" / name).touch()
    run = Run(app, tmp_path, asdict(REQUEST))
    left = {path.name for path in (tmp_path / "bench").iterdir()}
    assert left == {"run-1.json", "run-1.jsonl", "notes.txt"}, "those of earlier runs are gone"
    assert run.kinds == ["start", "load", "check", "warmup", "repetition", "repetition", "final"]
    for text, line in zip(run.texts, run.lines, strict=True):
        required = {each.name for each in fields(line) if each.default is MISSING}
        assert required <= set(json.loads(text)) <= {each.name for each in fields(line)}
    repetition = run.lines[4]
    assert repetition.has(Lengths(len(PROMPT), 20))
    assert repetition.text == app.generate(PROMPT, 20) == run.lines[5].text
    assert run.lines[2].text == app.generate(REQUEST.check[0], 5)
    assert len(repetition.decode_steps_s) == 19
    assert repetition.prefill_s <= repetition.ttft_s < repetition.e2e_s and repetition.decode_s < repetition.e2e_s
    assert not run.scratch.exists()


def test_repetitions_prefill_all_of_the_prompt(app, tmp_path):
    """Each prompt is a model of its own to the engine, whose prefix cache is off."""
    Run(app, tmp_path, asdict(REQUEST))
    check, bench = app.core.calls("reload")[-2:]
    for config in (check, bench):
        assert (config["model_lib"], config["prefix_cache_mode"]) == ("system://tiny-cpu", "disable")
        assert config["max_total_sequence_length"] == WINDOW + 160
    assert check["model"] != bench["model"]
    request = {"messages": [], "temperature": 0, "max_tokens": 20, "debug_config": {"ignore_eos": True}}
    assert app.core.calls("chat_completion")[-1] == request


def test_steps_that_cannot_be_told_apart_are_unknown(app, tmp_path):
    with app.core.pace(batch=3):
        run = Run(app, tmp_path, asdict(REQUEST))
    repetition = run.lines[4]
    assert repetition.decode_steps_s is None and repetition.has(Lengths(len(PROMPT), 20))
    assert repetition.text == app.generate(PROMPT, 20)


@pytest.mark.parametrize("name", [field.name for field in fields(AppRequest) if field.name not in ("run", "check")])
def test_the_app_reads_each_field_of_a_request(app, tmp_path, name):
    request = asdict(REQUEST)
    del request[name]
    assert name in Run(app, tmp_path, request).error


def test_a_build_without_a_parity_record(app, tmp_path):
    run = Run(app, tmp_path, asdict(REQUEST) | {"check": None, "warmups": 0, "repetitions": 1})
    assert run.kinds == ["start", "load", "repetition", "final"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"model_lib": "$(reboot)"}, "no library: $(reboot)", id="unknown"),
        pytest.param({"model_lib": BOTH["android"]}, "no library: tiny", id="no OpenCL"),
        pytest.param({"decode_tokens": WINDOW - len(PROMPT) + 1}, f"at most {WINDOW} tokens", id="too long"),
        pytest.param({"prompt": "1 2 3"}, "prompt", id="no list"),
    ],
)
def test_a_request_that_cannot_be_met(app, tmp_path, change, words):
    assert words in Run(app, tmp_path, asdict(REQUEST) | change).error


def test_a_run_ends_at_its_timeout(app, tmp_path):
    with app.core.pace(hold=5):
        run = Run(app, tmp_path, asdict(REQUEST) | {"timeout_s": 0.5})
    assert "longer than its timeout" in run.error
    assert Run(app, tmp_path, asdict(REQUEST)).kinds[-1] == "final"


@pytest.mark.parametrize("name", ["../run", "run/1", "", "run.1"])
def test_any_app_may_send_an_intent(app, tmp_path, name):
    app.read(app.entry("short"))
    places = {"directory": tmp_path, "scratch": tmp_path / "scratch", **app.phone("bench")}
    with pytest.raises(ValueError, match="not the name of a run"):
        app.core("bench", run=name, open_cl=False, memory=ENOUGH, **places)
    assert list(tmp_path.iterdir()) == []
