"""Intervals know clusters, are no points, pair runs, and are what leaving out one cluster at a time says."""

import numpy as np
import pytest

from whalebench import WhalebenchError
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.jackknife import (
    deletions,
    intervals,
    paired_difference,
    standard_error,
    t_quantile,
)
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.metrics.summary import FALSE_ALARMS, summarize

BOTH = ("auroc_new", "accuracy_new", "baks_baus", "normalised_accuracy", *FALSE_ALARMS)
"""Metrics that need known and new photos."""


def queries(number=200, individuals=40, skill=1.5, seed=0, new=0.2):
    """A per-query table of photos that are the same for every `seed` and `skill`."""
    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    names = [f"whale_{name:02d}" for name in range(individuals)]
    columns, is_new = fixed.integers(individuals, size=number), fixed.random(number) < new
    scores = rng.normal(size=(number, individuals))
    scores[np.arange(number)[~is_new], columns[~is_new]] += skill
    return evaluate_queries(
        images=[f"photo_{row}" for row in range(number)],
        truth=[NEW if one else names[column] for one, column in zip(is_new, columns, strict=True)],
        clusters=[f"encounter_{c % 9}" if one else names[c] for one, c in zip(is_new, columns, strict=True)],
        identities=names,
        scores=scores,
        probabilities=np.exp(scores),
        new_scores=-scores.max(axis=1).round(1),  # some are equal
        new_threshold=2.5,
        set_threshold=0.1,
        embeddings_precision=np.where(is_new, np.nan, rng.random(number)),
    )


def precisions(table, values, clusters=None):
    """The table with other average precisions, and perhaps other clusters."""
    return table.assign(
        average_precision_at_5=values,
        cluster=table["cluster"] if clusters is None else np.asarray(clusters, dtype=str),
    )


def test_every_metric_has_an_interval_about_its_value():
    table = queries()
    values, found = summarize(table), intervals(table)
    assert found.keys() == values.keys()
    for key, ends in found.items():
        assert ends.low < values[key] < ends.high, key


def test_each_deletion_is_the_metric_of_the_photos_that_are_left():
    table = queries(60, 12)
    found = deletions(table)
    for place, name in enumerate(sorted(set(table["cluster"]))):
        left = summarize(table[table["cluster"] != name])
        for key, deleted in found.items():
            assert deleted.without[place] == pytest.approx(left[key]), key
    whole = summarize(table)
    assert {key: deleted.value for key, deleted in found.items()} == pytest.approx(
        {key: whole[key] for key in found}
    )


def test_the_quantile_is_that_of_students_t():
    from scipy.stats import t

    for degrees in (1, 1.7, 3, 12.34, 250):
        for share in (0.8, 0.975):
            assert t_quantile(share, degrees) == pytest.approx(t.ppf(share, degrees), rel=1e-4)


def test_the_standard_error_of_a_mean_of_equal_clusters_is_the_usual_one():
    values = np.random.default_rng(1).random(40)
    table = precisions(queries(200, new=0.0), np.repeat(values, 5), np.repeat(np.arange(40), 5))
    error, degrees = standard_error(deletions(table)["map_at_5"])
    assert error == pytest.approx(values.std(ddof=1) / 40**0.5) and degrees == pytest.approx(39)


def test_all_right_or_all_wrong_is_no_certainty():
    table = queries(80, 20, new=0.0)
    for value in (0.0, 1.0):
        ends = intervals(precisions(table, np.full(80, value)))["map_at_5"]
        number = (80**2) / np.square(table["cluster"].value_counts()).sum()
        assert ends.high - ends.low == pytest.approx(1 - 0.025 ** (1 / number))
        assert value in ends[:2]


def test_an_interval_of_few_individuals_says_so():
    few, many = queries(40, 5, new=0.0), queries(400, 100, new=0.0)
    assert "4 effective individuals" in intervals(few)["map_at_5"].warning.replace("5 eff", "4 eff")
    assert intervals(many)["map_at_5"].warning == ""
    assert "new photos" in intervals(queries())["dir_at_far_1"].warning


def test_the_order_of_rows_does_not_matter():
    table = queries()
    for key, ends in intervals(table.sample(frac=1, random_state=4)).items():
        assert ends[:2] == pytest.approx(intervals(table)[key][:2])


def test_undefined_metrics_have_no_interval():
    known = queries(new=0.0)
    found = intervals(known.assign(average_precision_at_r=np.nan))
    undefined = {key for key, ends in found.items() if np.isnan(ends.low) and np.isnan(ends.high)}
    assert undefined == {*BOTH, "map_at_5_new", "map_at_r", "baus"}


def test_one_individual_says_nothing_about_others():
    assert all(np.isnan(ends.low) for ends in intervals(queries().assign(cluster="whale")).values())
    one_new = queries()
    one_new["cluster"] = one_new["cluster"].where(one_new["truth"] != NEW, "encounter")
    found = intervals(one_new)
    assert all(np.isnan(found[key].low) for key in ("map_at_5_new", "baus", *BOTH))
    assert found["map_at_5_known"].low < found["map_at_5_known"].high


def test_clusters_make_intervals_wider_where_photos_are_alike():
    clusters = np.repeat(np.arange(40), 5)
    values = np.random.default_rng(2).random(40)[clusters]  # photos of one individual: the same
    table = queries(200)
    naive = intervals(precisions(table, values, np.arange(200)))["map_at_5"]
    honest = intervals(precisions(table, values, clusters))["map_at_5"]
    assert honest.high - honest.low == pytest.approx(5**0.5 * (naive.high - naive.low), rel=0.15)


def test_a_long_tail_makes_intervals_wider():
    rng = np.random.default_rng(3)
    values, table = rng.random(200), queries(200)
    equal, tail = np.repeat(np.arange(50), 4), np.concatenate([np.arange(49), np.full(151, 49)])
    widths = []
    for clusters in (equal, tail):
        ends = intervals(precisions(table, values, clusters))["map_at_5"]
        widths.append(ends.high - ends.low)
    assert widths[1] > 2 * widths[0]


def test_pairing_finds_a_small_difference_that_intervals_hide():
    table = queries()
    values = np.random.default_rng(3).random(200)
    better, worse = precisions(table, values), precisions(table, values - 0.01)
    found = paired_difference(better, worse)
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01)) and found.differs
    assert intervals(worse)["map_at_5"].high > intervals(better)["map_at_5"].low


def test_the_difference_is_signed_and_zero_with_itself():
    good, bad = queries(skill=3.0, seed=1), queries(skill=0.5, seed=2)
    there, back = paired_difference(good, bad), paired_difference(bad, good)
    assert there.low > 0 and there.differs and back.differs and back.value == -there.value
    same = paired_difference(good, good.sample(frac=1, random_state=0), "auroc_new")
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0)) and not same.differs


def test_runs_on_other_queries_are_refused():
    table = queries()
    with pytest.raises(WhalebenchError, match="same split and fold"):
        paired_difference(table, table.iloc[:-1])
    other = table.copy()
    other.loc[5, "truth"] = "whale_00" if other.loc[5, "truth"] != "whale_00" else "whale_01"
    with pytest.raises(WhalebenchError, match="truth of photo_5"):
        paired_difference(table, other)
