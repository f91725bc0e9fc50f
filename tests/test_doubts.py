"""Labels that are doubted, and individuals that are hard to tell."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from whalebench.reports.board import Table
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.page.doubts import (
    Doubts,
    Suspect,
    doubts_csv,
    hardest_individuals,
    pooled,
    suspected_labels,
)
from whalebench.reports.page.galleries import Galleries, Photo
from whalebench.reports.page.thumbnails import Album
from whalebench.tests.answered import Drawn, draw_workspace, evidence, put_answers

METHODS = {"arcface": 4.2, "softmax": 3.8, "triplet": 3.2}
SHAPE = {"individuals": 40, "tests": 5, "new": 40}


def board_of(drawn: Drawn, labels: list[str] | None = None, true: list[str] | None = None) -> Table:
    """The table of two runs of each of METHODS on the drawn photos, with those labels."""
    for number, (method, skill) in enumerate(METHODS.items()):
        for seed in range(2):
            scores = evidence(drawn, skill, 10 * number + seed, true)
            put_answers(drawn, f"{method}-{seed}", scores, labels=labels, method=method, seed=seed)
    return leaderboard(drawn.workspace.runs).tables[0]


def doubts_of(drawn: Drawn, table: Table) -> tuple[Doubts, Galleries]:
    galleries = Galleries(drawn.workspace, Album(drawn.workspace.cache))
    return suspected_labels(table, galleries), galleries


def test_right_labels_are_not_doubted_though_many_answers_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = draw_workspace(tmp_path, **SHAPE)
    table = board_of(drawn)
    doubts, galleries = doubts_of(drawn, table)
    answers = galleries.answers(table.contestants[0].rows[0]).table
    assert (answers["verdict"] != "right").sum() > 40  # all of *new* among them: there is no threshold
    assert (doubts.suspects, doubts.photos) == ((), 240)
    monkeypatch.setattr("whalebench.reports.page.doubts.KNOWN_FROM", 0.5)
    monkeypatch.setattr("whalebench.reports.page.doubts.NEW_FROM", 0.5)
    assert {one.label for one in doubts_of(drawn, table)[0].suspects} >= {"new"}  # many do agree


def test_planted_wrong_labels_are_found_and_no_other(tmp_path: Path) -> None:
    drawn = draw_workspace(tmp_path, **SHAPE)
    true = drawn.tested["identity"].tolist()
    labels = list(true)
    known = [row for row, name in enumerate(true) if name in drawn.identities]
    planted = known[::20]
    for row in planted[:8]:
        labels[row] = drawn.identities[(drawn.identities.index(true[row]) + 7) % 40]
    for row in planted[8:]:
        labels[row] = ""  # said to be new
    doubts, _ = doubts_of(drawn, board_of(drawn, labels, true))
    image = drawn.tested["image"].tolist()
    found = {one.photo.image: one for one in doubts.suspects}
    assert set(found) <= {image[row] for row in planted}
    assert len(found) == 10 and any(one.label == "new" for one in found.values())
    assert [one.probability for one in doubts.suspects] == sorted(
        (one.probability for one in doubts.suspects), reverse=True
    )
    for row in planted:
        if one := found.get(image[row]):
            assert (one.says, one.runs) == (true[row], 6)
            assert one.agree >= 3 and 2 <= len(one.contestants) <= 3
            assert one.example and one.example.image.startswith(f"train-{true[row][-3:]}")
            assert one.photo.picture and one.photo.picture != one.example.picture


def test_one_contestant_alone_makes_no_suspect(tmp_path: Path) -> None:
    drawn = draw_workspace(tmp_path, individuals=6, tests=2, new=0)
    other = [drawn.identities[0]] * len(drawn.tested)
    for seed in range(2):
        put_answers(drawn, f"arcface-{seed}", evidence(drawn, 9.0, seed, other), seed=seed)
    table = leaderboard(drawn.workspace.runs).tables[0]
    doubts, _ = doubts_of(drawn, table)
    assert (doubts.suspects, doubts.photos) == ((), 0)


def test_pooled_probability_is_that_of_the_surest_majority() -> None:
    assert pooled(np.array([0.9, 0.9])) == pytest.approx(0.9)
    assert pooled(np.array([0.9, 0.1])) == pytest.approx(0.5)
    assert pooled(np.array([0.9, 0.9, 0.01])) == pytest.approx(0.9)
    assert pooled(np.array([1.0, 1.0])) == pytest.approx(0.9999)
    assert np.isnan(pooled(np.array([1.0, np.nan])))


def test_csv_has_a_row_a_suspect_and_no_formula() -> None:
    photo = Photo("=evil()")
    one = Suspect(photo, "+ann", "@bea", 3, 4, ("-softmax", "arcface"), 0.98765, 0.991, (0, 1), None)
    rows = list(csv.reader(io.StringIO(doubts_csv(Doubts("", (one,), 9)))))
    assert rows[0][:4] == ["image", "label", "says", "probability"]
    expected = ["'=evil()", "'+ann", "'@bea", "0.9910", "3", "4", "0.9877", "'-softmax arcface", "0 1"]
    assert rows[1:] == [expected]
    assert doubts_csv(Doubts("", (), 0)).count("\n") == 1


def test_hardest_individual_is_the_one_that_all_take_for_another(tmp_path: Path) -> None:
    drawn = draw_workspace(tmp_path, individuals=8, tests=4, new=2)
    true = drawn.tested["identity"].replace("seal_003", "seal_005").tolist()
    for number, method in enumerate(("arcface", "softmax")):
        put_answers(drawn, method, evidence(drawn, 6.0, number, true), method=method)
    table = leaderboard(drawn.workspace.runs).tables[0]
    galleries = Galleries(drawn.workspace, Album(drawn.workspace.cache))
    hardest = hardest_individuals(table, galleries, most=3)
    assert len(hardest) == 3 and hardest[0].map_at_5 < hardest[1].map_at_5 <= hardest[2].map_at_5
    first = hardest[0]
    assert (first.name, first.photos, first.contestants) == ("seal_003", 4, 2)
    assert first.sides == ("left", "right")
    assert first.taken_for[0] == ("seal_005", 8)
    assert first.photo and first.photo.image == "test-003-2.png"
    answers = [galleries.answers(row).table for one in table.contestants for row in one.rows]
    mine = [table[table["truth"] == "seal_003"]["average_precision_at_5"].mean() for table in answers]
    assert first.map_at_5 == pytest.approx(np.mean(mine))
