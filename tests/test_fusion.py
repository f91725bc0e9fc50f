"""The rules against slow twins: what they say does not depend on blocks, and is what the words say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import normalise, top_columns
from whalebench.benchmarks.ensembles.rules import Evidence
from whalebench.benchmarks.ensembles.stacking import Shortlist, full_scores, shortlist
from whalebench.methods.parts.fusion import (
    SCORE_RULES,
    TIE,
    ScoreFusion,
    average_scores,
    energies,
    fit_temperature,
    fit_weights,
    mean_log_loss,
    mean_scores,
    nearest_scores,
    product_scores,
    share_choices,
    side_by_side,
    vote_scores,
)

TEMPERATURES = [0.1, 1.0, 3.0]


def drawn(photos: int = 7, identities: int = 60, members: int = 3) -> list[NDArray[np.float32]]:
    """Scores (photos, identities) by member, with ties among them."""
    rng = np.random.default_rng(1)
    return [rng.normal(size=(photos, identities)).round(1).astype(np.float32) for _ in range(members)]


def probabilities(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    raised = np.exp(scores.astype(np.float64) / temperature)
    rows: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return rows


def test_the_mean_is_that_of_probabilities() -> None:
    scores, weights = drawn(), np.array([0.5, 0.5, 0.0])
    slow = sum(
        w * probabilities(one, heat) for w, one, heat in zip(weights, scores, TEMPERATURES, strict=True)
    )
    found = mean_scores(scores, TEMPERATURES, weights)
    np.testing.assert_allclose(np.exp(found), slow, rtol=1e-4)
    by_photo = mean_scores(scores, TEMPERATURES, np.tile(weights, (len(found), 1)))
    np.testing.assert_array_equal(by_photo, found)


def test_the_product_is_that_of_probabilities_to_their_powers() -> None:
    scores, temperatures, powers = drawn(), [0.5, 1.0, 2.0], np.array([0.7, 0.0, 1.6])
    slow = np.ones(scores[0].shape)
    for one, temperature, power in zip(scores, temperatures, powers, strict=True):
        slow *= probabilities(one, temperature) ** power
    slow /= slow.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(product_scores(scores, temperatures, powers)), slow, rtol=1e-4)
    by_photo = np.broadcast_to(powers, (len(slow), 3))
    found = product_scores(scores, temperatures, by_photo)
    assert np.array_equal(found, product_scores(scores, temperatures, powers))


def evidence(scores: list[NDArray[np.float32]], own: NDArray[np.int64]) -> Evidence:
    return Evidence(scores, [1.0] * len(scores), np.arange(len(own)), own)


@given(st.integers(2, 4), st.integers(5, 30), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_no_powers_nearby_are_better_than_those_found(members: int, photos: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = rng.integers(0, 8, photos)
    scores = [rng.normal(size=(photos, 8)).astype(np.float32) * 2 for _ in range(members)]
    for one in scores:
        one[np.arange(photos), own] += rng.uniform(0, 3)
    found = evidence(scores, own)
    powers = found.powers(np.arange(photos))

    def cost(tried: NDArray[np.float64]) -> float:
        return found.log_loss(tried) * photos + float((np.log(tried * members) ** 2).sum()) / 2

    for place in range(members):
        for factor in (0.95, 1.05):
            tried = powers * np.where(np.arange(members) == place, factor, 1.0)
            assert cost(tried) >= cost(powers) - 1e-4


def test_powers_rest_on_the_photos_they_are_found_on() -> None:
    scores, own = drawn(photos=12), np.arange(12) % 5
    found = evidence(scores, own)
    first = found.powers(np.arange(6))
    for one in scores:
        one[6:] = 0
    assert np.array_equal(evidence(scores, own).powers(np.arange(6)), first)
    assert not np.allclose(found.powers(np.arange(12)), first)


def test_votes_are_reciprocal_ranks_of_the_first_twenty() -> None:
    scores, weights = drawn(), np.array([0.6, 0.3, 0.1])
    slow = np.zeros(scores[0].shape)
    for weight, one, heat in zip(weights, scores, TEMPERATURES, strict=True):
        for row, values in enumerate(one):
            ranked = sorted(range(len(values)), key=lambda column: (-values[column], column))
            for rank, column in enumerate(ranked[:20], start=1):
                slow[row, column] += weight / rank
        slow += weight * TIE * probabilities(one, heat)
    np.testing.assert_allclose(vote_scores(scores, TEMPERATURES, weights), slow, rtol=1e-5)


@pytest.mark.parametrize("identities", [3, 19, 60])
def test_best_columns_are_the_first_of_a_stable_sort(identities: int) -> None:
    scores = drawn(identities=identities)[0]
    slow = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(top_columns(scores, 20), slow)


def gathered(scores: list[NDArray[np.float32]]) -> Shortlist:
    return shortlist(scores, TEMPERATURES[: len(scores)], [f"member {place}" for place in range(len(scores))])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, weights = drawn(), np.full(3, 1 / 3)

    def everything() -> list[NDArray[np.float64]]:
        found = gathered(scores)
        whole = full_scores(found, found.features[:, 0], scores, TEMPERATURES)
        mixed = [rule(scores, TEMPERATURES, weights) for rule in SCORE_RULES.values()]
        return [*mixed, energies(scores, TEMPERATURES), found.features, found.firsts, whole]

    at_once = everything()
    monkeypatch.setattr("whalebench.benchmarks.core.arrays.BLOCK_CELLS", 130)
    for one, other in zip(at_once, everything(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_shortlist_says_what_each_member_says() -> None:
    scores = drawn(members=2)
    found = gathered(scores)
    for place in range(0, len(found.photos), 5):
        photo, column = found.photos[place], found.columns[place]
        for member, (one, heat) in enumerate(zip(scores, TEMPERATURES, strict=False)):
            logs = np.log(probabilities(one, heat)[photo])
            ranked = np.argsort(-one[photo], kind="stable")
            rank = int(np.flatnonzero(ranked == column)[0]) + 1
            rival = np.delete(logs, column).max()
            said = [logs[column], one[photo, column], 1 / rank if rank <= 20 else 0, logs[column] - rival]
            np.testing.assert_allclose(found.features[place, 4 * member : 4 * member + 4], said, atol=1e-6)
    for photo in range(len(scores[0])):
        union = {column for one in scores for column in np.argsort(-one[photo], kind="stable")[:20]}
        assert set(found.columns[found.photos == photo]) == union


def test_those_who_are_no_candidates_stand_below_them() -> None:
    scores = drawn(members=2)
    found = gathered(scores)
    logits = np.random.default_rng(2).normal(size=len(found.photos))
    whole = full_scores(found, logits, scores, TEMPERATURES[:2])
    for photo in range(len(whole)):
        mine = found.photos == photo
        rest = np.setdiff1d(np.arange(whole.shape[1]), found.columns[mine])
        np.testing.assert_allclose(whole[photo, found.columns[mine]], logits[mine], rtol=1e-6)
        assert whole[photo, rest].max() < logits[mine].min()
        assert np.exp(whole[photo, rest]).sum() == pytest.approx(np.exp(logits[mine].min()), rel=1e-4)


def test_where_all_are_candidates_nobody_is_left() -> None:
    scores = drawn(identities=6, members=2)
    found = gathered(scores)
    logits = np.arange(len(found.photos), dtype=np.float64)
    np.testing.assert_array_equal(full_scores(found, logits, scores, TEMPERATURES[:2]).ravel(), logits)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**31))
def test_weights_are_one_in_all_and_no_others_are_better(members: int, photos: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = np.log(rng.uniform(1e-6, 1, (photos, members)))
    weights = fit_weights(own)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()

    def worth(shares: NDArray[np.float64]) -> float:
        """What is minimised: log loss, and one photo more that each member got right."""
        return float(mean_log_loss(own, shares).sum() - np.log(np.maximum(shares, 1e-300)).sum())

    others = rng.dirichlet(np.ones(members), 20)
    assert worth(weights) <= min(worth(shares) for shares in others) + 1e-5


def test_members_that_say_the_same_weigh_the_same() -> None:
    own = np.tile(np.log(np.array([[0.2], [0.9], [0.5]])), (1, 3))
    np.testing.assert_allclose(fit_weights(own), 1 / 3)


def test_the_energy_of_equal_members_is_what_each_says() -> None:
    scores = drawn(members=1)[0]
    once = energies([scores], [0.5])
    np.testing.assert_allclose(once[:, 0], np.log(np.exp(scores.astype(np.float64) / 0.5).sum(axis=1)))
    alone = ScoreFusion.of_valid(mean_scores, [scores], [0.5]).energy_score(once, np.ones(1))
    np.testing.assert_allclose(alone, once[:, 0] - once.mean())
    twins = ScoreFusion.of_valid(mean_scores, [scores, scores], [0.5, 0.5])
    np.testing.assert_allclose(twins.energy_score(np.hstack([once, once]), np.array([0.3, 0.7])), alone)


def test_the_energy_changes_no_order_but_how_unlike_anyone_a_photo_is() -> None:
    scores, weights = drawn(), np.array([0.2, 0.3, 0.5])
    fused = ScoreFusion.of_valid(mean_scores, scores, TEMPERATURES).fuse(scores, weights)
    added = fused - mean_scores(scores, TEMPERATURES, weights)
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1], added.shape), atol=1e-4)
    louder = [np.where(np.arange(7)[:, None] == 0, one + 5, one).astype(np.float32) for one in scores]
    again = ScoreFusion.of_valid(mean_scores, scores, TEMPERATURES).fuse(louder, weights)
    assert (again[0] > fused[0]).all()
    np.testing.assert_allclose(again[1:], fused[1:], atol=1e-5)


def test_an_average_is_over_the_members_that_are_counted() -> None:
    scores = drawn(members=2)
    np.testing.assert_array_equal(average_scores(scores), np.mean(scores, axis=0))
    counted = np.array([[True] * 7, [False, *[True] * 6]])
    found = average_scores(scores, counted)
    np.testing.assert_array_equal(found[0], scores[0][0])
    np.testing.assert_array_equal(found[1:], np.mean(scores, axis=0)[1:])


def test_cosines_side_by_side_are_the_mean_of_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, labels, shares = np.random.default_rng(3), np.array([2, 0, 2, 3]), (0.25, 0.75)
    galleries = [normalise(rng.normal(size=(4, size))) for size in (3, 5)]
    queries = [normalise(rng.normal(size=(6, size))) for size in (3, 5)]
    cosines = np.zeros((6, 4))
    for share, query, gallery in zip(shares, queries, galleries, strict=True):
        cosines += share * query @ gallery.T
    slow = [cosines[:, labels == label].max(axis=1, initial=-1) for label in range(4)]
    monkeypatch.setattr("whalebench.benchmarks.core.arrays.BLOCK_CELLS", 8)
    found = nearest_scores(queries, galleries, labels, 4, np.array(shares))
    np.testing.assert_allclose(found, np.stack(slow, axis=1), atol=1e-6)
    joint = side_by_side(queries, shares) @ side_by_side(galleries, shares).T
    np.testing.assert_allclose(joint, cosines, atol=1e-6)


def test_temperatures_rest_on_known_photos() -> None:
    scores = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    labels = np.arange(20) % 8 - 2
    known = labels >= 0

    def log_loss(temperature: float) -> float:
        each = np.log(probabilities(scores[known], temperature))
        return float(-each[np.arange(known.sum()), labels[known]].mean())

    best = min(np.exp(np.arange(-3, 5, 0.005)), key=log_loss)
    found = fit_temperature(scores, labels)
    assert found == pytest.approx(best, rel=1e-2)
    altered = np.where(known[:, None], scores, 99).astype(np.float32)
    assert fit_temperature(altered, labels) == found
    assert fit_temperature(scores, np.full(20, -1)) == pytest.approx(float(scores.std()))


def test_shares_to_choose_from() -> None:
    assert share_choices(3)[0] == (1 / 3,) * 3
    assert len(share_choices(3)) == 16
    assert all(sum(each) == pytest.approx(1) for each in share_choices(5))
