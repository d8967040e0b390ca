"""``models.json`` as the app reads it, and the library that it chooses."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.edge_app import BOTH, App, Failed

pytestmark = pytest.mark.needs("java", "javac")

IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
ODD = st.text(max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def choose(app: App, libraries: dict[str, str], open_cl: bool, memory: int) -> dict[str, str]:
    """What the app runs a model with on a phone."""
    memory_bytes = {target: {"android": 1000, "android-cpu": 900}[target] for target in libraries}
    app.read(app.entry("short", libraries=libraries, memory_bytes=memory_bytes))
    return app.core("choose", id="short", open_cl=open_cl, memory=memory)


@pytest.mark.parametrize(
    ("libraries", "open_cl", "memory", "device"),
    [
        (BOTH, True, 1000, "android"),
        (BOTH, False, 1000, "android-cpu"),
        (BOTH, False, 900, "android-cpu"),
        ({"android-cpu": "tiny-cpu"}, True, 900, "android-cpu"),
        ({"android": "tiny"}, True, 1000, "android"),
    ],
)
def test_the_choice_of_a_library(app, libraries, open_cl, memory, device):
    assert choose(app, libraries, open_cl, memory) == {"device": device, "library": libraries[device]}


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
