"""A real browser for the tests of pages: Chromium, driven by Playwright.

    python tests/answered.py FOLDER && whalebench report --workspace FOLDER --html page.html
    python tests/browser.py page.html

says of a page of 30 runs on 1,000 photos, or of another one, how large it is and how soon it opens, and holds
it against everything below, on each screen. Axe takes minutes for such a page.

A page is opened from disk, as its reader opens it. What it asks for besides itself, what it writes to the
console, an error of its script and a dialog fail the test.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAPER = {"width": 718, "height": 1047}
"""A4 with margins of one centimetre, in CSS pixels."""
OUTSIDE = """([width, paper]) => {
  const scrolls = element => !["visible", "clip"].includes(getComputedStyle(element).overflowX);
  const say = (what, element) => `${what}: ${element.tagName.toLowerCase()} `
    + element.textContent.trim().replace(/\\s+/g, " ").slice(0, 60);
  const found = [];
  for (const element of document.body.querySelectorAll("*:not(svg *)")) {
    const box = element.getBoundingClientRect();
    const heads = element.matches("th") && element.closest("table").checkVisibility();
    if (element.closest(".aloud, .skip") || !(element.checkVisibility() || heads)) continue;
    if (paper && scrolls(element) && element.scrollWidth > element.clientWidth + 1)
      found.push(say("cut off", element));
    if (!paper && element.parentElement.closest(".wide")) continue; // scrolls in a box of its own
    if (box.right > width + 1 || box.left < -1)
      found.push(say(`from ${Math.round(box.left)} to ${Math.round(box.right)}`, element));
    const read = heads && element.checkVisibility() && element.innerText.trim();
    if (paper && heads && element.textContent.trim() && !read)
      found.push(say("no heading", element));
  }
  return found.slice(0, 20);
}"""
"""What reaches over the edge of the page; on paper what has no heading or more to it than is shown, too."""


@dataclass(frozen=True)
class Screen:
    """What a page is looked at on."""

    width: int
    scheme: Literal["light", "dark"]

    def __str__(self) -> str:
        return f"{self.width}-{self.scheme}"


DESK = Screen(1280, "light")
PHONE = Screen(390, "light")
SCREENS = (DESK, Screen(390, "dark"))
on_every_screen = pytest.mark.parametrize("screen", SCREENS, ids=str)


@contextmanager
def started() -> Iterator[Browser]:
    """A Chromium without a window; the test is skipped, and says why, where there is none."""
    if EXECUTABLE is None:
        pytest.skip("there is no Chromium to open pages in: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install -e '.[dev]'")
    # Chromium's sandbox does not start for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=EXECUTABLE, args=arguments)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, screen: Screen = DESK, anchor: str = "") -> Iterator[Page]:
    """The file as a page of a browser that has seen nothing before; at the end nothing else has happened."""
    context = browser.new_context(
        viewport={"width": screen.width, "height": 900},
        color_scheme=screen.scheme,
        reduced_motion="reduce",
        offline=True,
        accept_downloads=True,
    )
    page = context.new_page()
    happened = _watch(context, page, file.as_uri())
    page.goto(file.as_uri() + anchor)
    yield page
    context.close()
    assert happened == [], "\n".join(happened)


def _watch(context: BrowserContext, page: Page, address: str) -> list[str]:
    """A list that grows by what a page must not do."""
    happened: list[str] = []

    def asked(url: str) -> None:
        if url.partition("#")[0] != address and not url.startswith(("data:", "blob:")):
            happened.append(f"request of {url}")

    def dialog(shown: Dialog) -> None:
        happened.append(f"dialog {shown.message}")
        shown.dismiss()

    context.on("request", lambda request: asked(request.url))
    context.on("console", lambda message: happened.append(f"console {message.type}: {message.text}"))
    context.on("weberror", lambda error: happened.append(f"error {error.error}"))
    page.on("dialog", dialog)
    page.on("popup", lambda other: happened.append(f"window {other.url}"))
    return happened


def assert_accessible(page: Page) -> None:
    """Axe finds no violation, its best practices among them, in the page as it is shown now."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def assert_fits(page: Page) -> None:
    """The page does not scroll sideways."""
    widths = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    wide, given = page.evaluate(widths)
    needed = f"{wide} pixels are needed, {given} are there"
    assert wide <= given, "\n".join([needed, *page.evaluate(OUTSIDE, [given, False])])


def printed(page: Page) -> bytes:
    """The page as a PDF on A4, of which nothing is lost.

    The layout of paper is measured on a screen as wide as the paper between its margins: no element reaches
    over its edge, none has more content than it shows, as a table that would scroll, and each column has its
    heading. Chromium lays a PDF out in the same width.
    """
    before = page.viewport_size
    page.emulate_media(media="print")
    page.set_viewport_size(PAPER)  # type: ignore[arg-type]
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    lost = page.evaluate(OUTSIDE, [PAPER["width"], True])
    assert lost == [], "\n".join(lost)
    edges = dict.fromkeys(("top", "right", "bottom", "left"), "1cm")
    paper = page.pdf(format="A4", prefer_css_page_size=True, margin=edges)  # type: ignore[arg-type]
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="null")
    if before:
        page.set_viewport_size(before)
    return paper


def saved(page: Page, what: Locator) -> tuple[str, str]:
    """Name and text of the file that is saved by clicking there."""
    with page.expect_download() as waited:
        what.click()
    return waited.value.suggested_filename, Path(waited.value.path()).read_bytes().decode("utf-8")


def main() -> None:
    """Parses the command line and holds a page against what pages must be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("--no-axe", action="store_true")
    asked = parser.parse_args()
    file = asked.page.resolve()
    sys.stdout.write(f"{file.stat().st_size / 1e6:.1f} MB\n")
    with started() as browser:
        for screen in SCREENS:
            start = monotonic()
            with opened(browser, file, screen) as page:
                sys.stdout.write(f"{screen}: opened in {monotonic() - start:.1f} s\n")
                assert_fits(page)
                printed(page)
                if not asked.no_axe:
                    assert_accessible(page)
    sys.stdout.write("Nothing was found.\n")


if __name__ == "__main__":
    main()
