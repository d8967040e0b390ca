"""Which library an app loads after a start that failed: the core of the edge module, on the JVM."""

import json
import signal

import pytest

from tests.support.edge_app import BOTH, ENOUGH, Core, Failed

pytestmark = pytest.mark.needs("java", "javac")


@pytest.fixture
def gpu(app, tmp_path):
    """Loads a model, on a phone with OpenCL that remembers its starts, and closes it: what it ran on, and why."""

    def load(core=None, **how) -> tuple[str, str]:
        core = core or app.core
        core("models", json=json.dumps({"models": [app.entry("short", libraries=how.pop("libraries", BOTH))]}))
        usual = {"open_cl": True, "memory": ENOUGH, "weights": app.assets / "short", "starts": tmp_path / "starts"}
        loaded = core("load", id="short", **usual | how)
        core("close")
        return loaded["device"], loaded["reason"]

    return load


@pytest.fixture
def ended(app, gpu, tmp_path):
    """A start that ended the app at a stage of it."""

    def start(stage: str, **how) -> None:
        first = Core({"tiny": app.library, "tiny-cpu": app.library}, tmp_path / "calls.jsonl")
        with pytest.raises(json.JSONDecodeError):
            gpu(first, killed=stage, **how)
        assert first.ended() == -signal.SIGKILL
        first.kill()

    return start


GPU, GAVE_WAY = ("android", "USUAL"), ("android-cpu", "GPU_FAILED")


@pytest.mark.parametrize("stage", ["LOAD", "KERNELS"])
def test_a_gpu_that_ends_the_app_gives_way_to_the_cpu(gpu, ended, stage):
    assert gpu() == GPU
    ended(stage)
    assert gpu(driver="newer") == GPU
    assert [gpu(), gpu(ending="OTHERWISE")] == [GAVE_WAY] * 2
    assert gpu(preference="CPU") == ("android-cpu", "PREFERRED")
    assert [gpu(forget=True), gpu()] == [GPU] * 2


def test_a_gpu_that_ended_the_app_is_not_loaded_again_because_it_is_wanted(gpu, ended):
    """An app that keeps what its user wants would end at every start."""
    ended("LOAD", preference="GPU")
    for _ in range(2):
        with pytest.raises(Failed) as failed:
            gpu(preference="GPU")
        assert failed.value.code == "GPU_FAILED"
    assert gpu(preference="CPU") == ("android-cpu", "PREFERRED")
    assert [gpu(preference="GPU", forget=True), gpu(preference="GPU")] == [("android", "PREFERRED")] * 2


def test_a_driver_that_ends_the_app_when_it_is_asked_for_is_not_asked_again(gpu, ended):
    ended("OPENCL")
    assert gpu(killed="OPENCL") == GAVE_WAY
    assert gpu(killed="OPENCL", driver="newer", preference="CPU") == ("android-cpu", "PREFERRED")
    for how in ({"preference": "GPU"}, {"libraries": {"android": "tiny"}}):
        with pytest.raises(Failed, match="gpu failed: short"):
            gpu(**how)
    assert [gpu(forget=True), gpu()] == [GPU] * 2


def test_a_start_of_another_process_with_this_id_is_an_earlier_one(gpu, ended):
    """Ids repeat after a phone was started anew."""
    ended("KERNELS", process=77)
    assert gpu(process=77) == GAVE_WAY


def test_an_app_that_its_user_ends_says_nothing_of_the_gpu(gpu, ended):
    ended("KERNELS")
    assert [gpu(ending="OTHERWISE"), gpu()] == [GPU] * 2


@pytest.mark.parametrize("preference", ["AUTO", "CPU"])
def test_an_app_that_is_ended_for_want_of_memory_says_so_until_the_model_is_loaded(gpu, ended, preference):
    ended("LOAD", preference=preference)
    for ending in ("LACKED_MEMORY", "OTHERWISE"):
        with pytest.raises(Failed) as failed:
            gpu(ending=ending, preference=preference)
        assert failed.value.code == "LACKED_MEMORY" and failed.value.fields["needed"] == 1000
    anyway = 2**63 - 1
    device = {"AUTO": GPU, "CPU": ("android-cpu", "PREFERRED")}[preference]
    assert gpu(memory=anyway, preference=preference) == device
    assert gpu(preference=preference) == device


def test_want_of_memory_with_one_library_says_nothing_of_the_other(gpu, ended):
    ended("LOAD")
    cpu = {"ending": "LACKED_MEMORY", "preference": "CPU"}
    assert [gpu(**cpu), gpu(**cpu)] == [("android-cpu", "PREFERRED")] * 2
    with pytest.raises(Failed, match="lacked memory"):
        gpu(ending="LACKED_MEMORY")
    assert [gpu(memory=2**63 - 1), gpu()] == [GPU] * 2


def test_a_gpu_whose_engine_fails_gives_way_at_once(app, gpu):
    broken = {"android": "not_there", "android-cpu": "tiny-cpu"}
    assert gpu(libraries=broken) == GAVE_WAY
    reloads = len(app.core.calls("reload"))
    assert gpu(libraries=broken) == GAVE_WAY and len(app.core.calls("reload")) == reloads + 1
    with pytest.raises(Failed, match="Cannot find system lib with not_there"):
        gpu(libraries=broken, preference="GPU")
    with pytest.raises(ValueError, match="interrupted"), app.core.pace(hold=0):
        gpu(interrupt="KERNELS")
    assert gpu() == GPU


@pytest.mark.parametrize(
    ("sampling", "tokens", "then"),
    [({}, 0, GAVE_WAY), ({"schema": "{}"}, 3, GAVE_WAY), ({"schema": "{}"}, 0, GPU)],
    ids=["at an answer", "in JSON too", "but not at a schema that it does not understand"],
)
def test_a_gpu_whose_engine_fails_later_gives_way_at_the_next_start(app, gpu, tmp_path, sampling, tokens, then):
    how = {"open_cl": True, "memory": ENOUGH, "weights": app.assets / "long", "starts": tmp_path / "starts"}
    app.read(app.entry("long"))
    app.core("load", id="long", **how)
    app.core("chat", chat="last", sampling=sampling)
    with app.core.pace(die=tokens):
        assert app.send("Hi", chat="last")[-1]["code"] == "ENGINE_FAILED"
    assert app.send("Hi")[-1]["code"] == "ENGINE_FAILED"
    app.core("close")
    assert gpu() == then


def test_a_gpu_that_fails_is_not_tried_for_ever_without_a_cpu_to_give_way_to(gpu):
    alone = {"android": "not_there"}
    for how in ({}, {"forget": True}, {"preference": "GPU"}):
        with pytest.raises(Failed, match="Cannot find system lib with not_there"):
            gpu(libraries=alone, **how)
        with pytest.raises(Failed, match="gpu failed: short") as failed:
            gpu(libraries=alone)
        assert failed.value.code == "GPU_FAILED"
