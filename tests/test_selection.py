"""What is chosen on valid: the temperature, and the threshold of *new*."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whalebench.benchmarks.selection import choose_temperature, choose_threshold, probabilities
from whalebench.benchmarks.views import NEW, Answers
from whalebench.reports import metrics

IDENTITIES = ("ann", "bob", "cas", "dan", "eve", "fay")


def answers(truth: list[str]) -> Answers:
    images = tuple(f"p{row}" for row in range(len(truth)))
    return Answers(images, tuple("" if name == NEW else name for name in truth), tuple(truth), images)


def log_loss(scores: NDArray[np.float32], truth: list[str], temperature: float) -> float:
    """Of the known photos, slowly."""
    total, count = 0.0, 0
    for row, name in zip(scores.astype(float) / temperature, truth, strict=True):
        if name != NEW:
            shifted = np.exp(row - row.max())
            total -= float(np.log(max(shifted[IDENTITIES.index(name)] / shifted.sum(), 1e-15)))
            count += 1
    return total / count


def test_probabilities_are_rows_that_sum_to_one() -> None:
    scores = np.array([[1e4, 0, -1e4], [0, 0, 0]], np.float32)
    rows = probabilities(scores, 0.5)
    assert rows.dtype == np.float64
    assert rows.tolist() == [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]
    warm, cold = (probabilities(np.array([[2.0, 1.0]], np.float32), heat)[0, 0] for heat in (2.0, 0.5))
    assert warm == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert cold == pytest.approx(1 / (1 + np.exp(-2)))


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (6000, len(IDENTITIES)))
    chances = probabilities(logits.astype(np.float32), 1.0)
    drawn = [IDENTITIES[rng.choice(len(IDENTITIES), p=row)] for row in chances]
    found = choose_temperature((logits * temperature).astype(np.float32), answers(drawn), IDENTITIES)
    assert found == pytest.approx(temperature, rel=0.05)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.sampled_from([1e-6, 1e-2, 0.3, 1.0, 30.0, 1e4]),
    st.integers(1, 12),
    st.floats(0, 1),
)
def test_the_temperature_never_makes_valid_worse(seed: int, spread: float, photos: int, right: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, spread, (photos, len(IDENTITIES))).astype(np.float32)
    truth = [
        IDENTITIES[row.argmax() if rng.random() < right else rng.integers(len(IDENTITIES))] for row in scores
    ]
    chosen = choose_temperature(scores, answers(truth), IDENTITIES)
    assert 0 < chosen < np.inf
    assert log_loss(scores, truth, chosen) <= log_loss(scores, truth, 1.0) + 1e-9


def test_without_known_photos_the_temperature_is_1() -> None:
    assert choose_temperature(np.zeros((2, 6), np.float32), answers([NEW, NEW]), IDENTITIES) == 1.0


def test_photos_of_new_individuals_do_not_move_the_temperature() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(0, 1, (40, 6)).astype(np.float32)
    truth = [IDENTITIES[int(place)] for place in rng.integers(0, 6, 40)]
    alone = choose_temperature(scores, answers(truth), IDENTITIES)
    among = np.vstack([scores, 9 * rng.normal(0, 1, (10, 6)).astype(np.float32)])
    assert choose_temperature(among, answers(truth + [NEW] * 10), IDENTITIES) == alone


def separable() -> tuple[NDArray[np.float32], list[str]]:
    """Known photos whose best score is 0.8 or more, new ones whose best is 0.4 or less."""
    scores = np.full((8, 6), -0.5, np.float32)
    truth = ["ann", "bob", "cas", "dan", NEW, NEW, NEW, NEW]
    for row, (name, best) in enumerate(zip(truth, (0.8, 0.9, 0.85, 0.95, 0.4, 0.3, 0.35, 0.1), strict=True)):
        scores[row, IDENTITIES.index(name) if name != NEW else 4] = best
    return scores, truth


def test_the_threshold_separates_what_can_be_separated() -> None:
    scores, truth = separable()
    threshold, map_at_5 = choose_threshold(metrics, scores, answers(truth), IDENTITIES)
    assert threshold is not None
    assert 0.4 < threshold < 0.8
    assert map_at_5 == 1.0


def test_the_threshold_is_as_good_as_any() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 1, (60, 6)).astype(np.float32)
    truth = [NEW if rng.random() < 0.4 else IDENTITIES[int(row.argmax())] for row in scores]
    scores[[name != NEW for name in truth]] += 0.5

    def value(threshold: float) -> float:
        queries = metrics.judge_queries(
            images=[f"p{row}" for row in range(60)],
            truth=truth,
            clusters=truth,
            identities=IDENTITIES,
            scores=scores,
            probabilities=probabilities(scores, 1.0),
            new_scores=-scores.max(axis=1),
            new_threshold=threshold,
        )
        return metrics.summarize(queries)["map_at_5"]

    threshold, map_at_5 = choose_threshold(metrics, scores, answers(truth), IDENTITIES)
    assert threshold is not None
    assert map_at_5 == pytest.approx(value(threshold))
    # Between neighbours in order nothing changes, so these are all the thresholds there are.
    steps = np.sort(scores.max(axis=1))
    best = max(value(float(each)) for each in [steps[0] - 1, *(steps[1:] + steps[:-1]) / 2, steps[-1] + 1])
    assert best - 0.02 <= map_at_5 <= best + 1e-9


def test_without_new_photos_new_is_no_candidate() -> None:
    scores, truth = separable()
    threshold, map_at_5 = choose_threshold(metrics, scores[:4], answers(truth[:4]), IDENTITIES)
    assert threshold is None
    assert map_at_5 == 1.0


def test_equal_scores_have_a_threshold_too() -> None:
    truth = ["ann", NEW, NEW]
    threshold, map_at_5 = choose_threshold(metrics, np.zeros((3, 6), np.float32), answers(truth), IDENTITIES)
    assert threshold is not None
    assert map_at_5 > 0.6
