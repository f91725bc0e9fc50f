"""The review page at work, in a real browser: keys, buttons, what is kept, the CSV and who takes it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whalebench import cell_text
from whalebench.benchmarks.core.catalog import read_catalog, write_catalog
from whalebench.benchmarks.core.record import read_runs
from whalebench.benchmarks.decisions import COLUMNS, read_decisions
from whalebench.reports.page.review import review_page
from whalebench.tests.answered import Drawn, draw_workspace
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
from whalebench.tests.conftest import TINY_NETWORK, Answer
from whalebench.tests.reviewing import RUN, By, predicted
from whalebench.tests.test_audit_page import EVIL

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def write_page(drawn: Drawn, by: By = "encounter") -> Path:
    file = drawn.workspace.root / "review.html"
    file.write_text(review_page(predicted(drawn), drawn.workspace, by=by), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of six encounters of two photos, and of one of a single photo of a new animal."""
    return write_page(draw_workspace(tmp_path_factory.mktemp("review"), individuals=6, tests=2, new=1))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Axe looks at each element of each candidate."""
    folder = tmp_path_factory.mktemp("small")
    return write_page(
        draw_workspace(folder, individuals=2, tests=2, new=1, rightsholder="Ann", licence="CC BY")
    )


def decided(page: Page) -> list[str]:
    """Of each look what its buttons show: the places of candidates with what was decided, and new."""
    shown = """all => all.map(one => [...one.querySelectorAll('[aria-pressed=true]')].map(button =>
      (button.closest('[data-choice]')?.dataset.choice ?? '') + button.dataset.decision).join(' '))"""
    looks: list[str] = page.eval_on_selector_all("article", shown)
    return looks


def downloaded(page: Page) -> tuple[str, list[dict[str, str]]]:
    """The name of the file of decisions, and its rows."""
    name, text = saved(page, page.get_by_role("button", name="Download the decisions"))
    return name, list(csv.DictReader(io.StringIO(text, newline="")))


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_keys_decide_and_all_is_kept_undone_and_downloaded(
    chromium: Browser, review: Path, tmp_path: Path
) -> None:
    with opened(chromium, review) as page:
        press(page, "s")  # the first candidate, and on
        press(page, "d", "2", "3", "s")  # not the first, but the third
        press(page, "u", "d", "n")
        assert decided(page)[:4] == ["0same", "0different 2same", "new 0unsure 1different", ""]
        assert page.locator("article.current").get_attribute("id") == "look-4"
        press(page, "Backspace")
        assert decided(page)[2] == "0unsure 1different"
        assert page.locator("article.current").get_attribute("id") == "look-3"
        press(page, "k", "n")  # new, and so none of the candidates
        assert decided(page)[1] == "new 0different"
        press(page, "Control+s", "j", "ArrowDown", "ArrowUp")
        assert page.get_by_role("status").first.inner_text() == "3 of 7 looked at."
        page.reload()
        assert decided(page)[:4] == ["0same", "new 0different", "0unsure 1different", ""]
        looks = page.evaluate("review.looks")
        name, rows = downloaded(page)
    assert name == "seals-decisions.csv" and tuple(rows[0]) == COLUMNS
    assert {row["run"] for row in rows} == {RUN}
    one = looks[0]
    mine = [row for row in rows if row["photo"] in one["photos"]]
    assert [row["photo"] for row in mine] == one["photos"]  # a row each
    for row in mine:
        assert (row["decision"], row["individual"]) == ("same", one["choices"][0]["name"])
        assert float(row["probability"]) == one["choices"][0]["probability"]
        assert row["encounter"] == one["encounter"] and row["when"][:2] == "20"
    named = {row["individual"] for row in rows if row["decision"] == "new"}
    assert named == {f"{looks[1]['encounter']}-new"} if len(looks[1]["photos"]) > 1 else {""}
    file = tmp_path / name
    with file.open("w", newline="", encoding="utf-8") as opened_file:
        table = csv.DictWriter(opened_file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    assert [(one.photo, one.decision) for one in read_decisions(file)] == [
        (row["photo"], row["decision"]) for row in rows
    ]


def test_buttons_decide_and_take_back(chromium: Browser, review: Path) -> None:
    with opened(chromium, review) as page:
        third = page.locator("#look-3")
        third.get_by_role("button", name="not same").nth(1).click()
        third.get_by_role("button", name="same", exact=True).nth(0).click()
        assert third.locator(".note").is_hidden()
        third.get_by_role("button", name="same", exact=True).nth(2).click()
        assert third.locator(".note").is_visible()  # two candidates are then one animal
        assert decided(page)[2] == "0same 1different 2same"
        third.get_by_role("button", name="not same").nth(1).click()
        assert decided(page)[2] == "0same 2same"
        page.locator("#look-4").get_by_role("textbox").fill("Zoë")
        page.keyboard.press("Enter")
        page.locator("#look-4").get_by_role("textbox").press_sequentially("s")  # a letter, and no decision
        assert decided(page)[3] == "new"
        _, rows = downloaded(page)
    assert {row["individual"] for row in rows if row["decision"] == "new"} == {"Zoës"}


def test_the_keyboard_alone(chromium: Browser, review: Path) -> None:
    with opened(chromium, review) as page:
        press(page, "Tab")
        assert page.locator(":focus").inner_text() == "To the photos"
        press(page, "Enter", "Tab", "Tab", "Space")  # over the download to "new" of the first one
        assert decided(page)[0] == "new"
        assert page.locator(":focus").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        press(page, "Tab", "Tab", "Space")  # over its name to the first candidate
        assert decided(page)[0] == "0same"


@on_every_screen
def test_nothing_keeps_anyone_out(chromium: Browser, small: Path, screen: Screen) -> None:
    with opened(chromium, small, screen) as page:
        press(page, "d", "s", "n")
        assert_accessible(page)
        assert_fits(page)


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=str)
def test_hostile_names_are_text(chromium: Browser, tmp_path: Path, screen: Screen) -> None:
    drawn = draw_workspace(tmp_path, individuals=4, tests=2, new=0, rightsholder=EVIL[0], licence=EVIL[1])
    table = drawn.catalog.table
    for column in ("image", "identity", "viewpoint"):
        old = dict.fromkeys(table[column])
        new = {name: f"{EVIL[number % len(EVIL)]}{number // len(EVIL)}" for number, name in enumerate(old)}
        table = table.assign(**{column: table[column].map(new)})
    kinds = drawn.catalog.table["image"].str.partition("-")[0]
    table = pd.DataFrame(table.assign(image=kinds + table["image"]))
    for file in (drawn.workspace.benchmarks / "seals").glob("catalog.*"):
        file.unlink()
    catalog = write_catalog(table, drawn.workspace.benchmarks / "seals", "seals", "drawn for a test")
    is_test = catalog.table["image"].str.startswith("test")
    tested = catalog.table[is_test].reset_index(drop=True)
    hostile = Drawn(drawn.workspace, catalog, tested, tuple(sorted(set(tested["identity"]))))
    with opened(chromium, write_page(hostile, "photo"), screen) as page:
        assert page.locator("article").count() == 8
        assert page.locator("h1").count() == 1 and page.locator("img[onerror]").count() == 0
        assert_fits(page)
        press(page, "s", "s", "n")
        _, rows = downloaded(page)
        assert {cell_text(row["photo"]) for row in rows} <= set(tested["image"])
        assert printed(page).startswith(b"%PDF")


def commands() -> list[str]:
    """The commands of the section on new photos in docs/your-photos.md."""
    page = (Path(__file__).parents[1] / "docs" / "your-photos.md").read_text(encoding="utf-8")
    block = page.partition("## New photos\n")[2].split("```")[1]
    return [line.partition("#")[0].strip() for line in block.strip().splitlines()]


def draw_animals(folder: Path) -> dict[str, str]:
    """Who is on the photos in inbox/: two of each of six animals that photos/ has, and one of another."""
    rng = np.random.default_rng(5)
    truth: dict[str, str] = {}
    for number in range(7):
        pattern = rng.integers(0, 256, (5, 6, 3))
        for nth in range(8 if number < 6 else 1):
            pixels = np.kron(pattern, np.ones((8, 8, 1))) + rng.normal(0, 20, (40, 48, 3))
            is_held_back = nth >= 6 or number == 6
            file = Path("inbox" if is_held_back else f"photos/whale{number}") / f"w{number}-{nth}.png"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / file)
            if is_held_back:
                truth[file.as_posix()] = f"whale{number}" if number < 6 else ""
    return truth


def decide(page: Page, truth: dict[str, str], most: int) -> list[str]:
    """Somebody who knows them decides on the first looks by keyboard; the photos decided on."""
    looks = page.evaluate("review.looks")[:most]
    for look in looks:
        who = truth[look["photos"][0]]
        names = [choice["name"] for choice in look["choices"]]
        press(page, *([str(names.index(who) + 1), "s"] if who in names else ["n"]))
    return [photo for look in looks for photo in look["photos"]]


def test_the_page_of_the_docs(
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Answer]
) -> None:
    """Import, run, predict, decide on ten in the browser, correct, and run on the new version."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHALEBENCH_WORKSPACE", str(tmp_path / "workspace"))
    truth = draw_animals(tmp_path)
    quick = [word for setting in TINY_NETWORK for word in ("--set", setting)]
    decided_on: list[str] = []
    for command in commands():
        words = command.split()
        answer = cli(*words[1:], *(quick if words[1] == "run" else ()))
        assert answer.code == 0, f"{command}: {answer.err}"
        if words[1] == "predict":
            with opened(chromium, tmp_path / words[-1]) as page:
                decided_on = decide(page, truth, 10)
                name, text = saved(page, page.get_by_role("button", name="Download the decisions"))
            (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert len(decided_on) == 10
    old, new = (read_catalog(tmp_path / "workspace" / "benchmarks" / name) for name in ("seals", "seals-2"))
    named = dict(zip(new.table["image"], new.table["identity"], strict=True))
    assert len(new.table) == len(old.table) + len(truth)
    for photo, who in truth.items():
        shown = named[photo]
        expected = {who} if photo in decided_on and who else {"?"}
        assert shown in expected or (photo in decided_on and shown.startswith("new-")), photo
    assert {record.benchmark for record in read_runs(tmp_path / "workspace" / "runs").records} == {
        "seals",
        "seals-2",
    }
