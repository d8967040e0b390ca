"""``models.json`` as the app reads it, and the library that it chooses."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.edge_app import BOTH, App, Failed

pytestmark = pytest.mark.needs("java", "javac")

IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
ODD = st.text(max_size=20)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.tuples(IDS, ODD), unique_by=lambda each: each[0].lower(), min_size=1, max_size=3))
def test_names_are_data(app, names):
    entries = [app.entry("short", id=model, name=name) for model, name in names]
    assert app.read(*entries) == [{"id": model, "name": name} for model, name in names]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "../short"},
        {"id": ".short"},
        {"id": "a/b"},
        {"id": ""},
        {"libraries": {}},
        {"libraries": {"android": "$(reboot)"}},
        {"libraries": {"iphone": "tiny"}},
        {"memory_bytes": {}},
        {"weights": "cloud"},
        {"tuned": None},
        {"tuned": {"SM8650": {"target": "hexagon", "cores": []}}},
        {"tuned": {"SM8650": {"target": "android-cpu", "cores": ["many"]}}},
        {"libraries": {"android": "tiny"}, "tuned": {"SM8650": {"target": "android-cpu", "cores": []}}},
        {"digest": "1234"},
        {"files": []},
        {"files": [{"path": "../../databases/x", "bytes": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "x", "bytes": "many", "sha256": "0" * 64}]},
        {"context_window_size": None},
    ],
    ids=str,
)
def test_models_that_make_no_sense(app, wrong):
    with pytest.raises(Failed) as failed:
        app.read(app.entry("short", **wrong))
    assert failed.value.code == "MODELS_INVALID"


def test_two_models_of_one_name(app):
    with pytest.raises(Failed, match="two models"):
        app.read(app.entry("short", id="Tiny"), app.entry("long", id="tiny"))


def test_models_of_several_files(app):
    """As modules bring them, each with its own."""
    texts = [json.dumps({"models": [app.entry(name)]}) for name in ("short", "long")]
    read = app.core("models", json=texts[0], modules=texts[1:])["models"]
    assert read == [{"id": "short", "name": "short"}, {"id": "long", "name": "long"}]
    with pytest.raises(Failed, match="two models are called short"):
        app.core("models", json=texts[0], modules=[texts[1], texts[0]])


def choose(app: App, libraries: dict[str, str], open_cl: bool, memory: int, chip="", **changes) -> dict[str, object]:
    """What the app runs a model with on a phone."""
    memory_bytes = {target: {"android": 1000, "android-cpu": 900}[target] for target in libraries}
    app.read(app.entry("short", libraries=libraries, memory_bytes=memory_bytes, **changes))
    return app.core("choose", id="short", open_cl=open_cl, memory=memory, chip=chip)


@pytest.mark.parametrize(
    ("libraries", "open_cl", "memory", "device", "reason"),
    [
        (BOTH, True, 1000, "android", "USUAL"),
        (BOTH, False, 1000, "android-cpu", "NO_OPENCL"),
        (BOTH, False, 900, "android-cpu", "NO_OPENCL"),
        ({"android-cpu": "tiny-cpu"}, True, 900, "android-cpu", "NO_LIBRARY"),
        ({"android-cpu": "tiny-cpu"}, False, 900, "android-cpu", "NO_LIBRARY"),
        ({"android": "tiny"}, True, 1000, "android", "USUAL"),
    ],
)
def test_the_choice_of_a_library(app, libraries, open_cl, memory, device, reason):
    chosen = {"device": device, "reason": reason, "library": libraries[device], "cores": []}
    assert choose(app, libraries, open_cl, memory) == chosen
    # What is known of another chip says nothing of this one.
    tuned = {"SM8650": {"target": next(iter(libraries)), "cores": [7]}}
    assert choose(app, libraries, open_cl, memory, "SM8750", tuned=tuned) == chosen


@pytest.mark.parametrize(
    ("tuned", "open_cl", "device", "reason", "cores"),
    [
        ({"target": "android-cpu", "cores": [4, 5, 6, 7]}, True, "android-cpu", "TUNED", [4, 5, 6, 7]),
        ({"target": "android-cpu", "cores": []}, True, "android-cpu", "TUNED", []),
        ({"target": "android", "cores": []}, True, "android", "TUNED", []),
        # Another phone of this chip, or its build of Android, may lack OpenCL.
        ({"target": "android", "cores": []}, False, "android-cpu", "NO_OPENCL", []),
    ],
)
def test_a_chip_that_was_tuned(app, tuned, open_cl, device, reason, cores):
    chosen = choose(app, BOTH, open_cl, 1000, "SM8650", tuned={"SM8650": tuned})
    assert chosen == {"device": device, "reason": reason, "library": BOTH[device], "cores": cores}


def test_a_chip_whose_opencl_is_known_to_give_wrong_answers(app):
    """Unless this model was measured on it, or has no other library."""
    for chip in ("s5e8845", "S5E8845"):
        assert choose(app, BOTH, True, 1000, chip)["reason"] == "GPU_WRONG"
    assert choose(app, {"android": "tiny"}, True, 1000, "s5e8845")["reason"] == "USUAL"
    tuned = {"s5e8845": {"target": "android", "cores": []}}
    chosen = choose(app, BOTH, True, 1000, "s5e8845", tuned=tuned)
    assert (chosen["device"], chosen["reason"]) == ("android", "TUNED")


def test_the_engine_is_opened_on_the_cores_that_were_found_best(app):
    tuned = {"SM8650": {"target": "android-cpu", "cores": [4, 5]}}
    app.read(app.entry("short", tuned=tuned))
    app.core("load", id="short", open_cl=True, memory=10**9, weights=app.assets / "short", chip="SM8650")
    (call,) = [each for each in map(json.loads, app.core.log.read_text().splitlines()) if "init" in each["function"]][
        -1:
    ]
    assert call["arguments"] == ["CPU", "[4, 5]"]
    app.core("close")


@pytest.mark.parametrize(("open_cl", "needed"), [(True, 1000), (False, 900)])
def test_too_little_memory(app, open_cl, needed):
    with pytest.raises(Failed) as failed:
        choose(app, BOTH, open_cl, needed - 1)
    assert failed.value.code == "TOO_LITTLE_MEMORY"
    assert (failed.value.fields["needed"], failed.value.fields["available"]) == (needed, needed - 1)


def test_no_opencl_and_no_library_for_the_cpu(app):
    with pytest.raises(Failed, match="no library: short") as failed:
        choose(app, {"android": "tiny"}, False, 1000)
    assert failed.value.code == "NO_LIBRARY"
