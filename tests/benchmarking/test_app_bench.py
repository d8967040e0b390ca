"""``bench --app`` with an app's own Java: on the stand-in phone, started by `am`, with real tokens."""

import json
import os
import shlex
import shutil

import psutil
import pytest

from edge_transact.benchmarking.model import BenchModel, open_models
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.text import TextCodec
from tests.support.edge_app import engine, entry, java
from tests.support.phone.phone import Phone
from tests.support.phone.runner import REPOSITORY

pytestmark = [pytest.mark.needs("java", "javac"), pytest.mark.slow]

PACKAGE = "org.example.chat"
PROCESS = f"/data/app/{PACKAGE}"
HOME = f"data/data/{PACKAGE}"
EXTERNAL = f"sdcard/Android/data/{PACKAGE}/files"


@pytest.fixture
def model(tiny_dist) -> BenchModel:
    """What is measured."""
    (model,) = open_models([tiny_dist], [])
    return model


@pytest.fixture
def phone(make_phone, model) -> Phone:
    """A phone with an app: its assets, and a script that starts its Java in this machine's JVM."""
    phone = make_phone(host=True)
    assets = phone.root / HOME / "assets"
    (assets / "tiny").mkdir(parents=True)
    for path in (path for path in model.path.iterdir() if path.is_file() and path.name != "manifest.json"):
        shutil.copy(path, assets / "tiny")
    name = model.library_name("android-cpu")
    models = [entry(assets / "tiny", {"android-cpu": name}, name="it's <tiny> $(reboot)")]
    (assets / "models.json").write_text(json.dumps({"models": models}))
    places = ["/mnt/" + place for place in (f"{HOME}/assets", HOME, EXTERNAL)]
    command = java("edgetransact.tests.BenchApp", PROCESS, "RUN", *places, *engine({name: model.library("host")}))
    script = phone.root / PROCESS.lstrip("/")
    script.parent.mkdir()
    environment = [f"PATH={os.environ['PATH']}", f"PYTHONPATH={REPOSITORY}", "TVM_NUM_THREADS=1", "LC_ALL=C.UTF-8"]
    start = shlex.join(["exec", "chroot", "/host", "/usr/bin/env", "-C", "/", *environment, *command])
    start = start.replace(" RUN ", ' "$1" ')
    script.write_text(f"#!/system/bin/sh\n{start}\n")
    script.chmod(0o755)
    return phone


def greedy(model: BenchModel, prompt: list[int], tokens: int) -> str:
    """The text of what the model says."""
    ids = list(HostModel.load(model.path).generate(prompt, tokens))
    return TextCodec(model.path).tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


def test_the_apps_own_java_is_measured(phone, model, run_bench):
    outcome = run_bench(phone.serial, app=PACKAGE, warmups=1)
    assert outcome.failures == []
    (result,) = outcome.results
    assert (result["repetitions"], result["warmups"]) == (2, 1)
    assert result["tokens"] is None and result["tokens_equal"]
    assert result["tokens_checked"] == result["tokens_agreed"] == 4
    records = [json.loads(line) for line in run_bench.log.read_text().splitlines()]
    texts = {record["text"] for record in records if record["kind"] == "repetition"}
    assert texts == {greedy(model, model.prompt(8), 4)}
    assert 0 < result["prefill_s"] <= result["ttft_s"] < result["e2e_s"] < 60
    assert 0 < result["decode_s"] < result["e2e_s"] and 0 < result["load_s"] < 60
    assert result["peak_rss_mib"] > 10 and result["weights_mib"] == model.manifest.weights_bytes / 2**20
    assert (result["kernel_build_s"], result["kv_mib"], result["n_threads"]) == (None, None, None)
    # The app has its weights, and of its runs what adb's shell may not remove and the app's next run does.
    assert sorted(path.name for path in (phone.root / HOME).iterdir()) == ["assets", "models"]
    left = list((phone.root / EXTERNAL / "bench").iterdir())
    assert len({path.stem for path in left}) == 1 and all(path.read_bytes() == b"" for path in left)
    assert not [each.pid for each in psutil.process_iter(["cmdline"]) if PROCESS in (each.info["cmdline"] or [])]


def test_the_app_without_a_pause(phone, run_bench):
    """It ends by the clock, while the app goes on: its process is ended, and nothing of the run stays."""
    outcome = run_bench(phone.serial, app=PACKAGE, sustained_s=2.0, sample_s=0.1)
    assert outcome.failures == [] and outcome.results == []
    (found,) = outcome.sustained
    assert found["complete"] and 2 <= found["seconds"] < 30 and found["first_tok_s"] > 0
    records = [json.loads(line) for line in run_bench.log.read_text().splitlines()]
    repetitions = [record for record in records if record["kind"] == "repetition"]
    assert len(repetitions) > 2 and found["tokens"] == 4 * len(repetitions)
    assert not [each.pid for each in psutil.process_iter(["cmdline"]) if PROCESS in (each.info["cmdline"] or [])]
    assert all(path.read_bytes() == b"" for path in (phone.root / EXTERNAL / "bench").iterdir())


def test_damaged_weights_in_the_app(phone, run_bench):
    with (phone.root / HOME / "assets/tiny/params_shard_0.bin").open("r+b") as file:
        file.write(b"damaged")
    outcome = run_bench(phone.serial, app=PACKAGE, repetitions=1)
    assert outcome.results == [] and "weights damaged: params_shard_0.bin" in outcome.failures[0]
