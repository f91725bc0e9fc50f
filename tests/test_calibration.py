"""Temperature and epsilon: found where they are known, never a loss on valid, and out of reach of test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax

from whalebench import RunFailedError
from whalebench.benchmarks.running import calibration as calibrating
from whalebench.benchmarks.running.calibration import best_epsilon, choose_calibration, least_log_loss
from whalebench.benchmarks.running.evaluation import Evaluation, evaluate_scores
from whalebench.benchmarks.running.folds import NEW, Answers
from whalebench.methods.method import MethodConfig
from whalebench.reports.metrics.calibration import (
    UNCALIBRATED,
    Calibration,
    calibration_error,
    calibration_of,
)

IDENTITIES = ("ann", "bob", "cas", "dan", "eve", "fay")
Scores = NDArray[np.float32]


def answers(truth: list[str], part: str = "p") -> Answers:
    images = tuple(f"{part}{row}" for row in range(len(truth)))
    return Answers(images, tuple("" if name == NEW else name for name in truth), tuple(truth), images)


def slow_log_loss(scores: Scores, truth: list[str], temperature: float, epsilon: float = 0.0) -> float:
    """Of the known photos, one after the other."""
    total, count = 0.0, 0
    for row, name in zip(scores.astype(float) / temperature, truth, strict=True):
        if name != NEW:
            shifted = np.exp(row - row.max())
            chance = (1 - epsilon) * shifted[IDENTITIES.index(name)] / shifted.sum() + epsilon / len(row)
            total -= float(np.log(max(chance, 1e-15)))
            count += 1
    return total / count


def slow_cost(scores: Scores, truth: list[str], temperature: float, epsilon: float = 0.0) -> float:
    """Log loss of all photos and of a wrong answer, and what each number that is chosen costs."""
    chances = Calibration(temperature).probabilities(scores)
    wrong = float(np.mean([(1 - max(row)) / (len(row) - 1) for row in chances]))
    wrong = -float(np.log(max((1 - epsilon) * wrong + epsilon / len(IDENTITIES), 1e-15)))
    numbers = (temperature != 1.0) + (epsilon > 0)
    loss = slow_log_loss(scores, truth, temperature, epsilon) * len(truth)
    return loss + wrong + numbers * float(np.log(len(truth))) / 2


def drawn(chances: NDArray[np.float64], seed: int = 0) -> list[str]:
    """A truth for each row of probabilities."""
    rng = np.random.default_rng(seed)
    return [IDENTITIES[rng.choice(len(IDENTITIES), p=row)] for row in chances]


def some(seed: int, photos: int = 60) -> tuple[Scores, list[str]]:
    """Scores that are mostly right, of photos a fifth of which are new."""
    rng = np.random.default_rng(seed)
    truth = [str(name) for name in rng.choice([*IDENTITIES, NEW, NEW], photos)]
    scores = rng.normal(0, 1, (photos, 6)).astype(np.float32)
    for row, name in enumerate(truth):
        if name != NEW:
            scores[row, IDENTITIES.index(name)] += 1.5
    return scores, truth


def judged(valid: tuple[Scores, list[str]], test: tuple[Scores, list[str]]) -> Evaluation:
    truths = {"valid": answers(valid[1], "v"), "test": answers(test[1], "t")}
    return evaluate_scores(IDENTITIES, {"valid": valid[0], "test": test[0]}, truths, MethodConfig())


def test_probabilities_are_rows_that_sum_to_one() -> None:
    scores = np.array([[1e4, 0, -1e4], [0, 0, 0]], np.float32)
    rows = Calibration(0.5).probabilities(scores)
    assert rows.dtype == np.float64
    assert rows.tolist() == [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]
    warm, cold = (
        Calibration(heat).probabilities(np.array([[2.0, 1.0]], np.float32))[0, 0] for heat in (2.0, 0.5)
    )
    assert warm == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert cold == pytest.approx(1 / (1 + np.exp(-2)))
    assert Calibration(0.5, 0.3).probabilities(scores)[0] == pytest.approx([0.8, 0.1, 0.1])


def test_a_power_of_probabilities_is_a_temperature_of_their_logarithms() -> None:
    chances = np.random.default_rng(0).dirichlet(np.ones(6), 20)
    raised = chances**1.45
    found = Calibration(1 / 1.45).probabilities(np.log(chances).astype(np.float32))
    assert found == pytest.approx(raised / raised.sum(axis=1, keepdims=True), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (6000, len(IDENTITIES)))
    truth = drawn(UNCALIBRATED.probabilities(logits.astype(np.float32)))
    found = choose_calibration((logits * temperature).astype(np.float32), answers(truth), IDENTITIES)
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    assert found.epsilon < 0.02


@pytest.mark.parametrize("epsilon", [0.02, 0.2])
def test_a_known_epsilon_is_recovered(epsilon: float) -> None:
    scores = np.random.default_rng(1).normal(0, 6, (9000, len(IDENTITIES))).astype(np.float32)
    truth = drawn(Calibration(0.8, epsilon).probabilities(scores))
    found = choose_calibration(scores, answers(truth), IDENTITIES)
    assert found.epsilon == pytest.approx(epsilon, rel=0.2)
    assert found.temperature == pytest.approx(0.8, rel=0.1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.sampled_from([1e-6, 1e-2, 0.3, 1.0, 30.0, 1e4]),
    st.integers(1, 12),
    st.floats(0, 1),
)
def test_nothing_on_a_grid_is_better_than_what_is_chosen(
    seed: int, spread: float, photos: int, right: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, spread, (photos, len(IDENTITIES))).astype(np.float32)
    truth = [
        IDENTITIES[row.argmax() if rng.random() < right else rng.integers(len(IDENTITIES))] for row in scores
    ]
    found = choose_calibration(scores, answers(truth), IDENTITIES)
    assert 0 < found.temperature < np.inf
    assert 0 <= found.epsilon <= 0.5
    cost = slow_cost(scores, truth, found.temperature, found.epsilon)
    heats, shares = np.exp(np.linspace(-7, 5, 13)).tolist(), (0.0, 0.003, 0.03, 0.1, 0.3)
    grid = min(slow_cost(scores, truth, heat, share) for heat in heats for share in shares)
    assert cost <= min(grid, slow_cost(scores, truth, 1.0)) + 1e-4


def test_epsilon_is_where_the_log_loss_is_least() -> None:
    own = np.array([0.9, 0.8, 0.99, 1e-12, 0.7])
    found = best_epsilon(own, 50)

    def loss(epsilon: float) -> float:
        return float(-np.log((1 - epsilon) * own + epsilon / 50).mean())

    assert 0 < found < 0.5
    assert all(loss(found) <= loss(found + step) for step in (-1e-3, 1e-3))
    assert best_epsilon(np.array([0.9, 0.8]), 50) == 0.0
    assert best_epsilon(np.zeros(3), 50) == 0.5


def test_individuals_a_method_is_sure_not_to_see_cost_little() -> None:
    """As in Right Whale, 2nd place: exactly 0 for individuals that were not among what was trained."""
    scores = np.full((40, 6), -1e4, np.float32)
    truth = [IDENTITIES[row % 4] for row in range(38)] + ["eve", "fay"]
    scores[np.arange(40), [row % 4 for row in range(40)]] = 0
    found = choose_calibration(scores, answers(truth), IDENTITIES)
    before, after = (
        slow_log_loss(scores, truth, each.temperature, each.epsilon) for each in (UNCALIBRATED, found)
    )
    assert before == pytest.approx(2 * 34.54 / 40, abs=0.01)
    assert after < 0.3
    assert found.epsilon == pytest.approx(3 / 41 * 6 / 5, abs=0.01)  # two wrong ones, and one more


def test_a_handful_of_right_answers_makes_nobody_sure() -> None:
    scores = np.eye(6, dtype=np.float32)[:5]
    found = choose_calibration(scores, answers(list(IDENTITIES[:5])), IDENTITIES)
    assert 0.6 < found.probabilities(scores).max() < 0.95


def test_probabilities_that_are_right_are_left_alone() -> None:
    """Chosen by the log loss alone, the temperature would follow the draw: worse on other photos."""
    for seed in range(10):
        scores = np.random.default_rng(seed).normal(0, 2, (90, 6)).astype(np.float32)
        truth = drawn(UNCALIBRATED.probabilities(scores), seed)
        assert choose_calibration(scores, answers(truth), IDENTITIES) == UNCALIBRATED


def test_without_known_photos_scores_stay_as_given() -> None:
    found = choose_calibration(np.zeros((2, 6), np.float32), answers([NEW, NEW]), IDENTITIES)
    assert found == UNCALIBRATED == Calibration(1.0, 0.0)


def test_photos_of_new_individuals_move_nothing() -> None:
    scores, truth = some(3)
    scores *= 5
    known = [name != NEW for name in truth]
    alone = choose_calibration(scores[known], answers([name for name in truth if name != NEW]), IDENTITIES)
    assert choose_calibration(scores, answers(truth), IDENTITIES) == alone != UNCALIBRATED


def test_memory_is_spared_without_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, truth = some(4)
    whole = choose_calibration(scores, answers(truth), IDENTITIES)
    monkeypatch.setattr("whalebench.benchmarks.core.arrays.BLOCK_CELLS", 20)
    assert choose_calibration(scores, answers(truth), IDENTITIES) == whole
    monkeypatch.setattr(calibrating, "SAMPLE", 12)
    glanced = choose_calibration(scores, answers(truth), IDENTITIES)
    assert glanced.temperature == pytest.approx(whole.temperature, rel=1e-3)


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"temperature": 0.5, "epsilon": 0.1}, Calibration(0.5, 0.1)),
        ({"temperature": 2}, Calibration(2.0, 0.0)),  # a record from before there was an epsilon
        ({}, None),
        ({"temperature": None}, None),
        ({"temperature": 0.0}, None),
        ({"temperature": 1.0, "epsilon": 1.0}, None),
    ],
)
def test_a_record_names_its_calibration(chosen: Mapping[str, object], found: Calibration | None) -> None:
    assert calibration_of(chosen) == found


def test_the_record_says_what_calibration_changed_and_no_rank_changes() -> None:
    valid, (scores, truth) = some(5), some(6)
    found = judged(valid, (scores, truth))
    said = Calibration(float(found.chosen["temperature"] or 0), float(found.chosen["epsilon"] or 0))
    for when, how in (("before", UNCALIBRATED), ("after", said)):
        for part, own in (("valid", valid), ("test", (scores, truth))):
            loss = slow_log_loss(*own, how.temperature, how.epsilon)
            assert found.calibration[f"{part}_log_loss_{when}"] == pytest.approx(loss)
        bins, known = found.calibration[f"reliability_{when}"], [name != NEW for name in truth]
        assert sum(bins["count"]) == sum(known)
        best = how.probabilities(scores)[known].max(axis=1)
        assert np.average(bins["confidence"], weights=bins["count"]) == pytest.approx(best.mean())
        assert found.calibration[f"test_ece_{when}"] == calibration_error(bins)
    assert found.calibration["test_log_loss_after"] == found.metrics["log_loss"]
    hotter = judged((valid[0] * np.float32(9), valid[1]), (scores * np.float32(9), truth))
    for key in ("map_at_5", "top_1", "auroc_new", "coverage_95", "set_size_95"):
        assert hotter.metrics[key] == pytest.approx(found.metrics[key])


def test_answers_to_test_are_out_of_reach_of_whatever_is_chosen() -> None:
    """A leak through calibration: other answers to test must change nothing but what is said of test."""
    valid, (scores, truth) = some(7), some(8)
    found = judged(valid, (scores, truth))
    others = [IDENTITIES[int(row.argmin())] for row in scores]
    leaked = judged(valid, (scores, others))
    assert leaked.metrics["log_loss"] > found.metrics["log_loss"] + 1
    assert leaked.chosen == found.chosen
    assert set(found.chosen) == {"temperature", "epsilon", "new_threshold", "set_threshold_95"}
    assert leaked.new_curve == found.new_curve
    assert leaked.valid_metrics == pytest.approx(found.valid_metrics, nan_ok=True)
    sizes = (table.queries["set_size_95"].tolist() for table in (found, leaked))
    assert next(sizes) == next(sizes)
    assert judged((valid[0], [*others[:59], NEW]), (scores, truth)).chosen != found.chosen


def test_a_photo_in_both_parts_is_refused() -> None:
    scores, truth = some(9)
    shared = answers(truth)
    other = replace(answers(truth, "q"), images=("p3", *answers(truth, "q").images[1:]))
    parts = {"valid": scores, "test": scores}
    with pytest.raises(RunFailedError, match=r"60 photo\(s\) are in valid and in test, first p0"):
        evaluate_scores(IDENTITIES, parts, {"valid": shared, "test": shared}, MethodConfig())
    with pytest.raises(RunFailedError, match=r"1 photo\(s\) .*, first p3"):
        evaluate_scores(IDENTITIES, parts, {"valid": shared, "test": other}, MethodConfig())


def test_sets_of_test_are_by_valid_and_valid_has_none_of_its_own() -> None:
    found = judged(some(10, 300), some(11, 300))
    assert np.isnan(found.valid_metrics["coverage_95"])
    assert found.metrics["coverage_95"] == pytest.approx(0.95, abs=0.04)
    assert 1 < found.metrics["set_size_95"] < 6
    few = judged(some(12, 15), some(13))
    assert few.chosen["set_threshold_95"] is None
    assert np.isnan(few.metrics["coverage_95"])


def test_the_least_log_loss_is_that_at_the_best_temperature() -> None:
    generator = np.random.default_rng(0)
    truth = [IDENTITIES[place] for place in generator.integers(len(IDENTITIES), size=300)]
    column = np.array([IDENTITIES.index(who) for who in truth])
    logits = generator.normal(size=(300, len(IDENTITIES)))
    logits[np.arange(300), column] += 1.5
    expected = min(
        -np.log(softmax(logits / temperature, axis=1)[np.arange(300), column]).mean()
        for temperature in np.geomspace(0.1, 10, 200)
    )
    found = [
        least_log_loss((logits * scale).astype(np.float32), answers(truth), IDENTITIES) for scale in (1, 9)
    ]
    assert found == pytest.approx([expected, expected], abs=0.01)
    worse = least_log_loss(-logits.astype(np.float32), answers(truth), IDENTITIES)
    assert worse > found[0] + 0.3
    assert np.isnan(least_log_loss(logits[:1].astype(np.float32), answers([NEW]), IDENTITIES))
