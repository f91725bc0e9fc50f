"""The expected calibration error and its bins: against loops, on right probabilities, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whalebench.reports.metrics.calibration import calibration_error, reliability, reliability_of
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.ranking import NEW


def slow_error(confidence, right, bins):
    """A photo's bin is decided by how many photos are less sure; the gap of each bin, photo by photo."""
    members = {}
    for said, hit in zip(confidence, right, strict=True):
        place = math.floor(bins * sum(other < said for other in confidence) / len(confidence) + 1e-9)
        members.setdefault(place, []).append((said, hit))
    total = 0.0
    for own in members.values():
        total += abs(sum(hit for _, hit in own) - sum(said for said, _ in own))
    return total / len(confidence) if confidence else math.nan


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=50),
    st.sampled_from([1, 2, 15]),
)
def test_the_error_agrees_with_loops_whatever_the_order(photos, bins):
    confidence, right = [said / 40 for said, _ in photos], [hit for _, hit in photos]
    found = calibration_error(reliability_of(np.array(confidence), np.array(right, bool), bins))
    assert found == pytest.approx(slow_error(confidence, right, bins), nan_ok=True, abs=1e-12)
    turned = reliability_of(np.array(confidence[::-1]), np.array(right[::-1], bool), bins)
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
