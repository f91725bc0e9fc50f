"""Reliability, the expected calibration error and candidate sets: against loops, by hand, and on draws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whalebench.reports.metrics.calibration import (
    calibration_error,
    candidate_sets,
    conformal_threshold,
    reliability,
    reliability_of,
    set_threshold,
)
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.jackknife import intervals
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.metrics.summary import summarize

NAMES = ["ann", "bob", "cas"]


def slow_threshold(probabilities, miscoverage):
    """The largest of these that is reached by as many as it takes; as the papers have it, on 1 - p."""
    scores, n = sorted(1 - value for value in probabilities), len(probabilities)
    for score in scores:
        if sum(other <= score for other in scores) / n >= math.ceil((n + 1) * (1 - miscoverage)) / n:
            return 1 - score
    return math.nan


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 64).map(lambda value: value / 64), max_size=60),
    st.sampled_from([0.5, 0.25, 0.125, 0.0625]),
)
def test_the_threshold_agrees_with_loops(probabilities, miscoverage):
    found = conformal_threshold(np.array(probabilities), miscoverage)
    assert found == pytest.approx(slow_threshold(probabilities, miscoverage), nan_ok=True, rel=0, abs=0)


@pytest.mark.parametrize(
    ("photos", "reaching"), [(18, None), (19, 19), (20, 20), (39, 38), (40, 39), (99, 95)]
)
def test_at_5_percent_nineteen_photos_are_the_fewest(photos, reaching):
    values = np.linspace(0.01, 0.99, photos)
    found = conformal_threshold(values)
    assert math.isnan(found) if reaching is None else (values >= found).sum() == reaching


def test_sets_keep_their_promise_on_exchangeable_photos():
    rng, coverages = np.random.default_rng(0), []
    for _ in range(200):
        logits = rng.normal(0, 2, (160, 12))
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        truth = np.array([rng.choice(12, p=row) for row in chances])
        own = chances[np.arange(160), truth]
        sets = candidate_sets(chances[60:], conformal_threshold(own[:60]))
        coverages.append(sets[np.arange(100), truth[60:]].mean())
    # Of 61 exchangeable photos the 58 with the highest probability are covered: 58 / 61.
    assert np.mean(coverages) == pytest.approx(58 / 61, abs=0.006)


def test_the_order_of_equals_does_not_matter_and_no_list_is_empty():
    chances = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]])
    assert candidate_sets(chances, 0.9).sum(axis=1).tolist() == [2, 2, 3]
    assert candidate_sets(chances, 0.0).all()


def queries(probabilities, truth, least):
    return evaluate_queries(
        images=[f"photo {row}" for row in range(len(truth))],
        truth=truth,
        clusters=[f"{name} {row // 3}" for row, name in enumerate(truth)],
        identities=NAMES,
        scores=np.asarray(probabilities),
        probabilities=np.asarray(probabilities),
        new_scores=np.zeros(len(truth)),
        new_threshold=None,
        set_threshold=least,
    )


def test_new_photos_have_a_list_but_count_for_nothing():
    table = queries([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.3, 0.4, 0.3]], ["bob", "bob", NEW], 0.3)
    assert table["set_size_95"].tolist() == [1, 2, 3]
    assert table["covered_95"].tolist()[:2] == [0, 1] and math.isnan(table["covered_95"][2])
    found = summarize(table)
    assert (found["coverage_95"], found["set_size_95"]) == (0.5, 1.5)
    nobody = summarize(table.iloc[2:])
    assert math.isnan(nobody["coverage_95"]) and math.isnan(nobody["set_size_95"])


def test_the_threshold_comes_from_known_photos_only():
    rng = np.random.default_rng(2)
    chances = rng.dirichlet(np.ones(3), 60)
    known = [NAMES[int(column)] for column in rng.integers(3, size=30)]
    both = set_threshold(queries(chances, known + [NEW] * 30, None))
    assert both == set_threshold(queries(chances[:30], known, None)) is not None
    assert set_threshold(queries(chances[:40], known[:18] + [NEW] * 22, None)) is None


def test_without_a_threshold_there_are_no_sets():
    found = summarize(queries([[0.7, 0.2, 0.1]], ["ann"], None))
    assert math.isnan(found["coverage_95"]) and math.isnan(found["set_size_95"])


def test_both_metrics_have_intervals():
    rng = np.random.default_rng(4)
    chances = rng.dirichlet(np.ones(3), 90)
    truth = [*(NAMES[int(column)] for column in rng.integers(3, size=80)), *[NEW] * 10]
    table = queries(chances, truth, 0.3)
    found, ends = summarize(table), intervals(table)
    for key in ("coverage_95", "set_size_95"):
        assert ends[key].low < found[key] < ends[key].high


def slow_error(confidence, correct, bins):
    """A photo's bin is decided by how many photos are less sure; the gap of each bin, photo by photo."""
    members = {}
    for sure, hit in zip(confidence, correct, strict=True):
        place = math.floor(bins * sum(other < sure for other in confidence) / len(confidence) + 1e-9)
        members.setdefault(place, []).append((sure, hit))
    total = 0.0
    for photos in members.values():
        total += abs(sum(hit for _, hit in photos) - sum(sure for sure, _ in photos))
    return total / len(confidence) if confidence else math.nan


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=50),
    st.sampled_from([1, 2, 15]),
)
def test_the_error_agrees_with_loops_whatever_the_order(photos, bins):
    confidence, correct = [sure / 40 for sure, _ in photos], [hit for _, hit in photos]
    found = calibration_error(reliability_of(np.array(confidence), np.array(correct, bool), bins))
    assert found == pytest.approx(slow_error(confidence, correct, bins), nan_ok=True, abs=1e-12)
    turned = reliability_of(np.array(confidence[::-1]), np.array(correct[::-1], bool), bins)
    assert calibration_error(turned) == pytest.approx(found, nan_ok=True, abs=1e-12)


def test_bins_have_as_many_photos_and_equal_ones_stay_together():
    rng = np.random.default_rng(0)
    bins = reliability_of(rng.random(3000), rng.random(3000) < 0.5)
    assert bins["count"] == [200] * 15
    assert bins["confidence"] == sorted(bins["confidence"])
    assert reliability_of(np.full(30, 0.5), np.arange(30) < 12) == {
        "confidence": [0.5],
        "accuracy": [0.4],
        "count": [30],
    }


def test_probabilities_that_are_right_have_a_small_error_and_others_a_large_one():
    rng = np.random.default_rng(1)
    confidence = rng.random(30_000)
    right = rng.random(30_000) < confidence
    assert calibration_error(reliability_of(confidence, right)) < 0.02
    assert calibration_error(reliability_of(confidence / 2, right)) == pytest.approx(0.25, abs=0.01)


def test_it_is_the_best_individual_of_known_photos_that_counts():
    """The second photo is called new, but its best individual is right; the third has no right individual."""
    table = evaluate_queries(
        images=["a", "b", "c"],
        truth=["ann", "bob", NEW],
        clusters=["1", "2", "3"],
        identities=["ann", "bob"],
        scores=np.array([[0.9, 0.1], [0.2, 0.4], [0.8, 0.1]]),
        probabilities=np.array([[0.75, 0.25], [0.4, 0.6], [0.9, 0.1]]),
        new_scores=np.zeros(3),
        new_threshold=0.5,
    )
    assert table["candidate_1"].tolist() == ["ann", NEW, "ann"]
    assert reliability(table) == {"confidence": [0.6, 0.75], "accuracy": [1.0, 1.0], "count": [1, 1]}
    assert calibration_error(reliability(table)) == pytest.approx(0.325)
    assert math.isnan(calibration_error(reliability(table.iloc[2:])))
