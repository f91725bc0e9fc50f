"""What the tests of pages rely on: a page that does what it must not is found out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from whalebench.tests.browser import DESK, PHONE, assert_accessible, assert_fits, opened, printed

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>one</title>'
    '<meta name="viewport" content="width=device-width"></head>'
    "<body><main><h1>one</h1>{}</main></body></html>"
)
WIDE = f"<table><tr>{'<td>0.123456</td>' * 20}</tr></table>"


def page_with(folder: Path, content: str) -> Path:
    file = folder / "page.html"
    file.write_text(PAGE.format(content), encoding="utf-8")
    return file


def test_a_page_that_does_nothing_else_is_good(chromium: Browser, tmp_path: Path) -> None:
    with opened(chromium, page_with(tmp_path, "<p>two</p>"), PHONE) as page:
        assert_accessible(page)
        assert_fits(page)
        assert printed(page).startswith(b"%PDF")
        assert page.viewport_size == {"width": 390, "height": 900}
        assert not page.evaluate("matchMedia('print').matches")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("<img src='http://127.0.0.1:9/x.png' alt=''>", "request of http://127.0.0.1:9/x.png"),
        ("<img src='other.png' alt=''>", "request of file://"),
        ("<script>console.log('said')</script>", "console log: said"),
        ("<script>absent()</script>", "error absent is not defined"),
        ("<script>alert(1)</script>", "dialog 1"),
    ],
)
def test_what_a_page_must_not_do_is_found(chromium: Browser, tmp_path: Path, content: str, what: str) -> None:
    with (
        pytest.raises(AssertionError, match=what),
        opened(chromium, page_with(tmp_path, content)) as page,
    ):
        page.wait_for_load_state("networkidle")


def test_what_keeps_people_out_or_is_cut_off_is_found(chromium: Browser, tmp_path: Path) -> None:
    content = f"<p style='color: #8796a1'>faint</p>{WIDE}"
    with opened(chromium, page_with(tmp_path, content), PHONE) as page:
        with pytest.raises(AssertionError, match="color-contrast"):
            assert_accessible(page)
        with pytest.raises(AssertionError, match=r"to 4\d\d: td 0\.123456"):
            assert_fits(page)
        with pytest.raises(AssertionError, match=r"from 7\d\d to \d+: td"):
            printed(page)


def test_a_table_that_scrolls_fits_and_is_lost_in_print(chromium: Browser, tmp_path: Path) -> None:
    with opened(chromium, page_with(tmp_path, f"<div style='overflow-x: auto'>{WIDE}</div>"), DESK) as page:
        assert_fits(page)
        with pytest.raises(AssertionError, match=r"cut off: div 0\.123456"):
            printed(page)


def test_a_heading_that_is_not_printed_is_lost(chromium: Browser, tmp_path: Path) -> None:
    hidden = "<style>@media print { button { display: none } }</style>"
    table = "<table><tr><th><button>top-1</button></th></tr><tr><td>0.5</td></tr></table>"
    with (
        opened(chromium, page_with(tmp_path, hidden + table)) as page,
        pytest.raises(AssertionError, match="no heading: th top-1"),
    ):
        printed(page)
