"""Draws the app's chat screen from its own resources: ``python -m tests.support.app_picture docs/app-chat.png``.

There is no Android here to draw it, so this reads the layouts of ``templates/android`` and writes HTML, which Chromium
draws: sizes, colours, strings, shapes and icons are the app's, and the rules of layouts are those of CSS. It needs
Debian's chromium and fonts-roboto-unhinted, Android's font.
"""

import html
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

from tests.support.patience import HANG_S

RESOURCES = Path(__file__).parents[2] / "templates" / "android" / "app" / "src" / "main" / "res"
ANDROID = "{http://schemas.android.com/apk/res/android}"
WIDTH_DP, HEIGHT_DP, BAR_DP, GAP_DP, SCALE = 360, 640, 24, 16, 2
SIZES = {
    "paddingStart": "padding-left", "paddingTop": "padding-top", "paddingEnd": "padding-right",
    "paddingBottom": "padding-bottom", "padding": "padding", "minHeight": "min-height", "textSize": "font-size",
}  # fmt: skip
GRAVITIES = {"bottom": "align-items:flex-end", "center": "text-align:center"}
FRAMEWORK_COLORS = {"@android:color/white": "#FFFFFF", "@android:color/black": "#000000"}


@dataclass
class Screen:
    """What the app's code would set: views by their ids, and messages by layout and text."""

    mode: str  # values by day, values-night by night
    shown: frozenset[str] = frozenset()  # what the layout hides at first
    hidden: frozenset[str] = frozenset()
    disabled: frozenset[str] = frozenset()
    texts: dict[str, str] = field(default_factory=dict)
    rows: tuple[tuple[str, str, str], ...] = ()  # and what each hides
    progress: float = 0  # of the bar, up to 1


def _named(file: str) -> dict[str, ElementTree.Element]:
    path = RESOURCES / file
    text = path.with_suffix(".xml.j2").read_text() if not path.exists() else path.read_text()
    return {element.get("name", ""): element for element in ElementTree.fromstring(text)}


STRINGS = {name: (element.text or "").replace("\\'", "'") for name, element in _named("values/strings.xml").items()}
STYLES = _named("values/styles.xml")
CONVERSATION = (
    ("message_mine", "Do you need the Internet?", "-"),
    ("message_model", "No. I am a file on this phone, and the phone does all the work.", "-"),
    ("message_mine", "What is inside that file?", "-"),
    ("message_model", "Mostly numbers of four bits each, in groups of 32 that share a", "copy"),
)


def screens() -> list[Screen]:
    """An answer under way by day and by night, and the first start."""
    texts = {"choice": "smollm2-30", "status": STRINGS["answering"]}
    hidden = frozenset({"send", "empty", "waiting", "note", "again"})
    answering = Screen("values", shown=frozenset({"stop"}), hidden=hidden, texts=texts, rows=CONVERSATION)
    copied = STRINGS["progress_bytes"].replace("%1$s", "48 MB").replace("%2$s", "97 MB")
    texts = {"status": STRINGS["stage_copy"], "detail": copied, "empty": STRINGS["empty_not_ready"]}
    starting = Screen(
        "values-night", shown=frozenset({"progress", "detail"}), hidden=frozenset({"messages"}),
        disabled=frozenset({"new_chat", "send"}), texts={"choice": "smollm2-30"} | texts, progress=48 / 97,
    )  # fmt: skip
    return [answering, replace(answering, mode="values-night"), starting]


class Renderer:
    """Writes one screen as HTML."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._hidden = "-"  # in a row
        colors = _named("values/colors.xml") | _named(f"{screen.mode}/colors.xml")
        self._colors = {f"@color/{name}": element.text or "" for name, element in colors.items()} | FRAMEWORK_COLORS

    def page(self) -> str:
        """The screen with the system's bars."""
        body = self._view(ElementTree.parse(RESOURCES / "layout" / "chat.xml").getroot(), "vertical")
        style = f"background:{self._colors['@color/background']};color:{self._colors['@color/text']}"
        bar = f"height:{BAR_DP}px;padding:0 16px;line-height:{BAR_DP}px;font-size:12px"
        return (
            f'<section style="{style}"><header style="{bar}">12:00</header><main>{body}</main>'
            f'<footer style="height:{BAR_DP}px"><i style="background:{self._colors["@color/text"]}"></i></footer>'
            "</section>"
        )

    def _view(self, view: ElementTree.Element, parent: str) -> str:
        values = self._values(view)
        identifier = values.get("id", "").rpartition("/")[2]
        gone = values.get("visibility") == "gone" and identifier not in self._screen.shown
        if gone or identifier in (*self._screen.hidden, self._hidden):
            return ""
        style = self._style(values, parent)
        inner = getattr(self, f"_{view.tag.lower()}")(view, values, identifier)
        return f'<div class="{view.tag}" style="{style}">{inner}</div>'

    def _values(self, view: ElementTree.Element) -> dict[str, str]:
        inherited: dict[str, str] = {}
        name = (view.get("style") or "").removeprefix("@style/")
        while (style := STYLES.get(name)) is not None:
            inherited = {item.get("name", "").removeprefix("android:"): item.text or "" for item in style} | inherited
            name = style.get("parent", "")
        return inherited | {name.removeprefix(ANDROID): value for name, value in view.attrib.items()}

    def _style(self, values: dict[str, str], parent: str) -> str:
        rules = ["min-width:0"]
        for axis, across in (("width", parent != "horizontal"), ("height", parent == "horizontal")):
            size = values.get(f"layout_{axis}", "")
            if size.endswith("dp") and "layout_weight" not in values:
                rules.append(f"{axis}:{size[:-2]}px;flex:none")
            elif size == "match_parent" and across:
                rules.append("align-self:stretch" if parent != "frame" else f"{axis}:100%")
        if "layout_weight" in values:
            rules.append(f"flex:{values['layout_weight']} 1 0;min-height:0")
        rules += [f"{css}:{values[name][:-2]}px" for name, css in SIZES.items() if name in values]
        if "textColor" in values:
            rules.append(f"color:{self._colors[values['textColor']]}")
        if gravity := values.get("gravity"):
            rules.append("align-items:center" if "center_vertical" in gravity else GRAVITIES.get(gravity, ""))
        if "layout_gravity" in values:
            rules.append({"end": "justify-self:end", "center": "place-self:center"}[values["layout_gravity"]])
        if values.get("orientation") == "vertical":
            rules.append("flex-direction:column;align-items:flex-start")
        if values.get("background", "").startswith("@drawable/"):
            rules.append(self._shape(values["background"]))
        return ";".join(rules)

    def _shape(self, name: str) -> str:
        shape = ElementTree.parse(RESOURCES / f"{name[1:]}.xml").getroot()
        solid, corners = shape.find("solid"), shape.find("corners")
        assert solid is not None and corners is not None
        radius = corners.attrib[ANDROID + "radius"][:-2]
        return f"background:{self._colors[solid.attrib[ANDROID + 'color']]};border-radius:{radius}px"

    def _children(self, view: ElementTree.Element, parent: str) -> str:
        return "".join(self._view(child, parent) for child in view)

    def _linearlayout(self, view: ElementTree.Element, values: dict[str, str], identifier: str) -> str:
        return self._children(view, values.get("orientation", "horizontal"))

    def _framelayout(self, view: ElementTree.Element, values: dict[str, str], identifier: str) -> str:
        return self._children(view, "frame")

    def _textview(self, view: ElementTree.Element, values: dict[str, str], identifier: str) -> str:
        return html.escape(self._screen.texts.get(identifier, ""))

    def _edittext(self, view: ElementTree.Element, values: dict[str, str], identifier: str) -> str:
        hint = STRINGS[values["hint"].removeprefix("@string/")]
        return f'<span style="color:{self._colors[values["textColorHint"]]}">{html.escape(hint)}</span>'

    def _spinner(self, view: ElementTree.Element, values: dict[str, str], identifier: str) -> str:
        color = self._colors["@color/text_secondary"]
        arrow = f'<svg width="24" height="24"><path fill="{color}" d="M7 10l5 5 5-5z"/></svg>'
        return f"<span>{html.escape(self._screen.texts[identifier])}</span>{arrow}"

    def _progressbar(self, view: ElementTree.Element, values: dict[str, str], identifier: str) -> str:
        accent = self._colors["@color/accent"]
        done = f'<i style="width:{self._screen.progress:.0%};background:{accent}"></i>'
        return f'<i style="width:100%;background:{accent};opacity:.3"></i>{done}'

    def _imagebutton(self, view: ElementTree.Element, values: dict[str, str], identifier: str) -> str:
        icon = ElementTree.parse(RESOURCES / f"{values['src'][1:]}.xml").getroot()
        paths = "".join(f'<path d="{path.attrib[ANDROID + "pathData"]}"/>' for path in icon)
        size = icon.attrib[ANDROID + "width"][:-2]
        view_box = f"0 0 {icon.attrib[ANDROID + 'viewportWidth']} {icon.attrib[ANDROID + 'viewportHeight']}"
        return f'<svg width="{size}" viewBox="{view_box}" {self._tint(values["tint"], identifier)}>{paths}</svg>'

    def _tint(self, name: str, identifier: str) -> str:
        if name in self._colors:
            return f'fill="{self._colors[name]}"'
        disabled, enabled = ElementTree.parse(RESOURCES / f"{name[1:]}.xml").getroot()
        item = disabled if identifier in self._screen.disabled else enabled
        color = self._colors[item.attrib[ANDROID + "color"]]
        return f'fill="{color}" opacity="{item.get(ANDROID + "alpha", "1")}"'

    def _listview(self, view: ElementTree.Element, values: dict[str, str], identifier: str) -> str:
        rows = []
        for layout, text, hidden in self._screen.rows:
            self._screen.texts["text"], self._hidden = text, hidden
            rows.append(self._view(ElementTree.parse(RESOURCES / "layout" / f"{layout}.xml").getroot(), "vertical"))
        return "".join(rows)


STYLE = f"""
* {{ box-sizing: border-box; }}
body {{ margin: 0; padding: {GAP_DP}px; display: flex; gap: {GAP_DP}px; background: #ffffff; font-family: Roboto; }}
section {{ width: {WIDTH_DP}px; height: {HEIGHT_DP}px; border-radius: 24px; overflow: hidden; outline: 1px solid #888;
  display: flex; flex-direction: column; line-height: 1.17; }}
main, main > div {{ flex: 1; min-height: 0; display: flex; align-self: stretch; }}
footer {{ display: grid; place-items: center; }}
footer i {{ width: 108px; height: 4px; border-radius: 2px; }}
.LinearLayout {{ display: flex; }}
.FrameLayout {{ display: grid; grid-template-columns: 1fr; }}
.FrameLayout > * {{ grid-area: 1 / 1; }}
.ListView {{ display: flex; flex-direction: column; align-self: start; overflow: hidden; }}
.EditText {{ display: flex; align-items: center; }}
.ImageButton {{ display: grid; place-items: center; }}
.Spinner {{ display: flex; align-items: center; justify-content: space-between; padding: 0 8px; font-size: 16px; }}
.ProgressBar {{ position: relative; height: 16px; }}
.ProgressBar i {{ position: absolute; top: 6px; left: 0; height: 4px; }}
"""


def draw(output: Path) -> None:
    """Writes a PNG with all screens side by side."""
    shown = screens()
    body = "".join(Renderer(screen).page() for screen in shown)
    width = len(shown) * WIDTH_DP + (len(shown) + 1) * GAP_DP
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory) / "screens.html"
        page.write_text(f"<!doctype html><meta charset='utf-8'><style>{STYLE}</style><body>{body}</body>")
        size = f"--window-size={width},{HEIGHT_DP + 2 * GAP_DP}"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags.append(f"--force-device-scale-factor={SCALE}")
        picture = [size, f"--user-data-dir={directory}/profile", f"--screenshot={output.resolve()}", page.as_uri()]
        subprocess.run(["chromium", *flags, *picture], check=True, capture_output=True, timeout=HANG_S)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
