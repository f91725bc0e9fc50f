"""`data show --html`: a benchmark's photos to look at before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from whalebench import WhalebenchError
from whalebench.cli import app
from whalebench.reports.page.exploring import _by_time

NAME = "<b>Ölaf & 10%</b>"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of three individuals, of two sizes and two years; one individual has a hostile name."""
    root = tmp_path_factory.mktemp("exploring")
    rows = ["image,path,identity,encounter,date"]
    for number in range(12):
        identity = [NAME, "two", "seven", ""][[0, 1, 1, *[2] * 7, 3, 3][number]]
        shade = (200, 20, 20) if number else (90, 90, 90)
        pixels = np.full((48 + 8 * (number % 2), 64, 3), shade, np.uint8)
        pixels[number : number + 9, ::3] = 17 * number
        Image.fromarray(pixels).save(root / f"{number}.png")
        rows.append(
            f"p{number},{number}.png,{identity},e{number // 2},{2020 + number % 2}-0{1 + number % 5}-03"
        )
    (root / "photos.csv").write_text("\n".join(rows), encoding="utf-8")
    words = [
        "data",
        "import",
        "csv",
        str(root / "photos.csv"),
        "--name",
        "b",
        "--workspace",
        str(root / "ws"),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return root / "ws"


def page_of(workspace: Path, *options: str) -> str:
    file = workspace / "page.html"
    words = ["data", "show", "b", "--html", str(file), "--workspace", str(workspace), *options]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return file.read_text(encoding="utf-8")


def test_a_page_says_how_photos_are_spread(workspace: Path) -> None:
    page = page_of(workspace)
    assert "3 individuals have 10 photos, 2 each by the median; half of the photos are of 1 of them." in page
    for bar in ("1: 1", "2: 1", "3-5: 0", "6-10: 1", "2020-01: 2", "2021-02: 2"):
        assert f"<title>{bar}</title>" in page, bar
    assert "64 x 48: 6 photos" in page and "64 x 56: 6 photos" in page
    assert "12 of 12 photos have a date." in page and "6 encounters have 12 photos." in page


def pictured(page: str) -> dict[str, dict[str, int]]:
    """By the title of each picture its bars."""
    pictures = re.findall(r"<svg [^>]*><title>([^<]*)</title>(.*?)</svg>", page, re.S)
    return {
        title: {name: int(count) for name, count in re.findall(r"<title>([^<]*): (\d+)</title>", drawn)}
        for title, drawn in pictures
    }


def test_time_goes_on_where_nothing_was_seen(workspace: Path) -> None:
    shown = pictured(page_of(workspace))
    photos, met = shown["Photos by month"], shown["Encounters by month"]
    assert [*photos] == [*met] == [f"{2020 + at // 12}-{at % 12 + 1:02d}" for at in range(17)]
    assert photos["2020-06"] == met["2020-06"] == 0 and sum(photos.values()) == 12


SEEN = {
    "a gap of years": (
        [("2015-03-01", "a"), ("2015-03-02", "a"), ("2017", "a"), ("2021-06-01", "b"), ("2021-07-01", "")],
        "year",
        {"2015": (2, 1), "2016": (0, 0), "2017": (1, 1), "2018": (0, 0), "2019": (0, 0), "2020": (0, 0)}
        | {"2021": (2, 1)},
    ),
    "60 months": (
        [("2015-01", "a"), ("2019-12", "")],
        "month",
        {f"{2015 + at // 12}-{at % 12 + 1:02d}": (int(at in (0, 59)), int(at == 0)) for at in range(60)},
    ),
    "61 months": (
        [("2015-01", ""), ("2020-01", "")],
        "year",
        {f"{year}": (int(year in (2015, 2020)),) for year in range(2015, 2021)},
    ),
    "a slip of the pen": (
        [("1820", "a"), ("2019", "b"), ("2019", "b")],
        "decade",
        {
            f"{year}s": ({1820: 1, 2010: 2}.get(year, 0), int(year in (1820, 2010)))
            for year in range(1820, 2020, 10)
        },
    ),
}


@pytest.mark.parametrize(("dated", "period", "expected"), SEEN.values(), ids=SEEN)
def test_each_period_has_its_photos_and_its_encounters(
    dated: list[tuple[str, str]], period: str, expected: dict[str, tuple[int, ...]]
) -> None:
    shown = pictured("".join(picture.svg for picture in _by_time([(date[:7], name) for date, name in dated])))
    titles = [f"{what} by {period}" for what in ("Photos", "Encounters")]
    assert sum(title in shown for title in titles) == len(next(iter(expected.values())))
    for place, title in enumerate(title for title in titles if title in shown):
        assert shown[title] == {name: counts[place] for name, counts in expected.items()}, title


def test_each_bucket_shows_photos_of_its_own(workspace: Path) -> None:
    page = page_of(workspace)
    buckets = dict(re.findall(r'<details class="gallery" id="samples-([\w-]+)">(.*?)</details>', page, re.S))
    assert list(buckets) == ["1-photo", "2-photos", "6-to-10-photos"]
    assert re.findall(r"<bdi>(p\d+)</bdi>", buckets["1-photo"]) == ["p0"]
    assert set(re.findall(r"<bdi>(p\d+)</bdi>", buckets["2-photos"])) == {"p1", "p2"}
    assert len(re.findall("data-photo=", buckets["6-to-10-photos"])) == 6
    assert NAME not in page and "&lt;b&gt;Ölaf &amp; 10%&lt;/b&gt;" in page


def test_without_photos_the_page_carries_none(workspace: Path) -> None:
    page = page_of(workspace, "--photos", "none")
    assert "data:image" not in page and "no picture" in page and "Mean colours of photos" in page


def test_colours_are_those_of_the_photos(workspace: Path) -> None:
    page = page_of(workspace)
    shown = re.search(r"median brightness ([\d.]+); median distance from grey ([\d.]+)", page)
    assert shown
    assert 0.2 < float(shown[1]) < 0.5 and 0.3 < float(shown[2]) < 0.8  # most photos are red


def test_a_page_where_it_cannot_be_written_is_refused_first(workspace: Path) -> None:
    words = ["data", "show", "b", "--html", str(workspace), "--workspace", str(workspace)]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, WhalebenchError) and "is a folder" in str(done.exception)
