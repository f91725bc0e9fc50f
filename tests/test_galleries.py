"""The galleries of a page: which queries it shows, with which photos, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whalebench.benchmarks.core.saliency import HEAT_SIZE, SALIENCY, Saliency, write_saliency
from whalebench.reports.board import Row, Table
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.metrics.calibration import Calibration
from whalebench.reports.page.answers import candidate_probabilities
from whalebench.reports.page.galleries import Galleries, Gallery, Photo, Query, Wanted
from whalebench.reports.page.thumbnails import Album
from whalebench.tests.answered import Drawn, draw_workspace, put_answers
from whalebench.tests.synthetic_runs import record

WINDOW = {"a": 0.5, "b": 0.0, "c": 0.25, "d": 0.0, "e": 0.4, "f": 0.3}
IMAGES = [f"test-{number:03d}-{nth}.png" for number in range(4) for nth in (2, 3)]
IMAGES += ["test-004-0.png", "test-005-0.png"]


def draw(folder: Path, **columns: str) -> Drawn:
    """Four known individuals with two test photos each, and two new ones."""
    return draw_workspace(folder, individuals=4, tests=2, new=2, **columns)


def answers_of(drawn: Drawn) -> np.ndarray:
    """Scores (10, 4): 0 is taken for new, 2 and 4 for others, 8 for a known one, the rest are right."""
    scores = np.full((10, 4), -5.0) - 0.1 * np.arange(4)
    scores[np.arange(8), np.repeat(np.arange(4), 2)] = 3.0
    scores[0, 0] = -0.5  # below the threshold of 0
    scores[2] = [4.0, 3.0, -5.0, -5.0]  # the truth is second
    scores[4] = [-5.0, -5.0, -9.0, 5.0]  # the truth is last
    scores[8, 1] = 2.0
    return scores


def matches_of(drawn: Drawn) -> pd.DataFrame:
    """Matches that name the second train photo of the first candidate alone, and one window for all."""
    table = pd.DataFrame({"image": IMAGES, "nearest_1": "train-000-1.png"})
    table = table.assign(**dict.fromkeys([f"nearest_{place}" for place in range(2, 6)], ""))
    table = table.assign(**{f"window_{letter}": value for letter, value in WINDOW.items()})
    return table.assign(window_height=8, window_width=12)


def one_row(drawn: Drawn, run: str = "arcface") -> Row:
    return next(row for row in leaderboard(drawn.workspace.runs).rows if row.record.run == run)


def open_galleries(drawn: Drawn, photos: Wanted = "few") -> Galleries:
    return Galleries(drawn.workspace, Album(drawn.workspace.cache), photos)


@pytest.fixture
def drawn(tmp_path: Path) -> Drawn:
    made = draw(tmp_path, rightsholder="ann", licence="CC BY 4.0")
    put_answers(made, "arcface", answers_of(made), threshold=0.0, matches=matches_of(made))
    return made


def names_of(gallery: Gallery) -> dict[str, list[str]]:
    return {one.name: [query.photo.image for query in one.queries] for one in gallery.sets}


def queries_of(gallery: Gallery) -> dict[str, Query]:
    return {query.photo.image: query for one in gallery.sets for query in one.queries}


def photos_in(gallery: Gallery) -> Iterator[Photo]:
    for query in queries_of(gallery).values():
        yield query.photo
        yield from (one.photo for one in query.candidates if one.photo)


def test_sets_hold_the_queries_of_their_kind_in_the_order_that_they_say(drawn: Drawn) -> None:
    gallery = open_galleries(drawn).of(one_row(drawn))
    names = names_of(gallery)
    assert names["hardest"] == [IMAGES[place] for place in (4, 2, 0, 8)]
    assert names["confident"] == [IMAGES[4], IMAGES[2]]
    assert names["new_for_known"] == [IMAGES[8]]
    assert names["known_for_new"] == [IMAGES[0]]
    assert len(set(names["random"])) == 6 and {one.name: one.of for one in gallery.sets}["random"] == 10
    assert (gallery.run, gallery.fold, gallery.seed, gallery.sentence) == ("arcface", 0, 0, "")


def test_verdicts_are_said_in_words_and_marks_and_never_by_colour_alone(drawn: Drawn) -> None:
    by_image = queries_of(open_galleries(drawn, "all").of(one_row(drawn)))
    said = {
        place: (by_image[IMAGES[place]].mark, by_image[IMAGES[place]].words) for place in (0, 1, 2, 4, 8, 9)
    }
    assert said == {
        0: ("?", "taken for new: seal_000 is candidate 2"),
        1: ("✓", "right"),
        2: ("✗", "wrong: seal_001 is candidate 2"),
        4: ("✗", "wrong: seal_002 is candidate 5"),
        8: ("★", "new, taken for seal_001"),
        9: ("✓", "right: nobody that train shows"),
    }
    new = by_image[IMAGES[9]]
    assert (new.truth, new.label, new.probability, new.verdict) == ("new", "seal_005", None, "right")


def test_candidates_have_their_probabilities_and_the_photo_that_stood_nearest(drawn: Drawn) -> None:
    query = queries_of(open_galleries(drawn).of(one_row(drawn)))[IMAGES[2]]
    first, second, new, *_ = query.candidates
    whole = np.exp([4.0, 3.0, -5.0, -5.0])
    assert [first.probability, second.probability] == pytest.approx((whole / whole.sum())[:2], rel=1e-6)
    assert (query.confidence, query.probability, query.rank) == (first.probability, second.probability, 2.0)
    assert (first.name, first.is_right, second.is_right) == ("seal_000", False, True)
    assert (new.name, new.is_new, new.photo, new.probability) == ("new", True, None, None)
    assert first.photo and (first.photo.image, first.matched) == ("train-000-1.png", True)
    # Without a match a photo of train that shows the side of the query, which is from the left.
    assert second.photo and (second.photo.image, second.matched) == ("train-001-0.png", False)
    assert query.photo.viewpoint == second.photo.viewpoint == "left"
    right = queries_of(open_galleries(drawn, "all").of(one_row(drawn)))[IMAGES[3]]
    others = {one.name: one.photo.image for one in right.candidates[1:] if one.photo}
    assert set(others.values()) == {"train-000-1.png", "train-002-1.png", "train-003-1.png"}


def test_probabilities_of_candidates_are_those_that_the_calibration_gives() -> None:
    scores = np.random.default_rng(2).normal(0, 1, (3, 9)).astype(np.float32)
    calibration = Calibration(0.5, 0.1)
    whole, order = calibration.probabilities(scores), np.argsort(-scores, axis=1)[:, :4]
    best, given = (np.take_along_axis(each, order, axis=1) for each in (scores.astype(float), whole))
    answers = pd.DataFrame({"candidate_1": ["new"] * 3, "score_1": [9.0] * 3, "confidence": given[:, 0]})
    for place in range(4):
        answers[f"candidate_{place + 2}"], answers[f"score_{place + 2}"] = "x", best[:, place]
    facts = {"counts": {"identities": 9}, "chosen": {"temperature": 0.5, "epsilon": 0.1}}
    found = candidate_probabilities(answers, record("one", **facts))
    assert found[:, 1:] == pytest.approx(given) and np.isnan(found[:, 0]).all()
    older = candidate_probabilities(answers, record("one"))
    assert older[:, 1] == pytest.approx(given[:, 0]) and np.isnan(older[:, [0, 2, 3, 4]]).all()


def test_the_answer_is_shown_where_it_is_no_candidate(tmp_path: Path) -> None:
    made = draw_workspace(tmp_path, individuals=7, tests=2, new=0)
    scores = np.tile(np.arange(7.0), (14, 1))
    put_answers(made, "arcface", scores)
    shown = queries_of(open_galleries(made).of(one_row(made)))["test-000-2.png"]
    assert shown.words == "wrong: seal_000 has rank 7" and len(shown.candidates) == 5
    assert shown.answer and shown.answer.image == "train-000-0.png"
    assert queries_of(open_galleries(made, "all").of(one_row(made)))["test-006-2.png"].answer is None


def test_crop_and_saliency_are_shown_where_the_run_has_them(drawn: Drawn) -> None:
    heat = np.zeros(HEAT_SIZE, np.float16)
    heat[:10] = 1
    folder = drawn.workspace.runs / "arcface"
    write_saliency(folder, {IMAGES[2]: Saliency("seal_001", heat)})
    galleries = open_galleries(drawn)
    by_image = queries_of(galleries.of(one_row(drawn)))
    galleries.album.make()
    query, other = by_image[IMAGES[2]], by_image[IMAGES[4]]
    assert (query.followed, other.saliency, other.followed) == ("seal_001", "", "")
    crop, photo = (galleries.album.pictures[key] for key in (query.crop, query.photo.picture))
    assert ((crop.width, crop.height), (photo.width, photo.height)) == ((12, 8), (30, 20))
    assert len({query.photo.picture, query.crop, query.saliency}) == 3
    assert galleries.album.pictures[query.saliency].data != photo.data
    (folder / SALIENCY).write_bytes(b"damaged")
    galleries = open_galleries(drawn)
    assert queries_of(galleries.of(one_row(drawn)))[IMAGES[2]].saliency == ""
    assert [SALIENCY in said for said in galleries.problems] == [True]


def test_a_run_without_matches_shows_other_photos_and_no_crop(tmp_path: Path) -> None:
    made = draw(tmp_path)
    put_answers(made, "arcface", answers_of(made), threshold=0.0)
    query = queries_of(open_galleries(made).of(one_row(made)))[IMAGES[2]]
    assert query.crop == ""
    assert [one.matched for one in query.candidates] == [False] * 5
    assert [bool(one.photo) for one in query.candidates] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("column", "value"), [("window_a", 1e300), ("window_height", 0.0), ("window_f", np.nan)]
)
def test_a_window_that_cannot_be_is_none(tmp_path: Path, column: str, value: float) -> None:
    made = draw(tmp_path)
    matches = matches_of(made).assign(**{column: value})
    put_answers(made, "arcface", answers_of(made), threshold=0.0, matches=matches)
    query = queries_of(open_galleries(made).of(one_row(made)))[IMAGES[2]]
    assert query.crop == "" and query.candidates[0].matched


def test_matches_of_another_kind_are_refused_by_a_sentence_or_left_alone(tmp_path: Path) -> None:
    made = draw(tmp_path)
    others = [pd.DataFrame({"rank": [1.0] * 10}), matches_of(made).assign(image="x", truth="y")]
    for number, matches in enumerate(others):
        put_answers(made, f"run-{number}", answers_of(made), threshold=0.0, matches=matches)
        query = queries_of(open_galleries(made).of(one_row(made, f"run-{number}")))[IMAGES[2]]
        assert not query.crop and not query.candidates[0].matched
    words = matches_of(made).assign(window_a="far")
    put_answers(made, "words", answers_of(made), threshold=0.0, matches=words)
    gallery = open_galleries(made).of(one_row(made, "words"))
    assert gallery.sets == () and "no numbers" in gallery.sentence and "--force" in gallery.sentence


def test_no_photo_where_none_is_wanted_yet_all_that_is_said(drawn: Drawn) -> None:
    galleries, few = open_galleries(drawn, "none"), open_galleries(drawn)
    gallery = galleries.of(one_row(drawn))
    assert names_of(gallery) == names_of(few.of(one_row(drawn)))
    assert not any(photo.picture for photo in photos_in(gallery))
    galleries.album.make()
    assert (galleries.album.pictures, galleries.credits) == ({}, {})
    assert next(photos_in(gallery)).credit == "ann, CC BY 4.0"
    assert list(few.credits) == ["ann, CC BY 4.0"]


def test_all_photos_are_more_of_a_set_and_on_the_page_of_one_run_every_query(drawn: Drawn) -> None:
    row = one_row(drawn)
    assert "every" not in names_of(open_galleries(drawn, "few").of(row, every=True))
    assert "every" not in names_of(open_galleries(drawn, "all").of(row))
    gallery = open_galleries(drawn, "all").of(row, every=True)
    assert names_of(gallery)["every"] == IMAGES
    assert len(names_of(gallery)["random"]) == 10
    anchors = [query.anchor for one in gallery.sets for query in one.queries]
    assert len(set(anchors)) == len(anchors) and all(anchor.startswith("arcface-") for anchor in anchors)


def test_random_photos_are_the_same_for_all_runs_of_a_fold(drawn: Drawn) -> None:
    put_answers(drawn, "softmax", -answers_of(drawn), method="softmax")
    both = [
        names_of(open_galleries(drawn).of(one_row(drawn, run)))["random"] for run in ("arcface", "softmax")
    ]
    assert both[0] == both[1] != sorted(both[0])


def test_disagreements_are_the_queries_that_one_run_has_right_and_the_other_wrong(drawn: Drawn) -> None:
    scores = answers_of(drawn)
    scores[2], scores[6] = [3.0, 4.0, -5.0, -5.0], [6.0, -5.0, -5.0, 5.0]
    put_answers(drawn, "softmax", scores, threshold=0.0, method="softmax")
    galleries = open_galleries(drawn)
    found = galleries.disagreements(one_row(drawn), one_row(drawn, "softmax"))
    assert found and (found.first, found.second, found.of) == ("arcface", "softmax", (1, 1))
    (right, wrong), (missed, hit) = found.only_first[0], found.only_second[0]
    assert right.photo.image == wrong.photo.image == IMAGES[6] and missed.photo.image == IMAGES[2]
    assert [one.verdict for one in (right, wrong, missed, hit)] == ["right", "wrong", "wrong", "right"]
    assert right.anchor != wrong.anchor
    table: Table = leaderboard(drawn.workspace.runs).tables[0]
    pairs = galleries.best_pairs(table)
    assert [{one.first, one.second} for one in pairs] == [{"arcface", "softmax"}]


def test_runs_on_other_photos_have_no_disagreements(drawn: Drawn) -> None:
    put_answers(drawn, "other", answers_of(drawn), catalog_digest="o" * 64, fold=1)
    assert open_galleries(drawn).disagreements(one_row(drawn), one_row(drawn, "other")) is None


def test_a_catalog_that_is_absent_or_another_gives_names_and_one_sentence(drawn: Drawn) -> None:
    put_answers(drawn, "other", answers_of(drawn), catalog_digest="o" * 64)
    galleries = open_galleries(drawn)
    galleries.of(one_row(drawn))
    changed = galleries.of(one_row(drawn, "other"))
    assert "is not the one" in changed.sentence and changed.sets
    assert not any(photo.picture for photo in photos_in(changed))
    assert list(galleries.problems) == [changed.sentence]
    (drawn.workspace.benchmarks / "seals" / "catalog.json").unlink()
    absent = open_galleries(drawn).of(one_row(drawn))
    assert "not in this workspace" in absent.sentence and names_of(absent)["confident"] == [
        IMAGES[4],
        IMAGES[2],
    ]
    assert len(absent.sentence) <= 300


def test_a_damaged_run_has_a_gallery_that_says_why(drawn: Drawn) -> None:
    row = one_row(drawn)
    (drawn.workspace.runs / "arcface" / "matches.parquet").write_bytes(b"damaged")
    gallery = open_galleries(drawn).of(row)
    assert gallery.sets == () and "matches.parquet" in gallery.sentence
