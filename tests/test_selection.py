"""The threshold of *new* that is chosen on valid."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from whalebench.benchmarks.running.evaluation import (
    choose_new_threshold,
    new_share_warnings,
    new_threshold_curve,
)
from whalebench.benchmarks.running.folds import NEW, Answers
from whalebench.methods.method import MethodConfig
from whalebench.reports.metrics.calibration import UNCALIBRATED
from whalebench.reports.metrics.evaluation import evaluate_queries, means_by_threshold
from whalebench.reports.metrics.summary import summarize

IDENTITIES = ("ann", "bob", "cas", "dan", "eve", "fay")


def answers(truth: list[str]) -> Answers:
    images = tuple(f"p{row}" for row in range(len(truth)))
    return Answers(images, tuple("" if name == NEW else name for name in truth), tuple(truth), images)


def separable() -> tuple[NDArray[np.float32], list[str]]:
    """Known photos whose best score is 0.8 or more, new ones whose best is 0.4 or less."""
    scores = np.full((8, 6), -0.5, np.float32)
    truth = ["ann", "bob", "cas", "dan", NEW, NEW, NEW, NEW]
    for row, (name, best) in enumerate(zip(truth, (0.8, 0.9, 0.85, 0.95, 0.4, 0.3, 0.35, 0.1), strict=True)):
        scores[row, IDENTITIES.index(name) if name != NEW else 4] = best
    return scores, truth


def test_the_threshold_separates_what_can_be_separated() -> None:
    scores, truth = separable()
    threshold, map_at_5 = choose_new_threshold(scores, answers(truth), IDENTITIES)
    assert threshold is not None
    assert 0.4 < threshold < 0.8
    assert map_at_5 == 1.0


def test_of_equally_good_thresholds_the_middle_one_is_taken() -> None:
    """All between the best new photo, 0.4, and the worst known one, 0.8, are equally good."""
    scores, truth = separable()
    threshold, _ = choose_new_threshold(scores, answers(truth), IDENTITIES)
    assert threshold == pytest.approx(0.6, abs=0.01)


def test_the_threshold_is_as_good_as_any() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 1, (60, 6)).astype(np.float32)
    truth = [NEW if rng.random() < 0.4 else IDENTITIES[int(row.argmax())] for row in scores]
    scores[[name != NEW for name in truth]] += 0.5

    def value(threshold: float) -> float:
        queries = evaluate_queries(
            images=[f"p{row}" for row in range(60)],
            truth=truth,
            clusters=truth,
            identities=IDENTITIES,
            scores=scores,
            probabilities=UNCALIBRATED.probabilities(scores),
            new_scores=-scores.max(axis=1),
            new_threshold=threshold,
        )
        return summarize(queries)["map_at_5"]

    threshold, map_at_5 = choose_new_threshold(scores, answers(truth), IDENTITIES)
    assert threshold is not None
    assert map_at_5 == pytest.approx(value(threshold))
    # Between neighbours in order nothing changes, so these are all the thresholds there are.
    steps = np.sort(scores.max(axis=1))
    best = max(value(float(each)) for each in [steps[0] - 1, *(steps[1:] + steps[:-1]) / 2, steps[-1] + 1])
    assert best - 0.02 <= map_at_5 <= best + 1e-9


def test_without_new_photos_new_is_no_candidate() -> None:
    scores, truth = separable()
    threshold, map_at_5 = choose_new_threshold(scores[:4], answers(truth[:4]), IDENTITIES)
    assert threshold is None
    assert map_at_5 == 1.0


def test_equal_scores_have_a_threshold_too() -> None:
    truth = ["ann", NEW, NEW]
    threshold, map_at_5 = choose_new_threshold(np.zeros((3, 6), np.float32), answers(truth), IDENTITIES)
    assert threshold is not None
    assert map_at_5 > 0.6


def overlapping() -> tuple[NDArray[np.float32], list[str]]:
    """Half of the photos are new, and some of them score above some known ones."""
    rng = np.random.default_rng(8)
    scores = rng.normal(0, 1, (80, 6)).astype(np.float32)
    truth = [IDENTITIES[int(row.argmax())] if place % 2 else NEW for place, row in enumerate(scores)]
    scores[1::2] += 0.4
    return scores, truth


@pytest.mark.parametrize("rule", ["column", "second"])
def test_the_fewer_new_photos_are_expected_the_lower_the_threshold(rule: str) -> None:
    scores, truth = overlapping()
    found = [
        choose_new_threshold(
            scores,
            answers(truth),
            IDENTITIES,
            MethodConfig.model_validate({"new_rule": rule, "new_share": share}),
        )
        for share in (0.02, 0.5, 0.98)
    ]
    few, half, most = (threshold for threshold, _ in found)
    assert few is not None
    assert half is not None
    assert most is not None
    assert few < half < most
    assert most > scores.max(axis=1)[1::2].min()
    assert found[0][1] > 0.97  # nearly all photos are known, and each is right where new is not said


def test_the_share_that_valid_has_changes_nothing() -> None:
    scores, truth = overlapping()
    plain = choose_new_threshold(scores, answers(truth), IDENTITIES)
    shared = choose_new_threshold(scores, answers(truth), IDENTITIES, MethodConfig(new_share=0.5))
    assert shared[0] == plain[0]
    assert shared[1] == pytest.approx(plain[1])


def test_the_adjusted_score_is_that_of_a_valid_with_this_share() -> None:
    scores, truth = overlapping()
    config = MethodConfig(new_share=0.8, new_rule="second")
    threshold, value = choose_new_threshold(scores, answers(truth), IDENTITIES, config)
    # Four times as many new photos as known ones: each new one four times.
    rows = [row for row, name in enumerate(truth) for _ in range(4 if name == NEW else 1)]
    many = means_by_threshold(
        truth=[truth[row] for row in rows],
        identities=IDENTITIES,
        scores=scores[rows],
        new_thresholds=[threshold],
        new_rule="second",
    )
    assert many["map_at_5"] == [pytest.approx(value)]
    curve = new_threshold_curve(scores, answers(truth), IDENTITIES, config, threshold)
    assert curve["map_at_5_adjusted"][curve["threshold"].index(threshold)] == value  # type: ignore[arg-type]
    assert curve["map_at_5"] != curve["map_at_5_adjusted"]


def test_a_share_that_cannot_be_kept_to_is_told() -> None:
    config = MethodConfig(new_share=0.2)
    both, known, new = (answers(truth) for truth in ([NEW, "ann"], ["ann"], [NEW]))
    assert new_share_warnings(both, config) == new_share_warnings(known, MethodConfig()) == []
    assert (
        "no new photo to choose a threshold by, so new is no candidate"
        in new_share_warnings(known, config)[0]
    )
    assert "no known photo" in new_share_warnings(new, config)[0]
    scores = np.eye(1, 6, dtype=np.float32)
    assert choose_new_threshold(scores, known, IDENTITIES, config) == (None, 1.0)
    assert choose_new_threshold(scores, new, IDENTITIES, config)[1] == 1.0
    assert new_threshold_curve(scores, known, IDENTITIES, config, None) == {}
