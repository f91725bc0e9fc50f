"""How good groups are, by slow twins; and how many individuals there are, by photos that were drawn."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from math import comb, isnan, log

import numpy as np
import pytest

from whalebench.reports.metrics.grouping import (
    Stratum,
    adjusted_mutual_information,
    adjusted_rand_index,
    b_cubed,
    combined,
    grouping_scores,
    pair_scores,
)


def drawn(seed: int, photos: int = 30) -> tuple[list[str], list[int]]:
    rng = np.random.default_rng(seed)
    names = [f"w{place}" for place in rng.integers(0, 7, photos)]
    groups = [int(name[1:]) if rng.random() < 0.6 else int(rng.integers(0, 9)) for name in names]
    return names, groups


def slow_rand(names: list[str], groups: list[int]) -> float:
    pairs = list(combinations(range(len(names)), 2))
    both = sum(names[a] == names[b] and groups[a] == groups[b] for a, b in pairs)
    of_names = sum(names[a] == names[b] for a, b in pairs)
    of_groups = sum(groups[a] == groups[b] for a, b in pairs)
    chance = of_names * of_groups / len(pairs)
    return (both - chance) / ((of_names + of_groups) / 2 - chance)


def slow_mutual(names: list[str], groups: list[int]) -> float:
    """By the hypergeometric law of each cell, in whole numbers (Vinh, Epps and Bailey, 2010)."""
    n, sizes = len(names), (Counter(names), Counter(groups))
    cells = Counter(zip(names, groups, strict=True))
    mutual = sum(m / n * log(n * m / (sizes[0][a] * sizes[1][b])) for (a, b), m in cells.items())
    expected = 0.0
    for a in sizes[0].values():
        for b in sizes[1].values():
            for m in range(max(1, a + b - n), min(a, b) + 1):
                weight = comb(a, m) * comb(n - a, b - m) / comb(n, b)
                expected += weight * m / n * log(n * m / (a * b))
    entropy = [-sum(size / n * log(size / n) for size in of.values()) for of in sizes]
    return (mutual - expected) / (sum(entropy) / 2 - expected)


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_slow_twins(seed: int) -> None:
    names, groups = drawn(seed)
    assert adjusted_rand_index(names, groups) == pytest.approx(slow_rand(names, groups), abs=1e-12)
    assert adjusted_mutual_information(names, groups) == pytest.approx(slow_mutual(names, groups), abs=1e-9)
    pairs = list(combinations(range(len(names)), 2))
    found = [(names[a] == names[b], groups[a] == groups[b]) for a, b in pairs]
    right = sum(same and together for same, together in found)
    precision = right / sum(together for _, together in found)
    recall = right / sum(same for same, _ in found)
    wanted = (precision, recall, 2 * precision * recall / (precision + recall))
    assert tuple(pair_scores(names, groups).values()) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_b_cubed_is_a_mean_over_photos(seed: int) -> None:
    names, groups = drawn(seed)
    photos = range(len(names))
    shares: list[tuple[float, float]] = []
    for photo in photos:
        group = {other for other in photos if groups[other] == groups[photo]}
        individual = {other for other in photos if names[other] == names[photo]}
        both = len(group & individual)
        shares.append((both / len(group), both / len(individual)))
    precision, recall = np.mean(shares, axis=0)
    wanted = (precision, recall, 2 * precision * recall / (precision + recall))
    assert tuple(b_cubed(names, groups).values()) == pytest.approx(wanted, abs=1e-12)


def test_what_groups_are_called_does_not_count() -> None:
    names, groups = drawn(0)
    other = [{group: place for place, group in enumerate(set(groups))}[group] + 40 for group in groups]
    assert grouping_scores(names, groups) == pytest.approx(grouping_scores(names, other))
    same = grouping_scores(names, [sorted(set(names)).index(name) for name in names])
    assert {same[key] for key in ("ari", "ami", "pair_f1", "bcubed_f1")} == {1.0}
    assert same["groups"] == same["individuals"] == len(set(names))


def test_undefined_is_nan() -> None:
    alone = pair_scores(["ann", "bob"], [0, 1])
    assert all(map(isnan, alone.values()))
    assert isnan(pair_scores(["ann", "ann"], [0, 1])["pair_precision"])
    assert all(map(isnan, [adjusted_rand_index(["ann"], [0]), *b_cubed([], []).values()]))


def test_an_interval_of_all_photos_is_the_count_and_narrows_with_them() -> None:
    whole = combined([Stratum(10, 10, 9), Stratum(30, 30, 2)])
    assert (whole.value, whole.low, whole.high, whole.photos) == (11, 11, 11, 40)
    few, more = (combined([Stratum(100, n, n), Stratum(100, n, 0)]) for n in (10, 40))
    assert few.value == more.value == 100
    assert few.low < more.low < 100 < more.high < few.high
    assert combined([Stratum(5, 5, 5), Stratum(0, 0, 0)])[:3] == (5, 5, 5)


def exactly(size: int, first: int, n: int) -> dict[int, float]:
    """How probable it is to draw each number of first ones."""
    ways = {x: comb(first, x) * comb(size - first, n - x) for x in range(n + 1) if 0 <= n - x <= size - first}
    return {x: way / comb(size, n) for x, way in ways.items() if way}


@pytest.mark.parametrize(
    ("groups", "others"),
    [((40, 36, 20), (100, 4, 20)), ((60, 40, 15), (80, 10, 15)), ((120, 100, 40), (200, 20, 40))],
)  # fmt: skip
def test_the_interval_holds_the_truth_in_nineteen_draws_of_twenty(
    groups: tuple[int, int, int], others: tuple[int, int, int]
) -> None:
    held = mean = 0.0
    truth = groups[1] + others[1]
    for x, of_groups in exactly(*groups).items():
        for y, of_others in exactly(*others).items():
            count = combined([Stratum(groups[0], groups[2], x), Stratum(others[0], others[2], y)])
            held += of_groups * of_others * (count.low <= truth <= count.high)
            mean += of_groups * of_others * count.value
    assert mean == pytest.approx(truth)  # without bias
    assert 0.90 < held < 0.99, held
