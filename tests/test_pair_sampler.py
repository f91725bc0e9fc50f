"""Pairs of photos: derangement, assignment and its blocks, noise, and the batches they come in."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.methods.parts.pairs import (
    NegativePairs,
    PairSampler,
    PairSimilarity,
    assigned_pairs,
    matching_pairs,
    noise_amplitude,
)
from whalebench.methods.parts.training.samplers import Indices

NONE = np.zeros((0, 2), np.int64)
LABELS = np.array([3, 0, 0, 1, 3, 2, 2, 2, 3, 5, 3, 4, 0, 4], np.int64)
"""Fourteen photos of six individuals; individuals 1 and 5 have one."""


def drawn(photos: int, individuals: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Similarities in [0, 1] of photos around their individuals, and whose they are."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(photos) % individuals)
    features = rng.normal(size=(individuals, 16))[labels] + rng.normal(size=(photos, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return (1 + features @ features.T) / 2, labels


def within(similarities: NDArray[np.float64]) -> PairSimilarity:
    return lambda places: similarities[np.ix_(places, places)]


def test_the_noise_falls_as_published() -> None:
    published = {0: 1000, 9: 1000, 10: 100, 14: 100, 15: 63.1, 35: 10, 59: 1.585, 60: 1, 149: 1}
    published |= {150: 0.5, 199: 0.5, 200: 0.25, 250: 0.25}
    for epoch, noise in published.items():
        assert noise_amplitude((epoch + 0.01) / 250) == pytest.approx(noise, rel=1e-3)


def test_matching_pairs_are_a_derangement_of_the_photos_of_each_identity() -> None:
    seen = set()
    for seed in range(20):
        left, right = matching_pairs(LABELS, np.random.default_rng(seed)).T
        several = [photo for photo in range(len(LABELS)) if LABELS[photo] not in (1, 5)]
        assert sorted(left) == sorted(right) == several
        assert (left != right).all()
        assert (LABELS[left] == LABELS[right]).all()
        seen.add(tuple(sorted(zip(left.tolist(), right.tolist(), strict=True))))
    assert len(seen) > 10


def test_assigned_pairs_are_the_best_there_are() -> None:
    rng = np.random.default_rng(1)
    labels, used = np.array([0, 0, 1, 1, 2, 2]), np.array([[0, 2], [3, 5]])
    for _ in range(5):
        values = rng.random((6, 6))
        forbidden = (labels[:, None] == labels) | np.isin(
            np.arange(36).reshape(6, 6), [2, 6 * 2, 6 * 3 + 5, 6 * 5 + 3]
        )
        best = max(
            sum(values[left, right] for left, right in enumerate(each))
            for each in permutations(range(6))
            if not any(forbidden[left, right] for left, right in enumerate(each))
        )
        pairs = assigned_pairs(values, labels, used)
        assert not forbidden[pairs[:, 0], pairs[:, 1]].any()
        assert sorted(pairs[:, 0]) == sorted(pairs[:, 1]) == list(range(6))
        assert values[pairs[:, 0], pairs[:, 1]].sum() == pytest.approx(best)


def test_where_nothing_else_is_left_used_pairs_come_again_and_those_of_one_identity_never() -> None:
    values = np.random.default_rng(2).random((3, 3))
    everything = np.array([[0, 1], [0, 2], [1, 2]])
    assert len(assigned_pairs(values, np.arange(3), everything)) == 3
    pairs = assigned_pairs(np.ones((4, 4)), np.array([0, 0, 0, 1]), everything)
    assert sorted(map(tuple, pairs.tolist()))[-1][0] == 3
    assert len(pairs) == 2


def test_blocks_come_close_to_the_exact_assignment() -> None:
    """The alikest pairs of 400 photos: what blocks of 100 gain over random pairs is most of what there is."""
    similarities, labels = drawn(400, 40)

    def mean(block: int, noise: float) -> float:
        negatives = NegativePairs(labels, block, within(similarities))
        negatives.refresh()
        rng = np.random.default_rng(0)
        pairs = np.concatenate([negatives.next_pairs(noise, rng) for _ in range(400 // block)])
        assert sorted(pairs[:, 0]) == sorted(pairs[:, 1]) == list(range(400))
        assert (labels[pairs[:, 0]] != labels[pairs[:, 1]]).all()
        return float(similarities[pairs[:, 0], pairs[:, 1]].mean())

    exact, blocked, random = mean(400, 0), mean(100, 0), mean(100, 1000)
    assert random < blocked < exact
    assert (blocked - random) / (exact - random) > 0.7


def test_pairs_are_not_used_twice_before_a_refresh() -> None:
    similarities, labels = drawn(30, 10)
    negatives = NegativePairs(labels, 30, within(similarities))
    negatives.refresh()
    rng = np.random.default_rng(0)
    rounds = [negatives.next_pairs(0, rng) for _ in range(4)]
    both_ways = {tuple(sorted(pair)) for pair in np.concatenate(rounds).tolist()}
    # Within a round a pair may stand in both orders, as published; across rounds in neither.
    assert len(both_ways) == sum(len({tuple(sorted(pair)) for pair in each.tolist()}) for each in rounds)
    values = [similarities[each[:, 0], each[:, 1]].mean() for each in rounds]
    assert values == sorted(values, reverse=True)
    negatives.refresh()
    again = negatives.next_pairs(0, rng)
    assert similarities[again[:, 0], again[:, 1]].mean() == pytest.approx(values[0])


def test_similarities_are_asked_for_block_by_block_only() -> None:
    similarities, labels = drawn(50, 10)
    asked: list[Indices] = []

    def similarity(places: Indices) -> NDArray[np.float64]:
        asked.append(places)
        return within(similarities)(places)

    negatives = NegativePairs(labels, 16, similarity)
    negatives.refresh()
    for _ in range(4):
        negatives.next_pairs(1.0, np.random.default_rng(0))
    assert [len(each) for each in asked] == [12, 12, 13, 13]
    assert sorted(np.concatenate(asked)) == list(range(50))


@pytest.mark.parametrize("views", [1, 4])
def test_batches_are_half_matching_pairs_and_every_photo_is_seen_as_often(views: int) -> None:
    labels = np.repeat(np.arange(8), 5)
    sampler = PairSampler(labels, batch_size=12, epochs=8, block=20, views=views)
    generator, seen = torch.Generator().manual_seed(0), np.zeros(40, np.int64)
    for _ in range(8):
        batches = sampler.epoch(generator)
        assert len(batches) == sampler.steps
        assert sum(map(len, batches)) == 40 * views
        for batch in batches:
            left, right = np.split(batch, 2)
            assert len(batch) <= 12
            assert (labels[left] == labels[right]).sum() * 2 == len(left)
            assert (left != right).all()
        seen += np.bincount(np.concatenate(batches), minlength=40)
    assert (seen == 8 * views).all()


def test_individuals_with_one_photo_are_in_pairs_of_two_individuals_and_counted() -> None:
    sampler = PairSampler(LABELS, batch_size=8, epochs=8, block=512)
    batches = [batch for _ in range(8) for batch in sampler.epoch(torch.Generator().manual_seed(3))]
    pairs = np.concatenate([np.column_stack(np.split(batch, 2)) for batch in batches])
    matching = LABELS[pairs[:, 0]] == LABELS[pairs[:, 1]]
    assert sampler.single_identities == 2
    assert not np.isin(pairs[matching], [3, 9]).any()
    assert {3, 9} <= set(pairs[~matching].ravel().tolist())
    assert matching.sum() * 2 == len(pairs)


def test_after_a_refresh_the_next_epoch_has_the_alikest_pairs() -> None:
    similarities, labels = drawn(64, 8)
    sampler = PairSampler(labels, batch_size=8, epochs=1, block=64, similarity=within(similarities))
    generator = torch.Generator().manual_seed(0)

    def alike() -> float:
        left, right = np.concatenate([np.split(b, 2) for b in sampler.epoch(generator)], axis=1)
        others = labels[left] != labels[right]
        return float(similarities[left[others], right[others]].mean())

    before = alike()
    sampler.refresh()
    assert alike() > before + 0.1


def test_the_generator_determines_the_pairs() -> None:
    def photos(seed: int) -> list[int]:
        sampler = PairSampler(LABELS, batch_size=8, epochs=2, block=512)
        generator = torch.Generator().manual_seed(seed)
        return [int(photo) for _ in range(2) for batch in sampler.epoch(generator) for photo in batch]

    assert photos(0) == photos(0) != photos(1)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_without_pairs_of_both_kinds_there_is_nothing_to_learn(labels: list[int]) -> None:
    with pytest.raises(WhalebenchError, match="cannot make pairs of one and of two individuals"):
        PairSampler(np.array(labels), batch_size=8, epochs=1, block=512)
