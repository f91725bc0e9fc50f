"""Intervals cover what they say, know clusters, and pair runs; ranks are shared where nothing is certain."""

import numpy as np
import pandas as pd
import pytest

from whalebench import WhalebenchError
from whalebench.reports.metrics import resampling
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.metrics.resampling import (
    SCORE_METRICS,
    distributions,
    interval,
    intervals,
    paired_difference,
    shared_ranks,
)
from whalebench.reports.metrics.summary import summarize


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


def copy_of(table, time):
    """The photos of one cluster drawn once more: other individuals, other encounters."""
    truth = table["truth"].where(table["truth"] == NEW, table["truth"] + f" {time}")
    return table.assign(truth=truth, cluster=table["cluster"] + f" {time}")


def test_the_first_number_is_the_metric_itself():
    table = queries()
    drawn = distributions([table], 50)[0]
    assert {key: values[0] for key, values in drawn.items()} == pytest.approx(summarize(table))
    assert all(len(values) == 51 for values in drawn.values())


def test_every_draw_is_the_metric_of_the_drawn_queries():
    table = queries(60, 12)
    drawn = distributions([table], 5)[0]
    _, counts = next(resampling.cluster_counts(5, table["cluster"].nunique()))
    names = sorted(set(table["cluster"]))
    for draw in range(1, 6):
        photos = [copy_of(table[table["cluster"] == name], time)
                  for name, times in zip(names, counts[draw], strict=True)
                  for time in range(int(times))]  # fmt: skip
        assert {key: values[draw] for key, values in drawn.items()} == pytest.approx(
            summarize(pd.concat(photos))
        )


def test_blocks_of_draws_end_to_end(monkeypatch):
    table = queries(60, 12)
    whole = distributions([table], 300)[0]
    monkeypatch.setattr("whalebench.reports.metrics.ranking.BLOCK_CELLS", 500)
    monkeypatch.setattr(resampling, "RESAMPLES_OF_SCORES", 100)
    for key, values in distributions([table], 300)[0].items():
        assert len(values) == (101 if key in SCORE_METRICS else 301)
        np.testing.assert_allclose(values, whole[key][: len(values)])


def test_intervals_are_the_same_on_each_call_and_whatever_the_row_order():
    table = queries()
    shuffled = table.sample(frac=1, random_state=4)
    assert intervals(table, 500) == intervals(table, 500)
    for key, ends in intervals(shuffled, 500).items():
        assert ends == pytest.approx(intervals(table, 500)[key])


def test_undefined_metrics_have_no_interval():
    known = queries(new=0.0)
    found = intervals(known.assign(average_precision_at_r=np.nan), 200)
    assert {key for key, ends in found.items() if np.isnan(ends.low) and np.isnan(ends.high)} == {
        *SCORE_METRICS, "accuracy_new", "map_at_5_new", "map_at_r", "baus", "baks_baus", "normalised_accuracy"
    }  # fmt: skip
    assert found["map_at_5"].low < summarize(known)["map_at_5"] < found["map_at_5"].high


def test_one_individual_says_nothing_about_others():
    one = queries().assign(cluster="whale")
    assert all(np.isnan(ends.low) for ends in intervals(one, 200).values())
    one_new = queries()
    one_new["cluster"] = one_new["cluster"].where(one_new["truth"] != NEW, "encounter")
    found = intervals(one_new, 200)
    assert all(
        np.isnan(found[key].low)
        for key in ("map_at_5_new", *SCORE_METRICS, "accuracy_new", "baus", "baks_baus")
    )
    assert found["map_at_5_known"].low < found["map_at_5_known"].high


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(7)
    table, truth, covered = queries(180, 45, new=0.0), 0.5, 0
    clusters = np.repeat(np.arange(45), 4)
    for _ in range(150):
        of_individual = rng.normal(0, 0.2, 45)[clusters]
        values = truth + of_individual + rng.normal(0, 0.1, 180)
        low, high = interval(distributions([precisions(table, values, clusters)], 400)[0]["map_at_5"])
        covered += low <= truth <= high
    assert 0.90 <= covered / 150 <= 0.985


def test_clusters_make_intervals_wider_where_photos_are_alike():
    clusters = np.repeat(np.arange(40), 5)
    values = np.random.default_rng(2).random(40)[clusters]  # photos of one individual: the same
    table = queries(200)
    naive = intervals(precisions(table, values, np.arange(200)), 2000)["map_at_5"]
    honest = intervals(precisions(table, values, clusters), 2000)["map_at_5"]
    assert honest.high - honest.low == pytest.approx(5**0.5 * (naive.high - naive.low), rel=0.15)


def test_pairing_finds_a_small_difference_that_intervals_hide():
    table = queries()
    values = np.random.default_rng(3).random(200)
    better, worse = precisions(table, values), precisions(table, values - 0.01)
    found = paired_difference(better, worse, resamples=500)
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01)) and found.differs
    assert intervals(worse, 500)["map_at_5"].high > intervals(better, 500)["map_at_5"].low


def test_the_difference_is_signed_and_zero_with_itself():
    good, bad = queries(skill=3.0, seed=1), queries(skill=0.5, seed=2)
    there, back = paired_difference(good, bad, resamples=500), paired_difference(bad, good, resamples=500)
    assert there.low > 0 and there.differs and back.differs and back.value == -there.value
    same = paired_difference(good, good.sample(frac=1, random_state=0), "auroc_new", resamples=500)
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0)) and not same.differs


def test_runs_on_other_queries_are_refused():
    table = queries()
    with pytest.raises(WhalebenchError, match="same split and fold"):
        paired_difference(table, table.iloc[:-1])
    other = table.copy()
    other.loc[5, "truth"] = "whale_00" if other.loc[5, "truth"] != "whale_00" else "whale_01"
    with pytest.raises(WhalebenchError, match="truth of photo_5"):
        paired_difference(table, other)


def test_rows_that_cannot_be_told_apart_share_a_rank():
    rng = np.random.default_rng(5)
    table, base = queries(), rng.random(200)
    runs = [base - 0.3, base + 0.2, base + rng.normal(0.19, 0.3, 200), base - 0.1]
    drawn = distributions([precisions(table, values) for values in runs], 1000)
    assert shared_ranks([run["map_at_5"] for run in drawn]) == [4, 1, 1, 3]


def test_a_chain_of_small_steps_does_not_join_the_ends():
    """The leader decides: C may equal B and B equal A, yet C does not share the rank of A."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (3, 2000))
    runs = [np.concatenate([[mean], mean + 0.5 * noise[row]]) for row, mean in enumerate((3.0, 2.0, 1.0))]
    assert shared_ranks(runs) == [1, 1, 3]


def test_undefined_has_no_rank():
    values, undefined = np.linspace(0, 1, 20), np.full(20, np.nan)
    assert shared_ranks([undefined, values]) == [None, 1]
    assert shared_ranks([]) == []
