"""Cluster bootstrap over individuals: 95 % percentile intervals, paired differences and shared ranks.

Photos of one individual are alike, so they are drawn together (column `cluster`: the individual of a known
query, the encounter of a new one), the same draws for all runs of the same queries. Most metrics are made of
sums by cluster, hence a draw is a row of counts and all draws are one matrix product. AUROC of *new* and
detection rates need every query on each draw (`_ScoreDraws`).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from whalebench.reports.metrics.jackknife import (
    Difference,
    Interval,
    check_same_queries,
    intervals,
    paired_difference,
)
from whalebench.reports.metrics.ranking import (
    Floats,
    Integers,
    best_identity_correct,
    first_candidate_correct,
    is_new,
    new_is_candidate,
    predicted_new,
    row_blocks,
)
from whalebench.reports.metrics.summary import FALSE_ALARMS, alarms_allowed

__all__ = ["Difference", "Interval", "check_same_queries", "intervals", "paired_difference"]
RESAMPLES = 10_000
RESAMPLES_OF_SCORES = 2_000
"""Draws for `SCORE_METRICS`, which take longer."""
SCORE_METRICS = ("auroc_new", *FALSE_ALARMS)
"""Metrics that need every query on each draw, not sums by cluster."""
SEED = 2019
QUANTILES = (0.025, 0.975)
Distributions = dict[str, Floats]
"""By metric an array: at 0 the value of the run itself, from 1 on those of the bootstrap's draws."""


def interval(distribution: Floats) -> Interval:
    """The middle 95 % of the draws (all but the first number), those undefined left out.

    >>> interval(np.array([0.5, *np.linspace(0, 1, 101)]))
    Interval(low=0.025, high=0.975, warning='')
    """
    draws = distribution[1:]
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return Interval(np.nan, np.nan)
    low, high = np.quantile(defined, QUANTILES)
    return Interval(float(low), float(high))


def difference(first: Floats, second: Floats) -> Difference:
    """First minus second, given one metric of both on the same draws (see `distributions`)."""
    gap = first - second
    return Difference(float(gap[0]), *interval(gap)[:2])


def shared_ranks(distributions: Sequence[Floats]) -> list[int | None]:
    """Rank of each row, the highest value first; None where it is undefined.

    A row shares the rank of its group's leader when the paired interval of leader minus row holds zero, else
    it leads a group of its own, ranked by its place. Equal values keep the order given.
    """
    ranks: list[int | None] = [None] * len(distributions)
    defined = [row for row, values in enumerate(distributions) if np.isfinite(values[0])]
    leader, rank = -1, 0
    for place, row in enumerate(sorted(defined, key=lambda row: -distributions[row][0]), start=1):
        if leader < 0 or difference(distributions[leader], distributions[row]).differs:
            leader, rank = row, place
        ranks[row] = rank
    return ranks


def distributions(tables: Sequence[pd.DataFrame], resamples: int = RESAMPLES) -> list[Distributions]:
    """For each run and metric: first its value, then its values on draws of clusters; NaN where undefined.

    All tables must be of the same queries. The draws depend on the number of clusters only, so each call
    gives the same numbers, and runs resampled in separate calls are paired too. A metric that rests on a
    single cluster has a value but no draws: one individual says nothing about others.
    """
    for table in tables[1:]:
        check_same_queries(tables[0], table)
    runs = [_Resampled(table) for table in tables]
    blocks: list[list[Distributions]] = [[] for _ in runs]
    for start, counts in cluster_counts(resamples, runs[0].clusters):
        few = counts[: max(0, RESAMPLES_OF_SCORES + 1 - start)]
        for run, values in zip(runs, blocks, strict=True):
            values.append(run.means(counts) | run.scores.values(few))
    return [run.joined(values) for run, values in zip(runs, blocks, strict=True)]


def mean_draws(
    values: Floats, weights: Floats, clusters: Sequence[str] | pd.Series, resamples: int = RESAMPLES
) -> Floats:
    """Weighted means (1 + resamples, columns) of values (photos, columns): of all photos, then on draws.

    Weights and clusters are (photos,), nothing is NaN; photos of one cluster are drawn together, all columns
    on the same draws. The draws are NaN where there is a single cluster.
    """
    codes, names = pd.factorize(np.asarray(clusters), sort=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, codes, weights[:, None] * values)
    total = np.bincount(codes, weights=weights)
    blocks = [
        (counts @ sums) / (counts @ total)[:, None] for _, counts in cluster_counts(resamples, len(names))
    ]
    drawn: Floats = np.concatenate(blocks)
    if len(names) == 1:
        drawn[1:] = np.nan
    return drawn


def cluster_counts(resamples: int, clusters: int) -> Iterator[tuple[int, Floats]]:
    """How often each cluster is drawn: the first row and the counts (rows, clusters) of each block of draws.

    Row 0 is the data, every cluster once.
    """
    rng = np.random.default_rng(SEED)
    for rows in row_blocks(resamples + 1, clusters):
        height = rows.stop - rows.start
        drawn = rng.integers(clusters, size=(height, clusters)) + clusters * np.arange(height)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=height * clusters).reshape(height, clusters)
        if rows.start == 0:
            counts[0] = 1
        yield rows.start, counts.astype(np.float64)


class _Resampled:
    """What the draws need of one run: sums by cluster, and the queries by their score of *new*."""

    def __init__(self, table: pd.DataFrame) -> None:
        codes = pd.factorize(table["cluster"], sort=True)[0].astype(np.int64)
        self.clusters = int(codes.max()) + 1
        self.scores = _ScoreDraws(table, codes)
        self.keys, values, weights = zip(*_parts(table), strict=True)
        sums = [_sums(codes, *part, self.clusters) for part in zip(values, weights, strict=True)]
        self.sums = np.concatenate(sums, axis=1)

    def means(self, counts: Floats) -> Distributions:
        """All metrics that are made of sums for each row of counts, NaN where nothing defined was drawn."""
        drawn = counts @ self.sums
        total, number = drawn[:, ::2], drawn[:, 1::2]
        ratios = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
        keys = np.asarray(self.keys)
        values = {key: ratios[:, keys == key].mean(axis=1) for key in self.keys}
        return values | {"baks_baus": np.sqrt(values["baks"] * values["baus"])}

    def joined(self, blocks: list[Distributions]) -> Distributions:
        """The blocks end to end, the draws of a metric that rests on a single cluster made NaN."""
        rests_on = dict.fromkeys(self.keys, self.clusters)
        for key, clusters in zip(self.keys, (self.sums[:, 1::2] > 0).sum(axis=0), strict=True):
            rests_on[key] = min(rests_on[key], int(clusters))
        rests_on["baks_baus"] = min(rests_on["baks"], rests_on["baus"])
        rests_on |= dict.fromkeys(SCORE_METRICS, self.scores.clusters())
        joined = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
        for key, values in joined.items():
            if rests_on[key] < 2:
                values[1:] = np.nan
        return joined


def _parts(table: pd.DataFrame) -> Iterator[tuple[str, Floats, Floats]]:
    """Metrics of `summarize` as means: key, values, weights; one that comes twice is the mean of both."""
    new, first = is_new(table), first_candidate_correct(table)
    precision = table["average_precision_at_5"]
    called_new = np.where(new_is_candidate(table), predicted_new(table), np.nan)
    names = table["cluster"].where(new, table["truth"])
    equal = np.ones(len(table))
    each_individual = 1 / names.groupby([new, names]).transform("size").to_numpy(np.float64)
    for key in ("top_1", "top_5", "log_loss"):
        yield key, table[key].to_numpy(), equal
    yield "coverage_95", table["covered_95"].to_numpy(), equal
    yield "set_size_95", np.where(new, np.nan, table["set_size_95"]), equal
    yield "map_at_5", precision.to_numpy(), equal
    yield "map_at_r", table["average_precision_at_r"].to_numpy(), equal
    yield "map_at_5_known", np.where(new, np.nan, precision), equal
    yield "map_at_5_new", np.where(new, precision, np.nan), equal
    yield "accuracy_new", np.where(new, called_new, np.nan), equal
    yield "accuracy_new", np.where(new, np.nan, 1 - called_new), equal
    yield "normalised_accuracy", np.where(new, np.nan, first), equal
    yield "normalised_accuracy", np.where(new, first, np.nan), equal  # mu is a half
    yield "baks", np.where(new, np.nan, first), each_individual
    yield "baus", np.where(new, first, np.nan), each_individual


def _sums(codes: Integers, values: Floats, weights: Floats, clusters: int) -> Floats:
    """Weighted sum and sum of weights of the defined values of each cluster, (clusters, 2)."""
    defined = np.isfinite(values)
    codes, weights = codes[defined], weights[defined]
    total = np.bincount(codes, weights=weights * values[defined], minlength=clusters)
    return np.stack([total, np.bincount(codes, weights=weights, minlength=clusters)], axis=1)


class _ScoreDraws:
    """Known and *new* queries of a run in the order of their score of *new*, with their clusters."""

    def __init__(self, table: pd.DataFrame, codes: Integers) -> None:
        new, scores = is_new(table), table["new_score"].to_numpy()
        order = np.argsort(scores, kind="stable")
        known, unknown = order[~new[order]], order[new[order]]
        self.known, self.new = codes[known], codes[unknown]
        self.correct = best_identity_correct(table)[known]
        # How many known queries score below a new one, and how many no higher.
        self.below, self.up_to = (
            np.searchsorted(scores[known], scores[unknown], side=side) for side in ("left", "right")
        )

    def clusters(self) -> int:
        """How many clusters the kind of queries rests on that has fewer."""
        return min(len(set(self.known)), len(set(self.new)))

    def values(self, counts: Floats) -> Distributions:
        """Each metric for each row of counts (how often each cluster is drawn); NaN without both kinds."""
        values = {key: np.full(len(counts), np.nan) for key in SCORE_METRICS}
        if not self.clusters():
            return values
        for rows in row_blocks(len(counts), 8 * (len(self.known) + len(self.new))):
            weights = np.ascontiguousarray(counts[rows].T)  # whole rows are gathered below
            known, new = weights[self.known], weights[self.new]
            both = (known.sum(axis=0) > 0) & (new.sum(axis=0) > 0)
            for key, drawn in (self._auroc(known, new) | self._detection(known, new)).items():
                values[key][rows] = np.where(both, drawn, np.nan)
        return values

    def _auroc(self, known: Floats, new: Floats) -> Distributions:
        """AUROC by weights (known queries, draws) and (new queries, draws)."""
        passed = _cumulative(known)
        wins = np.einsum("ij,ij->j", new, passed[self.below]) + np.einsum("ij,ij->j", new, passed[self.up_to])
        return {"auroc_new": wins / 2 / np.maximum(new.sum(axis=0) * passed[-1], 1)}

    def _detection(self, known: Floats, new: Floats) -> Distributions:
        """Detection rates by the same weights; *new* photos that raise an alarm come first in the order."""
        alarms, detected = _cumulative(new)[1:], _cumulative(self.correct[:, None] * known)
        number, rates = np.maximum(known.sum(axis=0), 1), {}
        for key, share in FALSE_ALARMS.items():
            allowed = np.array([alarms_allowed(share, photos) for photos in alarms[-1]])
            one_too_many = np.minimum((alarms <= allowed).sum(axis=0), len(alarms) - 1)
            rates[key] = detected[self.below[one_too_many], np.arange(len(number))] / number
        return rates


def _cumulative(rows: Floats) -> Floats:
    """Sums of the first 0, 1, 2, ... rows; numpy's cumsum along rows takes several times as long."""
    sums = np.zeros((len(rows) + 1, rows.shape[1]))
    for place, row in enumerate(rows):
        np.add(sums[place], row, out=sums[place + 1])
    return sums
