"""Candidate sets: against loops, on draws that keep their promise, and where nothing can be promised."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whalebench.reports.metrics.calibration import candidate_sets, conformal_threshold, set_threshold
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.metrics.resampling import intervals
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


def judged(probabilities, truth, least):
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
    table = judged([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.3, 0.4, 0.3]], ["bob", "bob", NEW], 0.3)
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
    both = set_threshold(judged(chances, known + [NEW] * 30, None))
    assert both == set_threshold(judged(chances[:30], known, None)) is not None
    assert set_threshold(judged(chances[:40], known[:18] + [NEW] * 22, None)) is None


def test_without_a_threshold_nothing_is_said():
    found = summarize(judged([[0.7, 0.2, 0.1]], ["ann"], None))
    assert math.isnan(found["coverage_95"]) and math.isnan(found["set_size_95"])


def test_both_metrics_have_intervals():
    rng = np.random.default_rng(4)
    chances = rng.dirichlet(np.ones(3), 90)
    truth = [*(NAMES[int(column)] for column in rng.integers(3, size=80)), *[NEW] * 10]
    table = judged(chances, truth, 0.3)
    found, ends = summarize(table), intervals(table, 500)
    for key in ("coverage_95", "set_size_95"):
        assert ends[key].low < found[key] < ends[key].high
