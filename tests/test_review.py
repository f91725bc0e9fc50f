"""The order of the review page, what a look in it is worth, and what the page says of candidates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from whalebench.reports.page.review import Look, in_order, looks_of, review_page, worth_of
from whalebench.tests.answered import draw_workspace
from whalebench.tests.reviewing import RUN, By, Stub, predicted
from whalebench.tests.synthetic_runs import record

List = tuple[list[str], list[str]]
"""Photos, and the candidates in their order."""


def simulated(
    seed: int,
    *,
    skill: float,
    individuals: int = 60,
    encounters: int = 120,
    photos: int = 1,
    share_new: float = 0.25,
) -> tuple[Stub, dict[str, str]]:
    """Encounters of so many photos with individuals drawn at random, some new; and who each photo shows."""
    rng = np.random.default_rng(seed)
    identities = tuple(f"w{number:03d}" for number in range(individuals))
    met = np.where(rng.random(encounters) < share_new, -1, rng.integers(0, individuals, encounters))
    shown = np.repeat(met, photos)
    seen = skill * (shown[:, None] == np.arange(individuals)) + rng.normal(size=(len(shown), individuals))
    names = [f"p{number:04d}" for number in rng.permutation(len(shown))]
    table = pd.DataFrame(
        {"photo": names, "encounter": np.repeat([f"e{n}" for n in range(encounters)], photos)}
    )
    gallery = pd.DataFrame({"image": identities, "identity": identities})
    truth = {name: identities[who] if who >= 0 else "new" for name, who in zip(names, shown, strict=True)}
    return Stub(record(RUN), table, gallery, identities, skill * seen, skill, share_new), truth


def lists(predictions: Stub, by: By) -> list[List]:
    """The page's lists in its order."""
    made = looks_of(predictions, by)
    rows = {look.key: rows for look, rows in made}
    ordered = in_order([look for look, _ in made])
    return [(list(look.photos), [row["candidate"] for row in rows[look.key]]) for look in ordered]


def in_photo_order(predictions: Stub) -> list[List]:
    table = predictions.table("photo").sort_values(["photo", "place"])
    return [([str(photo)], rows["candidate"].tolist()) for photo, rows in table.groupby("photo")]


def read(order: Sequence[List], truth: dict[str, str]) -> Iterator[int]:
    """Somebody reads the lists, each candidate by candidate up to the right one; the pairs found so far."""
    found = 0
    for photos, candidates in order:
        for candidate in candidates:
            right = candidate == truth[photos[0]]
            found += len(photos) * right
            yield found
            if right:
                break


def curve(order: Sequence[List], truth: dict[str, str], pairs: int) -> dict[float, int]:
    """How many looks it takes to find a share of the pairs."""
    found = np.array([*read(order, truth)])
    shares = (0.25, 0.5, 0.75, 0.9, 0.95)
    return {
        share: int(np.argmax(found >= share * pairs)) + 1 for share in shares if found.max() >= share * pairs
    }


@pytest.mark.parametrize(("by", "photos", "skill"), [("encounter", 3, 3.0), ("photo", 1, 5.0)])
def test_half_of_the_looks_find_95_percent_of_the_pairs(by: By, photos: int, skill: float) -> None:
    """A quarter of the animals are new; single photos need a method that knows most of the others."""
    for seed in range(3):
        predictions, truth = simulated(seed, skill=skill, photos=photos)
        before = in_photo_order(predictions)
        pairs = max(read(before, truth))  # those that the lists hold
        ours, others = curve(lists(predictions, by), truth, pairs), curve(before, truth, pairs)
        assert 2 * ours[0.95] <= others[0.95]
        assert all(ours[share] < others[share] for share in others)


def test_the_order_alone_saves_looks() -> None:
    """Encounter by encounter too, and not only since an answer names three photos."""
    for seed in range(3):
        predictions, truth = simulated(seed, skill=3.0, photos=3)
        ordered = lists(predictions, "encounter")
        pairs = max(read(ordered, truth))
        shuffled = sorted(ordered, key=lambda one: one[0][0])
        assert curve(ordered, truth, pairs)[0.95] < 0.7 * curve(shuffled, truth, pairs)[0.95]


def test_what_a_look_is_worth() -> None:
    """Against the expectation of each number of candidates, counted look by look."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        chances, photos = np.sort(rng.dirichlet(np.ones(6)))[::-1][:5], int(rng.integers(1, 9))
        slow = []
        for most in range(1, 6):
            looks = sum(chance * (place + 1) for place, chance in enumerate(chances[:most]))
            slow.append(photos * chances[:most].sum() / (looks + most * (1 - chances[:most].sum())))
        assert worth_of(chances, photos) == pytest.approx(max(slow))
    assert worth_of([float("nan")], 3) == 0
    assert worth_of([0.2], 6) > worth_of([1.0], 1) > worth_of([0.9, 0.1], 1)


def test_a_new_one_is_worth_less_and_equal_ones_stay_as_they_came() -> None:
    predictions, _ = simulated(1, skill=3.0)
    looks = in_order([look for look, _ in looks_of(predictions, "photo")])
    assert [look.worth for look in looks] == sorted((look.worth for look in looks), reverse=True)
    sure = [look for look in looks if look.new is not None and look.new < 0.01]
    assert np.mean([look.worth for look in sure]) > np.mean([look.worth for look in looks])
    same = [Look(name, (name,), "", None, 1.0) for name in "bca"]
    assert [look.title for look in in_order(same)] == ["b", "c", "a"]


def test_a_photo_without_an_encounter_is_one_by_itself() -> None:
    predictions, _ = simulated(0, skill=3.0, encounters=3, photos=2)
    predictions.photos.loc[:1, "encounter"] = ""
    made = looks_of(predictions, "encounter")
    assert sorted(len(look.photos) for look, _ in made) == [1, 1, 2, 2]


@pytest.fixture
def page(tmp_path: Path) -> str:
    drawn = draw_workspace(tmp_path, individuals=5, tests=2, new=1, rightsholder="Ann", licence="CC BY 4.0")
    return review_page(predicted(drawn), drawn.workspace, by="encounter")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'id="review">(.*?)</script>', page)
    assert found
    read: dict[str, Any] = json.loads(found[1])
    return read


def test_the_page_shows_each_encounter_beside_its_candidates(page: str) -> None:
    data = data_of(page)
    assert (data["run"], data["name"], len(data["looks"])) == (RUN, "seals", 6)
    assert sorted(len(look["photos"]) for look in data["looks"]) == [1, 2, 2, 2, 2, 2]
    for look in data["looks"]:
        chances = [one["probability"] for one in look["choices"]]
        assert len(chances) == 5 and sum(chances) + look["new"] == pytest.approx(1)  # of five individuals
        assert chances == sorted(chances, reverse=True)
    assert page.count("what the method saw") == page.count("What the method saw of") == 11
    assert "Photos: Ann, CC BY 4.0." in page and "nearest:" in page
    pictures = re.search(r'id="photos">(.*?)</script>', page)
    assert pictures and set(re.findall(r'data-photo="(\w+)"', page)) == set(json.loads(pictures[1]))


class Unmatched(Stub):
    """Predictions of a method that compares no photos."""

    def table(self, by: By | None = None) -> pd.DataFrame:
        return super().table(by).assign(nearest="")


@pytest.mark.parametrize("kind", [Stub, Unmatched])
def test_the_nearest_photo_comes_first_then_those_of_the_same_side(tmp_path: Path, kind: type[Stub]) -> None:
    drawn = draw_workspace(tmp_path, individuals=3, tests=2, new=0)
    made = kind(**vars(predicted(drawn)))
    seen = r"<bdi>(train-\d+-\d.png)</bdi>\s*<br>seen from <bdi>(\w+)"
    for article in review_page(made, drawn.workspace).split("<article")[1:]:
        asked, *choices = article.split("<li")
        (side,) = re.findall(r"seen from <bdi>(\w+)", asked)
        for choice in choices:
            (first, shown), (_, other) = re.findall(seen, choice)
            assert {shown, other} == {"left", "right"}
            assert (f"nearest: <bdi>{first}" in choice) == (kind is Stub)
            assert shown == (side if kind is Unmatched else "left")  # the nearest is the first of each


def test_a_page_has_the_first_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw_workspace(tmp_path, individuals=3, tests=2, new=0)
    every = data_of(review_page(predicted(drawn), drawn.workspace))["looks"]
    monkeypatch.setattr("whalebench.reports.page.review.MOST", 4)
    page = review_page(predicted(drawn), drawn.workspace)
    assert data_of(page)["looks"] == every[:4]
    assert "2 that are worth less are not on this page" in page


def test_nothing_is_said_of_chances_that_nobody_knows(tmp_path: Path) -> None:
    drawn = draw_workspace(tmp_path, individuals=3, tests=1, new=0)
    looks = data_of(review_page(replace(predicted(drawn), share_new=float("nan")), drawn.workspace))["looks"]
    assert [look["new"] for look in looks] == [None] * 3
    assert all(one["probability"] is None for look in looks for one in look["choices"])


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    drawn = draw_workspace(tmp_path, individuals=3, tests=1, new=0)
    made = predicted(drawn)
    made.problems.append(f"{tmp_path}/broken.jpg cannot be read.")
    Path(drawn.tested["path"][0]).unlink()
    page = review_page(made, drawn.workspace)
    assert "no picture" in page and "broken.jpg cannot be read." in page
    assert str(tmp_path) not in page
