"""Intervals cover what they say, know clusters, and pair runs; ranks are shared where nothing is certain."""

import numpy as np
import pandas as pd
import pytest

from whalebench.reports.metrics import resampling
from whalebench.reports.metrics.evaluation import evaluate_queries
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.metrics.resampling import (
    SCORE_METRICS,
    distributions,
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
