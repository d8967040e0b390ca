"""Runs in an app: a stand-in whose benchmark activity is a script. `test_app_bench` measures an app's own Java."""

import json
import textwrap

import pytest

from edge_transact.benchmarking.model import open_models
from edge_transact.errors import UsageError
from edge_transact.runtime.text import TextCodec

PACKAGE = "org.example.chat"

PROLOGUE = """\
    #!/system/bin/sh
    cd /sdcard/Android/data/org.example.chat/files/bench
    read -r request < $1.json
    get() { value=${request#*\\"$1\\": }; value=${value%%[,\\}]*}; }
    """


def install(phone, script: str) -> None:
    app = phone.root / "data/app" / PACKAGE
    app.parent.mkdir(parents=True, exist_ok=True)
    app.write_text(textwrap.dedent(PROLOGUE) + textwrap.dedent(script))
    app.chmod(0o755)


def test_an_app_that_fails_says_why_and_leaves_nothing(phone, run_bench):
    line = '{\\"run\\": \\"$1\\", \\"kind\\": \\"error\\", \\"message\\": \\"no such model\\"}'
    install(phone, f'echo "{line}" > $1.jsonl; sleep 60')
    outcome = run_bench(phone.serial, app=PACKAGE, repetitions=1)
    assert outcome.results == [] and "no such model" in outcome.failures[0]
    assert not [line for line in phone.processes().values() if PACKAGE in line]


@pytest.mark.parametrize(
    ("script", "words"), [("sleep 0.1", "without its final line"), ("sleep 600", "took longer")], ids=["dies", "hangs"]
)
def test_an_app_that_dies_or_hangs(phone, run_bench, monkeypatch, script, words):
    monkeypatch.setattr("edge_transact.benchmarking.drivers.app.GRACE_S", 0)
    install(phone, script)
    outcome = run_bench(phone.serial, app=PACKAGE, timeout_s=2, repetitions=1)
    assert words in outcome.failures[0]
    assert not [line for line in phone.processes().values() if PACKAGE in line]


@pytest.mark.slow
def test_an_app_goes_on_while_the_network_is_cut(phone, run_bench, when_logged):
    install(
        phone,
        r"""
        say() { echo "{\"run\": \"$run\", \"kind\": $1}" >> $run.jsonl; }
        run=$1
        get repetitions
        for index in $(seq 0 $((value - 1))); do
            say "\"repetition\", \"index\": $index, \"prefill_tokens\": 8, \"ttft_s\": 0.2, \"prefill_s\": 0.2, \
                \"decode_s\": 0.3, \"decode_steps_s\": [0.1, 0.1, 0.1], \"e2e_s\": 0.5, \"tokens\": [1, 2, 3, 4]"
            sleep 0.3
        done
        say '"final"'
        sleep 60
        """,
    )
    when_logged("repetition", 1, lambda: phone.cut_network(1))
    outcome = run_bench(phone.serial, app=PACKAGE, repetitions=8, sample_s=0.2)
    assert outcome.failures == [] and outcome.results[0]["repetitions"] == 8
    assert not [line for line in phone.processes().values() if PACKAGE in line]


def test_an_app_that_is_not_there(phone, run_bench):
    assert f"has no app {PACKAGE}" in run_bench(phone.serial, app=PACKAGE).failures[0]
    with pytest.raises(UsageError, match="application id"):
        run_bench(phone.serial, app="x; reboot")
    with pytest.raises(UsageError, match="needs a phone"):
        run_bench("host", app=PACKAGE)


def test_a_release_has_no_benchmark(phone, run_bench):
    install(phone, "")
    (phone.root / "data/app" / PACKAGE).chmod(0o644)
    (failure,) = run_bench(phone.serial, app=PACKAGE).failures
    assert f"{PACKAGE} has no benchmark" in failure


def test_an_app_that_says_something_else(phone, run_bench, tiny_dist):
    """The app compares no tokens; what it says is compared here."""
    (model,) = open_models([tiny_dist], [])
    _, known = model.manifest.answer()
    tokenizer = TextCodec(tiny_dist).tokenizer.backend_tokenizer
    text = tokenizer.decode(known[:2], skip_special_tokens=False) + "?"
    lines = [
        {"kind": "check", "text": text},
        {"kind": "repetition", "index": 0, "prefill_tokens": 8, "decode_tokens": 4, "tokens": None, "text": "so it was"}
        | {"ttft_s": 0.2, "prefill_s": 0.2, "decode_s": 0.3, "decode_steps_s": None, "e2e_s": 0.5},
        {"kind": "final"},
    ]
    phone.write("/data/lines", "\n".join(json.dumps({"run": "RUN"} | line) for line in lines))
    install(phone, 'sed "s/RUN/$1/" /data/lines > $1.jsonl; sleep 60')
    outcome = run_bench(phone.serial, app=PACKAGE, repetitions=1)
    (result,) = outcome.results
    assert (result["tokens_checked"], result["tokens_agreed"]) == (4, 2)
    assert (result["tokens"], result["decode_step_p50_s"], result["decode_tok_s"]) == (None, None, 10)
