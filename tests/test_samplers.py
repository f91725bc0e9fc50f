"""What the samplers promise, by property: nobody vanishes, nobody is alone, the generator decides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whalebench import WhalebenchError
from whalebench.methods.parts.training.samplers import PKSampler, Shuffled, Singles

# Photos of each individual, two of whom have two photos at least; then how they are sampled.
SIZES = st.lists(st.integers(1, 23), min_size=2, max_size=30).filter(lambda s: sum(n > 1 for n in s) > 1)
SAMPLING = {
    "identities": st.integers(2, 9),
    "photos": st.integers(2, 6),
    "singles": st.sampled_from(["alone", "repeat", "leave_out"]),
    "fill": st.booleans(),
    "seed": st.integers(0, 1000),
}


def labels_of(sizes: list[int], seed: int) -> Any:
    """Labels in any order, with gaps between them."""
    return np.random.default_rng(seed).permutation(np.repeat(3 * np.arange(len(sizes)) + 7, sizes))


def epoch_of(sampler: PKSampler, seed: int) -> list[Any]:
    return sampler.epoch(torch.Generator().manual_seed(seed))


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, **SAMPLING)
def test_an_epoch_has_every_photo_in_batches_of_several_identities_and_nearly_equal_size(
    sizes: list[int], identities: int, photos: int, singles: Singles, fill: bool, seed: int
) -> None:
    labels = labels_of(sizes, seed)
    sampler = PKSampler(labels, identities, photos, singles, fill=fill)
    batches, again = epoch_of(sampler, seed), epoch_of(sampler, seed)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    count = {int(label): int((labels == label).sum()) for label in np.unique(labels)}
    alone = sum(number == 1 for number in count.values())
    assert sampler.single_identities == alone
    assert sampler.left_out == (alone if singles == "leave_out" else 0)
    assert len(batches) == sampler.steps
    seen = np.bincount(np.concatenate(batches), minlength=len(labels))
    least = {"alone": 1, "leave_out": 0, "repeat": photos if fill else 2}[singles]
    for place, label in enumerate(labels):
        assert seen[place] >= (least if count[label] == 1 else 1)
        assert seen[place] == 0 or count[label] > 1 or singles != "leave_out"
    assert min(len(np.unique(labels[batch])) for batch in batches) >= 2
    # Groups are of three where K is 2 and the number odd; a batch of one identity has one group more.
    largest = max(photos, 3)
    assert max(map(len, batches)) - min(map(len, batches)) <= 2 * largest
    assert max(map(len, batches)) <= identities * photos + 2 * largest
    for label, number in count.items():
        if number > 1 and not fill:
            apart = min(math.ceil(number / photos), max(number // 2, 1), sampler.steps)
            assert sum(label in labels[batch] for batch in batches) >= apart
    for batch in batches:
        for label, together in zip(*np.unique(labels[batch], return_counts=True), strict=True):
            assert together >= 2 or count[label] == 1
            assert not fill or (singles == "alone" and count[label] == 1) or together % photos == 0


def test_another_seed_and_the_next_epoch_are_other_batches() -> None:
    sampler = PKSampler(np.repeat(np.arange(12), 8), 4, 4)
    generator = torch.Generator().manual_seed(0)
    one, two, other = sampler.epoch(generator), sampler.epoch(generator), epoch_of(sampler, 1)
    assert not np.array_equal(np.concatenate(one), np.concatenate(two))
    assert not np.array_equal(np.concatenate(one), np.concatenate(other))


def test_batches_are_p_by_k_where_the_photos_allow_it() -> None:
    labels = np.repeat(np.arange(12), 8)
    for batch in epoch_of(PKSampler(labels, 4, 4), 3):
        assert np.unique(labels[batch], return_counts=True)[1].tolist() == [4, 4, 4, 4]


def test_fill_draws_photos_again_until_each_group_is_whole() -> None:
    labels = np.repeat(np.arange(6), [2, 3, 4, 5, 6, 1])
    filled = PKSampler(labels, 3, 4, "repeat", fill=True)
    for batch in epoch_of(filled, 0):
        assert set(np.unique(labels[batch], return_counts=True)[1]) == {4}
    assert filled.photos == 4 * (1 + 1 + 1 + 2 + 2 + 1)
    once = PKSampler(labels, 3, 4)
    assert once.photos == len(labels) == len(np.concatenate(epoch_of(once, 0)))
    # A group never shows a photo twice while there are others of that individual.
    for batch in epoch_of(filled, 1):
        for label in (2, 3, 4):
            own = batch[labels[batch] == label]
            assert len(set(own.tolist())) == len(own)


def test_an_individual_with_many_photos_never_fills_a_batch_alone() -> None:
    labels = np.repeat([0, 1], [60, 3])
    batches = epoch_of(PKSampler(labels, 2, 3), 0)
    assert len(batches) > 5
    assert all(set(labels[batch]) == {0, 1} for batch in batches)


@pytest.mark.parametrize(
    ("labels", "singles"), [([0, 1, 2], "alone"), ([0, 0, 1], "leave_out"), ([0, 0, 0], "repeat")]
)
def test_nothing_to_compare_is_refused(labels: list[int], singles: Singles) -> None:
    with pytest.raises(WhalebenchError, match=f"singles={singles} leaves"):
        PKSampler(np.array(labels), 2, 2, singles)


def test_single_photos_can_be_all_there_is_when_they_are_repeated() -> None:
    batches = epoch_of(PKSampler(np.arange(5), 2, 3, "repeat", fill=True), 0)
    for batch in batches:
        assert set(np.unique(batch, return_counts=True)[1]) == {3}
    assert set(np.concatenate(batches)) == set(range(5))


@given(photos=st.integers(2, 200), batch_size=st.integers(2, 64), seed=st.integers(0, 99))
def test_shuffled_photos_are_each_seen_once(photos: int, batch_size: int, seed: int) -> None:
    sampler = Shuffled(photos, batch_size)
    batches = sampler.epoch(torch.Generator().manual_seed(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(photos))
    assert len(batches) == sampler.steps
    assert min(map(len, batches)) >= 2
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
