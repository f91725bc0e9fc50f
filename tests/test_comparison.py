"""Contestants compared: means checked by hand, both sources of noise, and ranks that keep their word."""

import numpy as np
import pandas as pd
import pytest

from tests.simulation import SOFTMAX, Design, leaderboard
from whalebench.reports.metrics.comparison import SeedSpread, compare, seed_spread

KEY = "average_precision_at_5"
FOLDS = {0: 60, 1: 90, 2: 75}
"""Photos by fold: not equally many."""


def grid(level=0.0, seeds=2, folds=FOLDS, noise=0.0, seed=0, individuals=30, residual=0.1):
    """One contestant: photos are the same for every call, each training is off by `noise` as a whole."""
    rng, tables = np.random.default_rng(seed), {}
    for fold in folds:
        fixed = np.random.default_rng(fold)
        of = fixed.integers(individuals, size=FOLDS[fold])
        base = 0.5 + fixed.normal(0, 0.1, individuals)[of] + fixed.normal(0, 0.1, len(of)) + level
        tables[fold] = {}
        for run in range(seeds):
            values = base + rng.normal(0, noise) + rng.normal(0, residual, len(of))
            table = pd.DataFrame({"cluster": [f"whale {one}" for one in of], KEY: values})
            tables[fold][run] = table.sample(frac=1, random_state=run)
    return tables


def of(comparison, name):
    return next(one for one in comparison.standings if one.contestant == name)


def ranks(comparison):
    return {one.contestant: (one.rank_low, one.rank_high) for one in comparison.standings}


def test_the_value_is_the_mean_of_the_folds_and_the_spread_that_of_the_seeds():
    grids = {"low": grid(noise=0.05), "high": grid(0.1, seeds=3, noise=0.05, seed=1)}
    found = compare(grids, list(FOLDS))
    assert [one.contestant for one in found.standings] == ["high", "low"]
    spreads, degrees = [], []
    for name, tables in grids.items():
        means = [[table[KEY].mean() for table in seeds.values()] for seeds in tables.values()]
        assert of(found, name).value == pytest.approx(np.mean(means))
        assert of(found, name).seeds == (len(means[0]),) * 2
        spreads.append(np.mean(np.var(means, axis=1, ddof=1)))
        degrees.append(3 * (len(means[0]) - 1))
        assert of(found, name).seed_spread == pytest.approx(np.sqrt(spreads[-1]))
    assert found.spread.degrees == sum(degrees)
    assert found.spread.spread == pytest.approx(np.sqrt(np.average(spreads, weights=degrees)))
    assert seed_spread(grids)[:2] == pytest.approx(found.spread[:2])
    lead = found.leads["high", "low"]
    assert lead.value == pytest.approx(of(found, "high").value - of(found, "low").value)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_certainty_is_never_printed(level):
    tables = grid()
    same = {
        fold: {seed: table.assign(**{KEY: level}) for seed, table in seeds.items()}
        for fold, seeds in tables.items()
    }
    for one in compare({"same": same, "other": tables}, list(FOLDS)).standings:
        assert 0 <= one.low < one.high <= 1
        assert one.low <= one.value <= one.high


def without(tables, cluster):
    """The mean over folds of one contestant without one cluster, seeds averaged."""
    means = [
        np.mean([table.loc[table["cluster"] != cluster, KEY].mean() for table in seeds.values()])
        for seeds in tables.values()
    ]
    return np.mean(means)


@pytest.mark.parametrize(("noise", "residual"), [(0.2, 0.1), (0.0, 0.6)])
def test_the_interval_holds_photos_and_trainings(noise, residual):
    """Standard errors by plain loops: leaving out clusters, and what seeds do beyond each cluster's own."""
    tables = grid(noise=noise, residual=residual, seeds=8)
    names = [f"whale {one}" for one in range(30)]
    left = np.array([without(tables, name) for name in names])
    full = np.mean([np.mean([table[KEY].mean() for table in seeds.values()]) for seeds in tables.values()])
    of_clusters = 29 / 30 * np.square(left - full).sum()
    between = own = 0.0
    for seeds in tables.values():
        between += np.var([table[KEY].mean() for table in seeds.values()], ddof=1) / 8 / 9
        one_out = [
            [t.loc[t["cluster"] != name, KEY].mean() - t[KEY].mean() for t in seeds.values()]
            for name in names
        ]
        own += 29 / 30 * np.var(one_out, axis=1, ddof=1).sum() / 8 / 9
    found = compare({"one": tables}, list(FOLDS)).standings[0]
    assert between > of_clusters / 5  # both matter
    error = np.sqrt(of_clusters + max(0, between - own))
    assert (found.high - found.low) / 2 == pytest.approx(2.05 * error, rel=0.07)


def test_what_a_seed_does_to_all_photos_widens_the_interval_and_more_seeds_narrow_it():
    def width(noise, seeds):
        one = compare({"one": grid(noise=noise, seeds=seeds)}, list(FOLDS)).standings[0]
        return one.high - one.low

    assert width(0.2, 3) > 1.5 * width(0.0, 3)
    assert width(0.2, 12) < 0.9 * width(0.2, 3)


def test_one_seed_on_every_side_gives_an_order_and_a_sentence():
    grids = {"low": grid(seeds=1), "high": grid(0.3, seeds=1, seed=1)}
    found = compare(grids, list(FOLDS))
    assert [one.contestant for one in found.standings] == ["high", "low"]
    assert "one seed" in found.unranked and found.spread is None and np.isnan(found.detectable_lead)
    assert set(ranks(found).values()) == {(None, None)} and found.standings[0].probability_best is None
    assert not found.leads["high", "low"].told_apart and np.isnan(found.leads["high", "low"].low)
    assert found.standings[0].low < found.standings[0].value < found.standings[0].high


def test_a_pooled_spread_ranks_contestants_of_one_seed():
    grids = {"low": grid(seeds=1), "high": grid(0.3, seeds=1, seed=1)}
    known = compare(grids, list(FOLDS), pooled=SeedSpread(0.05, 8, 0.01))
    assert known.unranked == "" and ranks(known) == {"high": (1, 1), "low": (2, 2)}
    assert known.standings[0].probability_best > 0.99
    unsure = compare(grids, list(FOLDS), pooled=SeedSpread(0.5, 8, 0.01))
    assert ranks(unsure) == {"high": (1, 2), "low": (1, 2)}
    assert unsure.detectable_lead > 3 * known.detectable_lead
    one_degree = compare(grids, list(FOLDS), pooled=SeedSpread(0.05, 1, 0.01))
    assert one_degree.detectable_lead > 2 * known.detectable_lead


def test_one_of_several_seeds_tells_how_much_a_seed_does_for_all():
    grids = {
        "low": grid(seeds=1),
        "high": grid(0.5, seeds=1, seed=1),
        "several": grid(0.0, 6, seed=2, noise=0.02),
    }
    found = compare(grids, list(FOLDS))
    assert found.unranked == "" and found.leads["high", "low"].told_apart
    assert ranks(found)["high"] == (1, 1) and ranks(found)["low"] == (2, 3)


def test_a_contestant_alone_is_first_and_equal_ones_share_everything():
    assert ranks(compare({"one": grid()}, list(FOLDS))) == {"one": (1, 1)}
    same = compare({"one": grid(), "other": grid()}, list(FOLDS))
    assert ranks(same) == {"one": (1, 2), "other": (1, 2)}
    assert same.leads["one", "other"].value == 0 and not same.leads["one", "other"].told_apart


def test_a_lead_on_every_photo_without_seed_noise_is_told():
    grids = {"better": grid(0.01, residual=0.0), "worse": grid(residual=0.0)}
    lead = compare(grids, list(FOLDS)).leads["better", "worse"]
    assert lead[:3] == pytest.approx((0.01, 0.01, 0.01)) and lead.told_apart


def test_leads_are_of_every_ordered_pair():
    found = compare({name: grid(place / 5, seed=place) for place, name in enumerate("abc")}, list(FOLDS))
    assert len(found.leads) == 6 and set(found.leads) == {(a, b) for a in "abc" for b in "abc" if a != b}
    for (first, second), lead in found.leads.items():
        back = found.leads[second, first]
        assert (lead.value, lead.low, lead.high) == pytest.approx((-back.value, -back.high, -back.low))
        assert lead.low < lead.value < lead.high and lead.told_apart
    with pytest.raises(KeyError):
        found.leads["a", "a"]
    assert ranks(found) == {"c": (1, 1), "b": (2, 2), "a": (3, 3)}


def test_who_beats_one_that_beats_another_beats_that():
    noise = {"a": 0.02, "b": 0.1, "c": 0.05, "d": 0.3}
    levels = {"a": 0.4, "b": 0.2, "c": 0.0, "d": 0.1}
    grids = {name: grid(levels[name], noise=noise[name], seeds=3, seed=ord(name)) for name in noise}
    leads = compare(grids, list(FOLDS)).leads
    for first, second in leads:
        for third in set(noise) - {first, second}:
            assert leads[first, third].low >= leads[first, second].low + leads[second, third].low - 1e-12


def test_noisy_trainings_widen_their_own_leads():
    grids = {
        "a": grid(seeds=6, seed=1),
        "b": grid(seeds=6, seed=2),
        "noisy": grid(seeds=6, noise=0.3, seed=3),
    }
    widths = {pair: lead.high - lead.low for pair, lead in compare(grids, list(FOLDS)).leads.items()}
    assert widths["a", "noisy"] > 1.2 * widths["a", "b"]


def test_the_interval_of_a_pair_widens_with_every_further_contestant():
    two = {"a": grid(0.1, noise=0.05, seed=1), "b": grid(noise=0.05, seed=2)}
    many = two | {f"more {place}": grid(noise=0.05, seed=place) for place in range(3, 15)}

    def width(grids):
        lead = compare(grids, list(FOLDS), pooled=SeedSpread(0.05, 40, 0.0)).leads["a", "b"]
        return lead.high - lead.low

    assert width(many) > 1.3 * width(two)


def test_probabilities_of_being_best_sum_to_one():
    found = compare({name: grid(noise=0.05, seed=place) for place, name in enumerate("abcd")}, list(FOLDS))
    chances = [one.probability_best for one in found.standings]
    assert sum(chances) == pytest.approx(1) and chances[0] == max(chances) > 0.25


def test_an_individual_in_several_folds_is_one_individual():
    def width(rename):
        tables = grid(seeds=1, folds=[0, 1], residual=0.0)
        for fold, seeds in tables.items():
            shared = np.random.default_rng(7).random(30)
            for table in seeds.values():
                number = table["cluster"].str.removeprefix("whale ").astype(int)
                table[KEY] = shared[number]
                table["cluster"] += f" of {fold}" if rename else ""
        one = compare({"one": tables}, [0, 1]).standings[0]
        return one.high - one.low

    assert width(rename=False) == pytest.approx(2**0.5 * width(rename=True), rel=0.2)


def test_one_individual_says_nothing_about_others():
    tables = grid()
    for seeds in tables.values():
        for table in seeds.values():
            table["cluster"] = "whale"
    found = compare({"a": tables, "b": tables}, list(FOLDS))
    assert "one individual" in found.unranked and np.isnan(found.standings[0].low)


def test_few_individuals_are_warned_of():
    found = compare({"one": grid()}, list(FOLDS))
    assert 20 < found.effective_individuals < 30 and "fewer than 50" in found.warning
    assert compare({"one": grid(individuals=400)}, list(FOLDS)).warning == ""


def test_photos_without_a_value_are_left_out():
    tables = grid(seeds=1, folds=[0])
    tables[0][0].loc[:9, KEY] = np.nan
    assert compare({"one": tables}, [0]).standings[0].value == pytest.approx(tables[0][0][KEY].mean())


def test_the_same_numbers_on_each_call():
    grids = {"a": grid(0.1, noise=0.05), "b": grid(noise=0.05, seed=1)}
    one, other = compare(grids, list(FOLDS)), compare(grids, list(FOLDS))
    assert one.standings == other.standings and dict(one.leads) == dict(other.leads)


def test_seeds_of_one_method_do_not_differ_from_each_other():
    """Ten of them as ten contestants, and as two halves of five."""
    differ = 0
    for turn in range(12):
        seeds = leaderboard(np.random.default_rng(turn), Design(1, (10,), noise=(SOFTMAX,)))["method 0"][0]
        pooled = seed_spread({"all": {0: seeds}})
        alone = {str(seed): {0: {seed: table}} for seed, table in seeds.items()}
        halves = {str(half): {0: {seed: seeds[seed] for seed in range(half, 10, 2)}} for half in (0, 1)}
        for grids, spread in ((alone, pooled), (halves, None)):
            found = compare(grids, [0], pooled=spread)
            differ += any(lead.told_apart for lead in found.leads.values())
    assert differ <= 3  # of 24; 5 % are allowed
