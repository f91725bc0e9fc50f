"""The rules against slow twins: what they say does not depend on blocks, and is what the words say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import top_columns
from whalebench.benchmarks.ensembles import fusion as mixing
from whalebench.benchmarks.ensembles.fusion import (
    energies,
    energy_score,
    fit_weights,
    mean_scores,
    mixed_log_loss,
    vote_scores,
)
from whalebench.benchmarks.ensembles.rules import Evidence, product_scores
from whalebench.benchmarks.ensembles.stacking import full_scores, shortlist
from whalebench.methods.parts.fusion import TIE

TEMPERATURES = [0.1, 1.0, 3.0]


def drawn(photos: int = 7, identities: int = 60, members: int = 3) -> list[NDArray[np.float32]]:
    """Scores (photos, identities) by member, with ties among them."""
    rng = np.random.default_rng(1)
    return [rng.normal(size=(photos, identities)).round(1).astype(np.float32) for _ in range(members)]


def chances(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    raised = np.exp(scores.astype(np.float64) / temperature)
    rows: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return rows


def test_the_mean_is_that_of_probabilities() -> None:
    scores, weights = drawn(), np.array([0.5, 0.5, 0.0])
    slow = sum(w * chances(one, heat) for w, one, heat in zip(weights, scores, TEMPERATURES, strict=True))
    found = mean_scores(scores, TEMPERATURES, weights)
    np.testing.assert_allclose(np.exp(found), slow, rtol=1e-4)
    by_photo = mean_scores(scores, TEMPERATURES, np.tile(weights, (len(found), 1)))
    np.testing.assert_array_equal(by_photo, found)


def test_the_product_is_that_of_probabilities_to_their_powers() -> None:
    scores, temperatures, powers = drawn(), [0.5, 1.0, 2.0], np.array([0.7, 0.0, 1.6])
    slow = np.ones(scores[0].shape)
    for one, temperature, power in zip(scores, temperatures, powers, strict=True):
        slow *= chances(one, temperature) ** power
    slow /= slow.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(product_scores(scores, temperatures, powers)), slow, rtol=1e-4)
    by_photo = np.broadcast_to(powers, (len(slow), 3))
    found = product_scores(scores, temperatures, by_photo)
    assert np.array_equal(found, product_scores(scores, temperatures, powers))


def evidence(scores: list[NDArray[np.float32]], own: NDArray[np.int64]) -> Evidence:
    members = [SimpleNamespace(valid=one, temperature=1.0) for one in scores]
    return Evidence(members, np.arange(len(own)), own)  # type: ignore[arg-type]


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
        slow += weight * TIE * chances(one, heat)
    np.testing.assert_allclose(vote_scores(scores, TEMPERATURES, weights), slow, rtol=1e-5)


@pytest.mark.parametrize("identities", [3, 19, 60])
def test_best_columns_are_the_first_of_a_stable_sort(identities: int) -> None:
    scores = drawn(identities=identities)[0]
    slow = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(top_columns(scores, 20), slow)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, weights = drawn(), np.full(3, 1 / 3)

    def everything() -> list[NDArray[np.float64]]:
        found = shortlist(scores, TEMPERATURES)
        whole = full_scores(found, found.features[:, 0], scores, TEMPERATURES)
        mixed = [mix(scores, TEMPERATURES, weights) for mix in (mean_scores, vote_scores)]
        return [*mixed, energies(scores, TEMPERATURES), found.features, found.firsts, whole]

    at_once = everything()
    monkeypatch.setattr(mixing, "BLOCK_CELLS", 130)
    for one, other in zip(at_once, everything(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_shortlist_says_what_each_member_says() -> None:
    scores = drawn(members=2)
    found = shortlist(scores, TEMPERATURES[:2])
    for place in range(0, len(found.photos), 5):
        photo, column = found.photos[place], found.columns[place]
        for member, (one, heat) in enumerate(zip(scores, TEMPERATURES, strict=False)):
            logs = np.log(chances(one, heat)[photo])
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
    found = shortlist(scores, TEMPERATURES[:2])
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
    found = shortlist(scores, TEMPERATURES[:2])
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
        return float(mixed_log_loss(own, shares).sum() - np.log(np.maximum(shares, 1e-300)).sum())

    others = rng.dirichlet(np.ones(members), 20)
    assert worth(weights) <= min(worth(shares) for shares in others) + 1e-5


def test_members_that_say_the_same_weigh_the_same() -> None:
    own = np.tile(np.log(np.array([[0.2], [0.9], [0.5]])), (1, 3))
    np.testing.assert_allclose(fit_weights(own), 1 / 3)


def test_familiarity_of_equal_members_is_what_each_says() -> None:
    scores = drawn(members=1)[0]
    once = energies([scores], [0.5])
    twice = energies([scores, scores], [0.5, 0.5])
    alone = energy_score(once, once, np.ones(1))
    np.testing.assert_allclose(alone, once[:, 0] - once.mean())
    np.testing.assert_allclose(energy_score(twice, twice, np.array([0.3, 0.7])), alone)
    slow = np.log(np.exp(scores.astype(np.float64) / 0.5).sum(axis=1))
    np.testing.assert_allclose(once[:, 0], slow)
