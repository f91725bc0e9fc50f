"""The small form of the simulation (`make bench` runs the whole): intervals and ranks do what they say."""

import numpy as np
import pytest

from tests.simulation import (
    ARCFACE,
    SOFTMAX,
    Design,
    comparisons,
    coverage,
    false_difference,
    lead_coverage,
    untold,
)


@pytest.mark.parametrize("tail", [False, True])
def test_intervals_of_one_run_hold_the_truth(tail):
    found = coverage(40, tail, 80)
    for key, (_, share, _) in found.items():
        assert share >= 0.87, key  # 0.95 less three standard errors
    assert found["map_at_5"][2] < 0.45


@pytest.mark.parametrize("design", [Design(8, (2,)), Design(8, (3, 1, 1, 1), noise=(SOFTMAX, ARCFACE))])
def test_equal_methods_are_not_told_apart(design):
    found = comparisons(design, 40)
    assert np.mean([false_difference(one) for one in found]) <= 0.1
    assert not [pair for one in found for pair in untold(one)]
    assert np.mean([one.spread.spread for one in found]) == pytest.approx(0.055, abs=0.015)


def test_unequal_methods_are_told_apart_and_their_leads_hold_the_truth():
    found = comparisons(Design(3, (2,), folds=5, skill=(0.0, 0.0, 1.0)), 30)
    held, told = lead_coverage(found)
    assert held >= 0.83 and told == pytest.approx(2 / 3, abs=0.05)
    assert not [pair for one in found for pair in untold(one)]
