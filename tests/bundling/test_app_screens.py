"""What the sample app shows: its strings, views, colours and manifest, and that everybody can read and touch it."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edge_transact.benchmarking.drivers.app import ACTION
from tests.support.android_project import link_resources, merged_manifest, render
from tests.support.app_picture import CONVERSATION, Renderer, screens
from tests.support.kotlin import kotlin

ANDROID = "{http://schemas.android.com/apk/res/android}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def code(project: Path) -> str:
    """All code of the app."""
    return "\n".join(file.read_text() for file in kotlin(project / "app"))


def elements(project: Path, pattern: str):
    """All elements of the app's XML files."""
    for file in sorted((project / "app" / "src").glob(f"*/{pattern}")):
        for element in ElementTree.parse(file).iter():
            yield file, element


def test_every_string_is_used_and_no_text_stands_anywhere_else(project, code):
    strings = {element.get("name") for _, element in elements(project, "res/values/strings.xml") if element.get("name")}
    xml = "\n".join(file.read_text() for file in (project / "app" / "src").rglob("*.xml"))
    used = set(re.findall(r"R\.(?:string|plurals)\.(\w+)", code)) | set(re.findall(r"@string/(\w+)", xml))
    assert used == strings
    for file, element in elements(project, "res/layout/*.xml"):
        for attribute in ("text", "hint", "contentDescription", "label", "title"):
            value = element.get(ANDROID + attribute, "@")
            assert value.startswith("@"), f"{file.name}: {value!r} belongs into strings.xml"
    assert not re.search(r"(?i)(text|hint|title|contentDescription|error)( = |\()\"[^\"]", code)


def test_the_arguments_of_a_string_are_those_that_the_code_gives(project, code):
    for _, element in elements(project, "res/values/strings.xml"):
        name = element.get("name")
        if name and element.tag == "string" and name != "app_name":
            wanted = len(set(re.findall(r"%(\d)\$", element.text or "")))
            calls = re.findall(rf"getString\(\s*R\.string\.{name}\b((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)", code)
            assert all(call.count(",") == wanted for call in calls), name
            assert wanted == 0 or calls, name


def test_every_view_with_a_name_is_used_by_the_code(project, code):
    for file, element in elements(project, "res/layout/*.xml"):
        if name := element.get(ANDROID + "id"):
            assert f"R.id.{name.removeprefix('@+id/')}" in code, f"{file.name}: {name}"


def test_people_who_do_not_see_the_screen_hear_what_things_are(project):
    labelled = dict.fromkeys(["ImageButton", "ProgressBar", "Spinner"], "contentDescription")
    labelled |= {"EditText": "hint", "Button": "text", "RadioButton": "text"}
    seen = set()
    for file, element in elements(project, "res/layout/*.xml"):
        if attribute := labelled.get(element.tag):
            seen.add(element.tag)
            assert element.get(ANDROID + attribute), f"{file.name}: {element.tag} has no {attribute}"
    assert seen == labelled.keys()


def test_what_can_be_touched_is_48_dp_high(project):
    styles = {element.get("name"): element for _, element in elements(project, "res/values/styles.xml")}
    for file, element in elements(project, "res/layout/*.xml"):
        if element.tag in ("ImageButton", "Button", "Spinner", "EditText", "RadioButton"):
            items: dict[str | None, str | None] = {}
            name = (element.get("style") or "").removeprefix("@style/")
            while (style := styles.get(name)) is not None:
                items = {item.get("name"): item.text for item in style} | items
                name = style.get("parent", "")
            height = element.get(ANDROID + "minHeight") or element.get(ANDROID + "layout_height")
            height = height or items.get("android:minHeight") or items["android:layout_height"]
            assert height == "48dp", f"{file.name}: {element.tag}"


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", ["values", "values-night"])
def test_text_can_be_read_by_day_and_by_night(project, mode):
    colours = {e.get("name"): e.text or "" for _, e in elements(project, f"res/{mode}/colors.xml") if e.get("name")}
    pairs = [("text", "background"), ("text", "mine"), ("text", "model"), ("text_secondary", "background")]
    for front, back in [*pairs, ("text_secondary", "model"), ("accent", "background")]:
        bright, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (front, back)


def test_the_picture_of_the_app_shows_what_its_resources_say():
    light, dark, starting = [Renderer(screen).page() for screen in screens()]
    assert "#FFFFFF" in light and "#131314" in dark
    for text in ("The model is answering.", *(text for _, text, _ in CONVERSATION)):
        assert text in light and text in dark and text not in starting
    assert "Copying the model" in starting and "48 MB of 97 MB" in starting


def test_layouts_turn_around_where_people_read_from_right_to_left(project):
    for file, element in elements(project, "res/layout/*.xml"):
        for attribute, value in element.attrib.items():
            assert "Left" not in attribute and "Right" not in attribute, f"{file.name}: {attribute}"
            assert value not in ("left", "right"), f"{file.name}: {attribute}={value}"


def test_the_app_asks_for_nothing_and_backs_nothing_up(project):
    manifest = ElementTree.fromstring(merged_manifest(project))
    application = manifest.find("application")
    assert application is not None and application.get(ANDROID + "allowBackup") == "false"
    assert application.get(ANDROID + "supportsRtl") == "true"
    assert not manifest.findall("uses-permission")
    rules = {rule.tag: {e.get("domain") for e in rule} for _, rule in elements(project, "res/xml/*.xml") if len(rule)}
    domains = {"root", "file", "sharedpref", "database"}
    everything = {"external"} | domains | {f"device_{domain}" for domain in domains}
    assert rules["cloud-backup"] == rules["device-transfer"] == everything


def test_only_adb_can_start_a_benchmark(project):
    activities = ElementTree.fromstring(merged_manifest(project)).findall("application/activity")
    (bench,) = [a for a in activities if ACTION in {e.get(ANDROID + "name") for e in a.iter("action")}]
    assert bench.get(ANDROID + "exported") == "true"
    assert bench.get(ANDROID + "permission") == "android.permission.DUMP"
    assert {e.get(ANDROID + "name") for e in bench.iter("category")} == {"android.intent.category.DEFAULT"}


@pytest.mark.needs("npm")
def test_a_release_has_nothing_of_the_benchmark(project, code, tmp_path):
    """What is in the debug build alone isn't named by the code that all builds have."""
    assert ACTION not in merged_manifest(project, "release")
    assert link_resources(project, tmp_path, "release").returncode == 0
    (own,) = (file for file in kotlin(project / "app" / "src" / "debug"))
    assert code.count(own.stem) == own.read_text().count(own.stem)


def test_screen_readers_hear_who_spoke_and_that_an_answer_ended(project, code):
    live = [
        element
        for _, element in elements(project, "res/layout/*.xml")
        if element.get(f"{ANDROID}accessibilityLiveRegion")
    ]
    assert [element.get(f"{ANDROID}id") for element in live] == ["@+id/status"]
    for state in ("answering", "answered", "ended_by_stop"):
        assert f"R.string.{state}" in code
    described = re.findall(r"contentDescription = context\.getString\(R\.string\.(\w+), (.*)\)", code)
    assert described == [("said_by_you", "entry.text"), ("said_by_model", "shown.text")]
