"""The audit's page at work, in a real browser; what it says of the pairs, and what the terminal does."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whalebench import cell_text
from whalebench.benchmarks.auditing.verdicts import verdicts_in
from whalebench.benchmarks.core.audits import KINDS, Audit, Pair
from whalebench.benchmarks.core.catalog import build_catalog
from whalebench.reports.audit_page import audit_page, audit_report
from whalebench.tests.browser import (
    DESK,
    PHONE,
    Screen,
    assert_accessible,
    assert_fits,
    on_every_screen,
    opened,
    printed,
    saved,
)
from whalebench.tests.test_formulas import NAMES, cells_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAIRS = (
    Pair("=cmd.jpg", 'a,"b".jpg', "twin", 0.8, "ann", "@bob"),
    Pair("c.jpg", "d.jpg", "exact", 1.0, "cat", "dan"),
    Pair("e.jpg", "f.jpg", "overlap", 0.7, "eve", "eve", turn=5, shared=0.4),
    Pair("g.jpg", "h.jpg", "burst", 0.0, "gus", "gus", seconds=3.0),
    Pair("i.jpg", "j.jpg", "look", 0.5, "ida", "ida"),
)
EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "x" * 300,
    "حوت أزرق.jpg",
    "ザトウクジラ・北海道.jpg",
    "</script></main><h1>'&amp;\u2028`${1}",
    "javascript:alert(1)",
    "\u202egpj.exe",
)


def document(pairs: tuple[Pair, ...] = PAIRS, credit: str = "", **verdict_of: str) -> dict[str, Any]:
    """That of an audit of these pairs, as the auditor gives it."""
    made = Audit("ten", "0" * 64, 10, pairs).document()
    rows = [
        each
        | {"two_names": pair.two_names, "two_labels": pair.two_labels, "leaks_in": []}
        | {"verdict": verdict_of.get(pair.kind, "")}
        for each, pair in zip(made["pairs"], pairs, strict=True)
    ]
    counts = {"two_names": 1, "two_labels": 1, "rejected": 0, "unseen": 4}
    kinds = {kind: sum(pair.kind == kind for pair in pairs) for kind in KINDS}
    told = {"name": "ten", "photos": 10, "audit_digest": made["digest"], "leaks": None, "parts": True}
    credits = {image: credit for pair in pairs for image in pair.images if credit}
    return told | {"kinds": kinds, **counts, "pairs": rows, "credits": credits}


def page_of(told: dict[str, Any]) -> str:
    pixels = np.random.default_rng(1).integers(0, 255, (64, 240, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    picture = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return audit_page(told, {pair[which]: picture for pair in told["pairs"] for which in ("first", "second")})


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the page of such pairs and says where it is."""

    def write(*pairs: Pair, **more: str) -> Path:
        file = tmp_path / "audit.html"
        file.write_text(page_of(document(pairs or PAIRS, **more)), encoding="utf-8")
        return file

    return write


def pressed(page: Page) -> list[str]:
    """The verdict of each pair, as its buttons show it."""
    chosen = "one => one.querySelector('[aria-pressed=true]')?.dataset.verdict ?? ''"
    verdicts: list[str] = page.eval_on_selector_all("article", f"all => all.map({chosen})")
    return verdicts


def downloaded(page: Page) -> tuple[str, str]:
    """Name and text of the file that the page's button saves."""
    return saved(page, page.get_by_role("button", name="Download the verdicts"))


def test_keys_and_buttons_decide_and_the_csv_is_taken(
    chromium: Browser, written: Callable[..., Path], tmp_path: Path
) -> None:
    with opened(chromium, written()) as page:
        for key in ("y", "n", "u", "k", "Backspace", "j", "Control+y"):
            page.keyboard.press(key)
        page.locator("#pair-5").get_by_role("button", name="no").click()
        assert pressed(page) == ["yes", "no", "", "", "no"]
        assert page.locator("article.current").get_attribute("id") == "pair-5"
        assert page.get_by_role("status").inner_text() == "3 of 5 looked at."
        page.reload()
        assert pressed(page) == ["yes", "no", "", "", "no"]
        name, text = downloaded(page)
    assert name == "ten-verdicts.csv"
    (tmp_path / "verdicts.csv").write_text(text, encoding="utf-8", newline="")
    rows = [{"image": image, "path": "", "identity": ""} for pair in PAIRS for image in pair.images]
    taken = verdicts_in(tmp_path / "verdicts.csv", build_catalog(pd.DataFrame(rows), "ten"))
    assert taken == {
        ("=cmd.jpg", 'a,"b".jpg'): "yes",
        ("c.jpg", "d.jpg"): "no",
        ("i.jpg", "j.jpg"): "no",
    }


def test_verdicts_that_were_kept_are_shown_and_changed(
    chromium: Browser, written: Callable[..., Path]
) -> None:
    with opened(chromium, written(twin="yes", exact="unsure")) as page:
        page.keyboard.press("j")
        page.keyboard.press("n")
        assert pressed(page) == ["yes", "no", "", "", ""]


def test_the_keyboard_alone(chromium: Browser, written: Callable[..., Path]) -> None:
    with opened(chromium, written()) as page:
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "To the pairs"
        assert page.locator(":focus").bounding_box()["x"] >= 0  # type: ignore[index]
        page.keyboard.press("Enter")
        assert page.url.endswith("#pairs")
        for key in ("Tab", "Tab", "Tab", "Enter"):  # over the download and "yes" to "no" of the first pair
            page.keyboard.press(key)
        assert page.locator(":focus").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        for _ in range(3):  # to the second pair, on which the next key decides, although no `j` went there
            page.keyboard.press("Tab")
        page.keyboard.press("u")
        page.keyboard.press("Tab")  # to "yes" of the pair that came into view
        page.keyboard.press("Space")
        assert pressed(page) == ["no", "unsure", "yes", "", ""]
        page.keyboard.press("ArrowUp")
        page.keyboard.press("y")
        assert pressed(page) == ["no", "yes", "yes", "", ""]


def test_a_verdict_that_the_browser_does_not_keep_is_said(
    chromium: Browser, written: Callable[..., Path]
) -> None:
    full = "() => { Storage.prototype.setItem = () => { throw new DOMException('full'); }; }"
    with opened(chromium, written()) as page:
        page.evaluate(full)
        page.keyboard.press("y")
        assert page.get_by_role("status").inner_text().startswith("This browser keeps nothing")


@on_every_screen
def test_nothing_keeps_anyone_out(chromium: Browser, written: Callable[..., Path], screen: Screen) -> None:
    with opened(chromium, written(credit="Ann, CC BY 4.0"), screen) as page:
        page.keyboard.press("y")
        assert_accessible(page)
        assert_fits(page)


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=str)
def test_hostile_names_are_text(chromium: Browser, written: Callable[..., Path], screen: Screen) -> None:
    pairs = [Pair(name, f"{name}2", "twin", 0.9, name, f"{name}3") for name in EVIL]
    with opened(chromium, written(*pairs, credit=EVIL[1]), screen) as page:
        assert page.locator("article").count() == len(EVIL)
        assert page.locator("h1").count() == 1 and page.locator("img[onerror]").count() == 0
        for number in range(3):
            assert page.locator(f"#pair-{number + 1} bdi").all_inner_texts()[:2] == [EVIL[number]] * 2
        assert_fits(page)
        assert_accessible(page)
        rows = list(csv.DictReader(io.StringIO(downloaded(page)[1], newline="")))
        assert [row["first"] for row in rows] == list(EVIL)
        assert printed(page).startswith(b"%PDF")


def test_no_cell_of_the_csv_is_a_formula(chromium: Browser, written: Callable[..., Path]) -> None:
    pairs = [Pair(name, f"b{number}", "twin", 0.9, name, "bob") for number, name in enumerate(NAMES)]
    with opened(chromium, written(*pairs)) as page:
        _, *rows = cells_of(downloaded(page)[1])
    assert [cell_text(row[0]) for row in rows] == [cell_text(row[5]) for row in rows] == NAMES


def test_each_kind_and_what_bears_two_names_is_counted_and_named() -> None:
    from rich.console import Console

    page = page_of(document())
    for words in (
        "the same pixels: 1; one picture, saved in another way: 1; parts of one picture: 1; "
        "one moment by the clock: 1; one moment by its look: 1; one individual under two names: 1; "
        "one image with two labels: 1; not looked at, or unsure: 4",
        "0.80 alike, two names: ann and @bob",
        "the same pixels, two labels: cat and dan",
        "parts of one picture, 0.70 alike, 40% shared, turned by 90°, mirrored",
        "one moment by the clock, 3 s apart",
    ):
        assert words in page
    console = Console(width=200, record=True)
    console.print(audit_report(document() | {"parts": False}))
    text = console.export_text()
    assert "one image with two labels" in text and "install whalebench[sift]" in text
