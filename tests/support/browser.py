"""The system's Chromium without a display, and what is asked of pages in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

PHONE, LAPTOP, WIDE = 400, 1280, 1920
PAPER = 680
"""Widths of a page in CSS pixels; paper is A4 without its margins."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; one process shows all pages."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


def show(page: Page, width: int, scheme: str = "light") -> None:
    """The page on a screen, or on paper if the width is `PAPER`."""
    page.emulate_media(media="print" if width == PAPER else "screen", color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})


def overflows(page: Page) -> bool:
    """Whether something is wider than the page."""
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def findings(page: Page) -> list[str]:
    """What axe-core finds, with all details open."""
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    violations = Axe().run(page).response["violations"]
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = false)")
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in violations]
