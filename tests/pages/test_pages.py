"""Report pages in a real browser: on a phone, a laptop and a wide screen, in the dark and on paper."""

import re
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.examples import ROOT
from tests.support.pages import NAME, bench_page, comparison_page, eval_page, healed_page, pruned_page, rounded_page

pytestmark = pytest.mark.needs("chromium")

LEAVES_CHART = """() => [...document.querySelectorAll("svg.et-chart")].flatMap(chart => {
    const box = chart.getBoundingClientRect();
    return [...chart.querySelectorAll("text")].filter(text => {
        const own = text.getBoundingClientRect();
        return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1;
    }).map(text => text.textContent);
})"""

LEAVES_BOX = """() => [...document.querySelectorAll("text")].flatMap(text => {
    const own = text.getBoundingClientRect(), x = (own.left + own.right) / 2, y = (own.top + own.bottom) / 2;
    const around = [...document.querySelectorAll("rect, svg")].map(box => box.getBoundingClientRect())
        .filter(box => box.left < x && x < box.right && box.top < y && y < box.bottom)
        .sort((one, other) => one.width * one.height - other.width * other.height)[0];
    return own.left >= around.left && own.right <= around.right ? [] : [text.textContent];
})"""


PHONE, LAPTOP, WIDE = 400, 1280, 1920
PAPER = 680
"""Widths of a page in CSS pixels; paper is A4 without its margins."""


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium without a display: one process shows all pages."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


def show(page: Page, width: int, scheme: str = "light") -> None:
    """The page on a screen, or on paper if the width is `PAPER`."""
    page.emulate_media(media="print" if width == PAPER else "screen", color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})


def overflows(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def open_details(page: Page, opened: bool) -> None:
    page.evaluate(f"document.querySelectorAll('details').forEach(each => each.open = {str(opened).lower()})")


PAGES = {
    "prune of 1 layer": lambda directory: pruned_page(directory, 1),
    "rounding of 1 layer": lambda directory: rounded_page(directory, 1),
    "prune of 126 layers": lambda directory: pruned_page(directory, 126),
    "rounding of 126 layers": lambda directory: rounded_page(directory, 126),
    "heal": healed_page,
    "bench": bench_page,
    "bench compare": comparison_page,
    "eval": eval_page,
}


@pytest.fixture(scope="module", params=PAGES)
def page(request, browser: Browser, tmp_path_factory):
    """A report page, opened; its network requests and the errors of its scripts are in ``page.seen``."""
    file = PAGES[request.param](tmp_path_factory.mktemp("page") / "report")
    page = browser.new_page()
    page.seen = []
    page.on("request", lambda request: page.seen.append(request.url))
    page.on("pageerror", lambda error: page.seen.append(str(error)))
    page.on("dialog", lambda dialog: page.seen.append(dialog.message))
    page.goto(file.as_uri())
    yield page
    page.close()


def test_the_page_is_small_whole_and_without_scripts(page: Page) -> None:
    file = Path(page.url.removeprefix("file://"))
    assert file.stat().st_size < 1_000_000
    assert page.seen == [page.url], "everything is in the page"
    assert page.locator("script").count() == 0, "names are no markup"
    identities = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(set(identities)) == len(identities)
    assert page.locator("h1").inner_text() in page.title()


@pytest.mark.parametrize("width", [PHONE, LAPTOP, WIDE])
def test_it_fits_every_screen(page: Page, width: int) -> None:
    show(page, width)
    assert not overflows(page)
    assert page.evaluate(LEAVES_CHART) == []


AXE_PAGES = ["prune of 1 layer", "rounding of 1 layer", "heal", "bench", "bench compare", "eval"]


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (LAPTOP, "dark")])
@pytest.mark.parametrize("page", AXE_PAGES, indirect=True)
def test_axe_finds_nothing(page: Page, width: int, scheme: str) -> None:
    show(page, width, scheme)
    open_details(page, True)
    violations = Axe().run(page).response["violations"]
    open_details(page, False)
    assert [f"{each['id']}: {each['nodes'][0]['html']}" for each in violations] == []


def test_pictures_follow_a_dark_screen(page: Page) -> None:
    colours = """() => {
        const of = selector => getComputedStyle(document.querySelector(selector));
        return [of("body").backgroundColor, of(".et-chart text").fill, of(".et-chart .c0").getPropertyValue("--et")];
    }"""
    seen = {}
    for scheme in ("light", "dark"):
        show(page, LAPTOP, scheme)
        seen[scheme] = page.evaluate(colours)
    light, dark = seen.values()
    assert light[:2] == ["rgb(255, 255, 255)", "rgb(31, 35, 40)"]
    assert dark[:2] == ["rgb(13, 17, 23)", "rgb(230, 237, 243)"]
    assert light[2:] != dark[2:]


def test_paper_is_light_and_has_the_tables_in_full(page: Page) -> None:
    show(page, PAPER, "dark")
    assert not overflows(page)
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(31, 35, 40)"
    hidden = "[...document.querySelectorAll('td')].filter(cell => !cell.checkVisibility({contentVisibilityAuto: true}))"
    assert page.evaluate(f"{hidden}.length") == 0
    boxes = "[...document.querySelectorAll('.scroll, .stacked')]"
    assert page.evaluate(f"{boxes}.every(box => box.scrollWidth <= box.clientWidth)")


def test_a_phone_shows_every_column_and_folded_tables_scroll_by_themselves(page: Page) -> None:
    show(page, PHONE)
    leaves = """() => [...document.querySelectorAll(".stacked td, .stacked tbody th")].filter(cell => {
        const box = cell.getBoundingClientRect();
        const leaves = box.left < 0 || box.right > innerWidth || cell.scrollWidth > cell.clientWidth;
        return leaves && cell.checkVisibility();
    }).map(cell => cell.textContent)"""
    assert page.evaluate(leaves) == []
    open_details(page, True)
    ends = """() => [...document.querySelectorAll(".scroll")].map(box => {
        box.scrollLeft = 10000;
        const [first, last] = ["tbody th", "tr > :last-child"]
            .map(each => box.querySelector(each).getBoundingClientRect());
        return [first.left - box.getBoundingClientRect().left, innerWidth - last.right];
    })"""
    for first, last in page.evaluate(ends):
        assert 0 <= first <= 1 and last >= 0, "the first column stays, and the last can be reached"
    open_details(page, False)


def test_every_chart_says_what_it_shows(page: Page) -> None:
    words = page.evaluate("""() => [...document.querySelectorAll("svg.et-chart")].map(chart => {
        const names = chart.getAttribute("aria-labelledby").split(" ");
        return [chart.getAttribute("role"), ...names.map(name => document.getElementById(name).textContent)];
    })""")
    assert words
    for role, title, text in words:
        assert role == "img" and title and any(letter.isdigit() for letter in text), (title, text)


def test_the_first_line_is_the_answer_and_the_first_picture_the_widths(browser: Browser, tmp_path) -> None:
    page = browser.new_page()
    page.goto(pruned_page(tmp_path / "report", 1).as_uri())
    assert re.match(
        r"\d+ % smaller, perplexity \+49 % on average, \+71 % on Python code\n", page.locator("body").inner_text()
    )
    assert page.locator("section:has(svg) h2").first.inner_text() == "Widths by layer"
    assert NAME in page.locator("main").inner_text()
    chart = page.locator("svg.et-chart").first
    chart.locator(".hit").first.hover()
    assert chart.locator(".hit title").first.inner_html().startswith("layer 0: ")
    page.close()


def test_a_bench_says_what_is_noise(browser: Browser, tmp_path) -> None:
    page = browser.new_page()
    page.goto(bench_page(tmp_path / "report").as_uri())
    answer = page.locator("h1").inner_text()
    assert answer.startswith("pruned: 2.01 times as fast (1.98 to 2.04); ")
    assert answer.endswith("against dense on Phone")
    assert "perplexity 22.3 → 33.5, no difference beyond noise (0.9" in answer
    page.goto(comparison_page(tmp_path / "compared").as_uri())
    answer = page.locator("h1").inner_text()
    assert re.match(r"dense: 1\.25 times as slow \(1\.2\d to 1\.2\d\); <script>", answer)
    assert ": no difference beyond noise (0.9" in answer
    assert answer.endswith("after.jsonl against before.jsonl on Phone")
    page.close()


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("*.svg")), ids=lambda path: path.name)
def test_words_stay_in_their_boxes_in_a_picture_of_the_docs(browser: Browser, picture: Path) -> None:
    page = browser.new_page()
    page.goto(picture.as_uri())
    assert page.evaluate(LEAVES_BOX) == []
    page.close()
