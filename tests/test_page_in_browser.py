"""The page of a leaderboard at work, in a real browser: tables, galleries, keyboard, print, names."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from whalebench.benchmarks.core.catalog import write_catalog
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.page.page import board_page, run_page
from whalebench.tests.answered import Drawn, draw_workspace, evidence, put_answers
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

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

BOARD = "seals-board"
EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "x" * 300,
    "حوت أزرق",
    "ザトウクジラ・北海道",
    "</script></main><h1>'&amp;`${1}",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
)
FACTS: dict[str, dict[str, Any]] = {
    "arcface": {},
    "softmax": {"seconds": {"total": 3700.0}},
    "triplet": {"seconds": {"total": 45.0}},
    "helped": {"oracle": True, "track": "oracle"},
    "pseudo": {"transductive": True},
    "pretrained": {"pretraining": {"network": {"seen": "seals"}}},
}
"""Methods of the page: what is special in their records."""


def put_runs(drawn: Drawn, methods: Mapping[str, Mapping[str, Any]], twice: int = 0) -> None:
    """For each method a run, for the first ones another one with a second seed.

    All are sure that the first photo shows the second individual, which is not what its label says.
    """
    for place, (method, facts) in enumerate(methods.items()):
        for seed in range(2 if place < twice else 1):
            run = f"run{place}-seals-fold0-seed{seed}"
            scores = evidence(drawn, 1.5 + place / 2, 10 * place + seed)
            scores[0] = np.where(np.arange(len(drawn.identities)) == 1, 9.0, -9.0)
            more = {"method": method, "seed": seed, "cmc": [0.5, 0.75, 1.0]} | facts
            put_answers(drawn, run, scores, threshold=0.5, **more)


def write_page(drawn: Drawn) -> Path:
    file = drawn.workspace.root / "page.html"
    file.write_text(
        board_page(leaderboard(drawn.workspace.runs, closely=True), drawn.workspace), encoding="utf-8"
    )
    return file


def renamed(drawn: Drawn) -> Drawn:
    """The same photos by other names: those of images, individuals, encounters and viewpoints are hostile."""
    table = drawn.catalog.table
    for column in ("image", "identity", "encounter", "viewpoint"):
        old = dict.fromkeys(table[column])
        new = {name: f"{EVIL[number % len(EVIL)]}{number // len(EVIL)}" for number, name in enumerate(old)}
        table = table.assign(**{column: table[column].map(new)})
    folder = drawn.workspace.benchmarks / "seals"
    for file in folder.glob("catalog.*"):  # which is never replaced
        file.unlink()
    catalog = write_catalog(pd.DataFrame(table), folder, "seals", "drawn for a test")
    is_test = drawn.catalog.table["image"].str.startswith("test").to_numpy()
    known = tuple(sorted(set(catalog.table["identity"][~is_test])))
    tested = catalog.table[is_test].reset_index(drop=True)
    return Drawn(drawn.workspace, catalog, tested, known)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of nine runs of six methods on fifteen photos."""
    drawn = draw_workspace(tmp_path_factory.mktemp("board"), rightsholder="Ann", licence="CC BY 4.0")
    put_runs(drawn, FACTS, twice=3)
    return write_page(drawn)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs: axe looks at each element of each photo of each gallery."""
    drawn = draw_workspace(tmp_path_factory.mktemp("few"), individuals=3, tests=1, new=1)
    put_runs(drawn, {name: FACTS[name] for name in ("arcface", "helped")})
    return write_page(drawn)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page in which every name is hostile, those of methods, photographers and licences, too."""
    drawn = draw_workspace(tmp_path_factory.mktemp("hostile"), rightsholder=EVIL[0], licence=EVIL[1])
    drawn = renamed(drawn)
    put_runs(drawn, {name: {"warnings": [name]} for name in EVIL[:4]})
    return write_page(drawn)


def rows_of(page: Page) -> Locator:
    """The rows of the first table that are shown."""
    return page.locator(f"#{BOARD} tbody tr:not([hidden])")


def cells_of(page: Page, column: str) -> list[str]:
    """The texts of a column of the first table, of the rows that are shown."""
    heads = [head.strip(" ▲▼") for head in page.locator(f"#{BOARD} thead th").all_inner_texts()]
    texts: list[str] = rows_of(page).evaluate_all(
        "(rows, place) => rows.map(row => row.cells[place].innerText)", heads.index(column)
    )
    return texts


def numbers_of(texts: list[str]) -> list[float]:
    """What cells begin with, as a number in seconds and single photos; those without one are left out."""
    units = {"k": 1e3, "M": 1e6, " min": 60.0, " h": 3600.0}
    found = (re.match(r"(\d[\d,]*\.?\d*)(k|M| min| h)?", text) for text in texts)
    return [float(one[1].replace(",", "")) * units.get(one[2], 1.0) for one in found if one]


def test_each_column_sorts_and_sorts_the_other_way(chromium: Browser, board: Path) -> None:
    with opened(chromium, board) as page:
        heads = page.locator(f"#{BOARD} thead th")
        names = heads.all_inner_texts()
        assert {"method", "MAP@5", "top-1", "log loss", "time"} <= set(names)
        for place, name in enumerate(names):
            orders = []
            for _ in range(2):
                heads.nth(place).get_by_role("button").click()
                orders.append(cells_of(page, name))
                sorted_by = page.locator(f"#{BOARD} [aria-sort]")
                assert sorted_by.count() == 1 and sorted_by.inner_text().strip(" ▲▼") == name
                rising = sorted_by.get_attribute("aria-sort") == "ascending"
                if name == "method":
                    assert orders[-1] == sorted(orders[-1], reverse=not rising)
                elif name in ("MAP@5", "known", "top-1", "log loss", "photos seen", "time"):
                    numbers = numbers_of(orders[-1])
                    assert len(numbers) > 5 and numbers == sorted(numbers, reverse=not rising), name
                    assert not numbers_of(orders[-1][len(numbers) :])  # what has none is last
            assert sorted(orders[0]) == sorted(orders[1])
            assert orders[0] != orders[1] or len({*orders[0]} - {"–"}) < 2, name


def test_rows_are_filtered_by_name_track_and_marks(chromium: Browser, board: Path) -> None:
    with opened(chromium, board) as page:
        form = page.locator(f'form[data-filters="{BOARD}"]')
        every = rows_of(page).count()
        form.get_by_role("searchbox").fill("SOFT")
        assert cells_of(page, "method") == ["softmax"]
        assert form.locator("output").inner_text() == f"1 of {every} rows are shown."
        form.get_by_role("searchbox").fill("")
        assert rows_of(page).count() == every
        marked = {"oracle": "helped", "transductive": "pseudo", "seen in pretraining": "pretrained"}
        for mark, method in marked.items():
            box = form.locator(f'input[name="mark"][value="{mark}"]')
            assert any(method in cell for cell in cells_of(page, "method"))
            box.uncheck()
            assert not any(method in cell for cell in cells_of(page, "method"))
            box.check()
        tracks = form.locator('input[name="track"]')
        for place in range(tracks.count()):
            letter = tracks.nth(place).get_attribute("value")
            tracks.nth(place).uncheck()
            assert not any(rank.startswith(f"{letter} ") for rank in cells_of(page, "rank"))
        page.reload()
        assert rows_of(page).count() == every and form.locator('[type="checkbox"]:not(:checked)').count() == 0


def test_a_gallery_opens_and_its_photos_are_there(chromium: Browser, board: Path) -> None:
    with opened(chromium, board) as page:
        gallery = page.locator("details.gallery:has(article)").last
        gallery.locator("summary").click()
        query = gallery.locator("article").first
        query.scroll_into_view_if_needed()
        assert query.locator(".candidates li").count() == 5
        loaded = "one => [...one.querySelectorAll('img')].every(each => each.naturalWidth > 0)"
        page.wait_for_function(loaded, arg=query.element_handle())
        assert query.locator("img").count() >= 2
        assert query.locator(".said").inner_text()[0] in "✓✗★?"
        gallery.locator("summary").press("Enter")
        assert not query.is_visible()


def test_suspected_label_errors_are_shown_and_saved(chromium: Browser, board: Path) -> None:
    with opened(chromium, board) as page:
        page.get_by_text("Suspected label errors (1)").click()
        suspect = page.locator("#seals-photos-labels article")
        assert "is labelled seal_000; 9 of 9 runs say seal_001" in suspect.inner_text()
        name, text = saved(page, page.get_by_role("link", name="Download them as CSV"))
    (row,) = csv.DictReader(text.splitlines())
    assert name == "suspected-labels.csv"
    assert (row["image"], row["label"], row["says"]) == ("test-000-2.png", "seal_000", "seal_001")


def test_the_keyboard_alone(chromium: Browser, board: Path) -> None:
    with opened(chromium, board, PHONE) as page:
        focus = page.locator(":focus")
        page.keyboard.press("Tab")
        assert focus.get_attribute("class") == "skip" and focus.bounding_box()["x"] >= 0  # type: ignore[index]
        page.keyboard.press("Enter")
        assert focus.get_attribute("id") == "content"
        for _ in range(40):
            page.keyboard.press("Tab")
            assert focus.evaluate("one => getComputedStyle(one).outlineStyle !== 'none'"), focus.inner_text()
            if focus.get_attribute("role") == "region":
                page.keyboard.press("ArrowRight")
                page.wait_for_function("() => document.activeElement.scrollLeft > 0")
            if focus.evaluate(f"one => one.matches('#{BOARD} thead button')"):
                break
        orders = []
        for key in ("Enter", "Space"):
            page.keyboard.press(key)
            orders.append(page.locator(f"#{BOARD} [aria-sort]").get_attribute("aria-sort"))
        assert {*orders} == {"ascending", "descending"}
        assert page.locator("#said").inner_text().startswith("Sorted by ")
        assert focus.evaluate(f"one => one.matches('#{BOARD} thead button')")


def test_links_lead_somewhere_and_back(chromium: Browser, board: Path) -> None:
    with opened(chromium, board) as page:
        ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
        assert len(ids) == len({*ids})
        links = page.eval_on_selector_all("a[href^='#']", "all => all.map(one => one.hash.slice(1))")
        assert {*links} <= {*ids} and {"seals-leaderboard", "seals-cost", "seals-runs", "notes"} <= {*links}
        assert page.locator("section:not([id]), table:not([id])").count() == 0
        page.locator("nav").get_by_role("link", name="Score against cost").click()
        assert page.url.endswith("#seals-cost")
        page.locator(f"#{BOARD} tbody a").first.click()
        run = page.url.partition("#")[2]
        assert run.startswith("run-") and page.locator(f"#{run}").bounding_box()["y"] < 200  # type: ignore[index]
        page.go_back()
        assert page.url.endswith("#seals-cost") and page.evaluate("scrollY") > 0
        page.go_forward()
        page.reload()
        assert page.url.endswith(f"#{run}")
        hidden = page.locator("details:not([open]) article[id]").first.get_attribute("id")
    with opened(chromium, board, anchor=f"#{hidden}") as page:
        assert page.locator(f"[id='{hidden}']").is_visible()
        assert page.evaluate("scrollY") > 0


def test_the_command_that_repeats_a_row_is_copied(chromium: Browser, board: Path) -> None:
    with opened(chromium, board) as page:
        row = page.locator(f"#{BOARD} tbody tr", has_text="softmax")
        row.get_by_role("button").click()
        page.wait_for_function("() => document.getElementById('said').textContent === 'Copied.'")
        text = page.get_by_role("searchbox").first
        text.focus()
        page.keyboard.press("Control+v")
        assert text.input_value() == "whalebench sweep softmax --benchmark seals --folds 0 --seeds 0-1"


@on_every_screen
def test_nothing_keeps_anyone_out(chromium: Browser, few: Path, screen: Screen) -> None:
    with opened(chromium, few, screen) as page:
        page.locator("details.gallery:has(article) > summary").last.click()
        page.locator("details:not(.gallery) > summary").first.click()
        assert_fits(page)
        assert_accessible(page)


def test_no_column_is_lost_in_print(chromium: Browser, board: Path) -> None:
    with opened(chromium, board) as page:
        assert printed(page).startswith(b"%PDF")
        assert page.locator("details[open]").count() == 0


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=str)
def test_hostile_names_are_text(chromium: Browser, hostile: Path, screen: Screen) -> None:
    with opened(chromium, hostile, screen) as page:
        page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
        assert page.locator("h1").count() == 1 and page.locator("[onerror], main script").count() == 0
        shown = page.locator("main").inner_text()
        assert all(name in shown for name in EVIL)
        assert_fits(page)


def test_hostile_names_are_printed(chromium: Browser, hostile: Path) -> None:
    with opened(chromium, hostile) as page:
        printed(page)


def test_the_page_opens_at_once_and_is_small(chromium: Browser, board: Path) -> None:
    """tests/browser.py says it of the page of 30 runs with 1,000 queries, which takes minutes to draw."""
    start = monotonic()
    with opened(chromium, board) as page:
        page.locator("#notes").wait_for()
    assert monotonic() - start < 3
    assert board.stat().st_size < 2_000_000


def test_the_page_of_one_run(chromium: Browser, few: Path, tmp_path: Path) -> None:
    workspace = Workspace.open(few.parent)
    run = "run0-seals-fold0-seed0"
    row = leaderboard(workspace.runs, runs={run}, closely=True)
    (tmp_path / "run.html").write_text(run_page(row, workspace, "all"), encoding="utf-8")
    with opened(chromium, tmp_path / "run.html", PHONE) as page:
        every = page.locator("details.gallery", has_text="Every test photo")
        every.locator("summary").click()
        assert every.locator("article").count() == 4
        assert f"#{run}" not in page.url and run in page.locator("main").inner_text()
        assert_accessible(page)
        assert_fits(page)
        printed(page)
