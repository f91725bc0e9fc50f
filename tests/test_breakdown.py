"""Buckets and review effort against slow twins, and what the harness says of a photo."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from whalebench.benchmarks.core.record import BY_SIDE, TRAITS
from whalebench.benchmarks.running.folds import answers_of
from whalebench.reports.drawings.runs import Reviewed
from whalebench.reports.drawings.runs import effort as effort_picture
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.metrics.breakdown import (
    SHARES,
    Effort,
    _draws,
    abundance_bias,
    buckets,
    effort,
    effort_curve,
    identity_ranks,
)
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.jackknife import intervals
from whalebench.reports.metrics.summary import summarize
from whalebench.reports.wording import with_interval
from whalebench.reports.writers import to_markdown, to_rows
from whalebench.tests.pages import page_of
from whalebench.tests.synthetic_runs import put, record

NAMES = [f"whale_{number:02d}" for number in range(30)]


def queries(photos=90, threshold: float | None = 1.5, skill=2.0, seed=0):
    """A per-query table with every trait; individual n has n photos in train."""
    rng = np.random.default_rng(seed)
    columns, is_new = rng.integers(1, 30, photos), rng.random(photos) < 0.2
    edges = [1, 2, 4, 5, 9, 10]
    columns[: len(edges)], is_new[: len(edges)] = edges, False
    scores = rng.normal(size=(photos, 30))
    scores[np.arange(photos)[~is_new], columns[~is_new]] += skill
    table = evaluate_queries(
        images=[f"photo_{row}" for row in range(photos)],
        truth=["new" if one else NAMES[column] for one, column in zip(is_new, columns, strict=True)],
        clusters=[f"{'sea' if one else ''}{column}" for one, column in zip(is_new, columns, strict=True)],
        identities=NAMES,
        scores=scores,
        probabilities=np.exp(scores),
        new_scores=-scores.max(axis=1),
        new_threshold=threshold,
    )
    traits = {
        "train_photos": np.where(is_new, 0, columns),
        "viewpoint": rng.choice(["left", "right", ""], photos),
        "species": [""] * photos,
        "encounter_seen": rng.choice([0.0, 1.0, math.nan], photos),
        "side_seen": rng.choice([0.0, 1.0, math.nan], photos),
    } | dict.fromkeys(BY_SIDE, math.nan)
    return table.assign(scores=list(scores), **traits)


def test_a_bucket_is_the_score_of_its_photos():
    table = queries()
    made = {(bucket.by, bucket.name): bucket for bucket in buckets(table)}
    photos = table["train_photos"]
    inside = {
        ("train_photos", "1"): photos == 1,
        ("train_photos", "2–4"): photos.between(2, 4),
        ("train_photos", "5–9"): photos.between(5, 9),
        ("train_photos", "≥10"): photos >= 10,
        ("viewpoint", "left"): table["viewpoint"] == "left",
        ("viewpoint", "right"): table["viewpoint"] == "right",
        ("encounter_seen", "seen"): table["encounter_seen"] == 1,
        ("encounter_seen", "not seen"): table["encounter_seen"] == 0,
        ("side_seen", "seen"): table["side_seen"] == 1,
        ("side_seen", "not seen"): table["side_seen"] == 0,
    }
    assert made.keys() == inside.keys()
    for key, chosen in inside.items():
        part, bucket = table[chosen], made[key]
        assert (bucket.photos, bucket.individuals) == (len(part), part["cluster"].nunique())
        values, ends = summarize(part), intervals(part)
        for metric in ("map_at_5", "top_1", "log_loss"):
            said = [bucket.metrics[f"{metric}{end}"] for end in ("", "_low", "_high")]
            assert said == pytest.approx([values[metric], ends[metric].low, ends[metric].high], nan_ok=True)


def test_photos_of_new_individuals_are_in_no_bucket_by_photos_in_train():
    table = queries()
    of_photos = [bucket for bucket in buckets(table) if bucket.by == "train_photos"]
    assert sum(bucket.photos for bucket in of_photos) == (table["truth"] != "new").sum()


def test_runs_of_older_versions_have_no_buckets():
    assert buckets(queries().assign(**dict.fromkeys(TRAITS, math.nan))) == []


@pytest.mark.parametrize("threshold", [None, 0.5, 2.5])
def test_the_rank_among_individuals_is_that_of_the_scores(threshold):
    table = queries(threshold=threshold)
    known = table[table["truth"] != "new"]
    slow = np.array(
        [1 + (row.scores > row.scores[NAMES.index(row.truth)]).sum() for row in known.itertuples()]
    )
    ranks = identity_ranks(table)
    beyond = (known[[f"candidate_{place}" for place in range(1, 6)]] == "new").any(axis=1).to_numpy()
    certain = beyond | (known["rank"] <= 5).to_numpy() | (threshold is None)
    assert (ranks[certain] == slow[certain]).all()
    assert np.isin(ranks - slow, (0, 1)).all()
    assert certain.mean() > 0.5


def test_the_effort_is_the_smallest_number_of_candidates_that_is_enough():
    table = queries(photos=200)
    ranks = identity_ranks(table)
    for row in effort(table):
        assert (ranks <= row.candidates).mean() == row.found >= row.share
        assert (ranks <= row.candidates - 1).mean() < row.share
        assert row.abundance_bias == pytest.approx(1 / row.found - 1)
        assert row.low <= row.candidates <= row.high
    assert [row.share for row in effort(table)] == list(SHARES)


def test_a_share_that_is_just_reached_is_enough():
    table = queries(photos=90)
    known = (
        table[table["truth"] != "new"]
        .iloc[:10]
        .assign(**{f"candidate_{place}": "whale" for place in range(1, 6)}, rank=[1.0] * 9 + [3.5])
    )
    assert [(row.share, row.candidates, row.found) for row in effort(known)] == [
        (0.9, 1, 0.9),
        (0.95, 4, 1.0),
        (0.99, 4, 1.0),
    ]


def test_the_interval_of_the_effort_is_that_of_a_slow_twin():
    table = queries(photos=60)
    known = table[table["truth"] != "new"]
    ranks, clusters = identity_ranks(table), known["cluster"].to_numpy()
    names = sorted(set(clusters))
    counts = _draws(len(names)).astype(np.float64)
    assert len(counts) == 2001 and (counts.sum(axis=1) == len(names)).all() and (counts[0] == 1).all()
    drawn = []
    for row in counts[1:]:
        photos = np.concatenate(
            [np.repeat(ranks[clusters == name], int(n)) for name, n in zip(names, row, strict=True)]
        )
        drawn.append(np.sort(photos)[math.ceil(0.95 * len(photos) - 1e-9) - 1])
    made = effort(table)[1]
    assert (made.low, made.high) == tuple(np.quantile(drawn, (0.025, 0.975)))


def test_what_is_known_of_nobody_or_of_one_individual_is_not_made_up():
    table = queries()
    assert effort(table[table["truth"] == "new"]) == []
    one = effort(table[table["cluster"] == table["cluster"][table["truth"] != "new"].iloc[0]])
    assert all(math.isnan(row.low) and math.isnan(row.high) and row.candidates >= 1 for row in one)


def test_missed_matches_make_an_estimate_of_abundance_too_high():
    """Simulated: two occasions of a closed population, matches missed at random."""
    rng, animals, missed = np.random.default_rng(0), 100_000, 0.2
    first, second = rng.random(animals) < 0.5, rng.random(animals) < 0.5
    matched = first & second & (rng.random(animals) >= missed)
    estimate = first.sum() * second.sum() / matched.sum()
    assert estimate / animals - 1 == pytest.approx(abundance_bias(missed), abs=0.01)
    assert abundance_bias(0.0) == 0 and abundance_bias(1.0) == math.inf
    assert Effort(0.9, 3, 2, 5, 0.9, abundance_bias(0.1)).abundance_bias == pytest.approx(1 / 9)


def test_the_harness_says_what_is_known_of_a_photo():
    columns = ["image", "identity", "encounter", "viewpoint", "species"]
    train = pd.DataFrame(
        [
            ("a", "ann", "e1", "left", "minke"),
            ("b", "ann", "e2", "", ""),
            ("c", "", "e3", "", ""),
            ("d", "bob", "", "", ""),
        ],
        columns=columns,
    )
    part = pd.DataFrame(
        [
            ("p", "ann", "e2", "right", "minke"),
            ("q", "bob", "e9", "", ""),
            ("r", "", "", "", ""),
            ("s", "eve", "e3", "", ""),
        ],
        columns=columns,
    )
    groups = {image: image for image in "pqrs"}
    traits = answers_of(part, train, ("ann", "bob"), groups).traits
    assert traits is not None
    assert traits["train_photos"].tolist() == [2, 1, 0, 0]
    assert traits["viewpoint"].tolist() == ["right", "", "", ""]
    assert traits["species"].tolist() == ["minke", "", "", ""]
    assert traits["encounter_seen"].tolist()[:2] == [1.0, 0.0]
    assert math.isnan(traits["encounter_seen"][2]) and traits["encounter_seen"][3] == 1.0


def test_the_curve_of_the_effort_rises_to_all_matches_and_is_drawn():
    table = queries(photos=120)
    curve, ranks = effort_curve(table), identity_ranks(table)
    assert curve["found"] == [(ranks <= candidates).mean() for candidates in curve["candidates"]]
    assert curve["found"][-1] == 1 and curve["candidates"] == sorted(set(ranks))
    root = ElementTree.fromstring(effort_picture([Reviewed("<run>", curve, effort(table))]).svg)
    groups = {group.findtext("title", ""): group for group in root.iter("g")}
    path = groups["<run>"].find("path")
    numbers = [float(number) for number in re.findall(r"[\d.]+", path.get("d"))]
    points = [*zip(numbers[::2], numbers[1::2], strict=True)]
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    assert len(points) == 2 * len(curve["found"])
    assert len([hint for hint in groups if "of the matches by" in hint]) == 3


def test_a_full_report_breaks_every_run_down(tmp_path):
    table = queries()
    traits = [*TRAITS, *BY_SIDE]
    put(tmp_path / "runs", record("one"), table)
    put(tmp_path / "runs", record("two", "triplet"), table.drop(columns=traits))
    assert all(row.breakdown is None for row in leaderboard(tmp_path / "runs").rows)
    board = leaderboard(tmp_path / "runs", closely=True)
    text, page = to_markdown(board), page_of(board)
    for title in ("photos in train", "viewpoint", "encounter in train"):
        assert f"MAP@5 by {title}, fold 0" in text.replace("\\", "") and f"MAP@5 by {title}, fold 0" in page
    assert "by species" not in text and "What a reviewer must look at, fold 0" in text
    (bucket,) = (one for one in buckets(table) if one.name == "≥10")
    assert f"≥10 ({bucket.photos} of {bucket.individuals})" in text
    assert with_interval(bucket.metrics, "map_at_5") in text.replace("\\", "")
    assert page.count("effort of finding the matches</figcaption>") == 3
    rows = {row["run"]: row for row in to_rows(board)}
    assert len(rows["one"]["effort"]) == 3 and rows["one"]["effort_curve"] == effort_curve(table)
    assert rows["two"]["buckets"] == [] and rows["two"]["effort"] == rows["one"]["effort"]
