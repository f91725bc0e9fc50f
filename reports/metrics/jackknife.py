"""95 % intervals of one run's metrics, and of two runs' difference, by leaving out one cluster at a time.

Photos of one individual are alike, so they stay together (column `cluster`: the individual of a known query,
the encounter of a new one). What a metric is without each cluster gives its standard error (Efron & Stein
1981), t by the effective number of clusters its quantile, and the logit its ends between 0 and 1: percentiles
of bootstrap draws are too narrow where individuals are few or a few have most of the photos.
`tests/simulation.py` measures how often the intervals hold the truth.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from whalebench import WhalebenchError
from whalebench.reports.metrics.ranking import (
    Floats,
    Integers,
    Photos,
    best_identity_correct,
    first_candidate_correct,
    new_is_candidate,
    predicted_new,
)
from whalebench.reports.metrics.summary import FALSE_ALARMS, alarms_allowed

LEVEL = 0.95
ROUNDING = 1e-12
"""How near to 0 or 1 a mean is there but for rounding."""
POSITIVE = ("log_loss", "set_size_95")
"""Metrics without an upper end; all others are between 0 and 1."""
FEW = 10
"""Below so many effective clusters intervals are too narrow, whatever the formula."""
FEW_CLUSTERS = (
    "rests on {:.0f} effective individuals: simulated intervals of so few held the truth in 92 to 99 %"
)
DETECTION = "rests on the highest {} of {} new photos: simulated intervals held the truth in 94 to 100 %"
"""Warnings of what was measured where that is not 93 to 97 %."""


class Interval(NamedTuple):
    """Ends of a 95 % interval; NaN where the metric is undefined or rests on one individual."""

    low: float
    high: float
    warning: str = ""
    """Why it may hold the truth less often than 95 times in 100; empty where it does not."""


class Difference(NamedTuple):
    """First minus second on the same queries, with its paired 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out zero, so that the two can be told apart."""
        return self.low > 0 or self.high < 0


class Deletions(NamedTuple):
    """A metric of a run, and what it is without each cluster."""

    value: float
    without: Floats
    """(clusters,), in name order."""
    weights: tuple[Floats, ...]
    """What each cluster weighs (clusters,) in each of the parts, known or new photos, that the metric has."""


def intervals(queries: pd.DataFrame, photos: Photos | None = None) -> dict[str, Interval]:
    """The 95 % interval of every metric of one run by its key, over individuals, given this training.

    `photos` are those of the table, where they are known from another run.
    """
    photos = photos or Photos(queries)
    found = {key: interval_of(key, deleted) for key, deleted in deletions(queries, photos).items()}
    detection = _Detection(queries, photos)
    return found | {key: detection.interval(share) for key, share in FALSE_ALARMS.items()}


def paired_difference(first: pd.DataFrame, second: pd.DataFrame, key: str = "map_at_5") -> Difference:
    """First minus second in one metric with its paired interval; runs on other queries are refused.

    Every metric but detection rates. It says how other individuals would have turned the difference of these
    two trainings; what other trainings would have done is for `compare` to say.
    """
    check_same_queries(first, second)
    gap = difference(deletions(first)[key], deletions(second)[key])
    return gap if key in POSITIVE else Difference(gap.value, *np.clip(gap[1:], -1.0, 1.0).tolist())


def difference(first: Deletions, second: Deletions) -> Difference:
    """First minus second of one metric of two runs on the same queries."""
    gap = Deletions(first.value - second.value, first.without - second.without, first.weights)
    error, degrees = standard_error(gap)
    half = t_quantile((1 + LEVEL) / 2, degrees) * error
    return Difference(gap.value, gap.value - half, gap.value + half)


def check_same_queries(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Raises WhalebenchError unless both runs tested the same photos, with the same truth and clusters."""
    one, other = (table.set_index("image")[["truth", "cluster"]].sort_index() for table in (first, second))
    if not one.index.equals(other.index):
        unshared = one.index.symmetric_difference(other.index)
        message = f"{len(unshared)} photos ({unshared[0]}, ...) were tested by one of two runs only"
        raise WhalebenchError(f"{message}: compare runs of the same split and fold.")
    if not one.equals(other):
        image = one.index[(one != other).any(axis=1)][0]
        raise WhalebenchError(
            f"The truth of {image} differs between two runs: compare runs of the same split."
        )


def column_deletions(queries: pd.DataFrame, column: str, codes: Integers | None = None) -> Deletions:
    """The mean of a column of a per-query table, of the photos where it is defined.

    `codes` say which cluster each photo is of, (photos,), from 0 without a gap, where that is known.
    """
    values = queries[column].to_numpy(np.float64)
    return _ratio(Photos(queries).clusters if codes is None else codes, values, np.ones(len(queries)))


def deletions(queries: pd.DataFrame, photos: Photos | None = None) -> dict[str, Deletions]:
    """Every metric of `summarize` but detection rates, by its key."""
    photos = photos or Photos(queries)
    ratios: dict[str, list[Deletions]] = {}
    for key, values, weights in _parts(queries, photos):
        ratios.setdefault(key, []).append(_ratio(photos.clusters, values, weights))
    found = {key: _mean(parts) for key, parts in ratios.items()}
    return found | {
        "baks_baus": _geometric_mean(found["baks"], found["baus"]),
        "auroc_new": _auroc(queries, photos),
    }


def interval_of(key: str, deleted: Deletions) -> Interval:
    """The interval of a metric: about its logarithm for one of POSITIVE, else about its logit."""
    error, degrees = standard_error(deleted)
    value, number = deleted.value, degrees + 1
    if not (np.isfinite(error) and np.isfinite(value)):
        return Interval(np.nan, np.nan)
    warning = FEW_CLUSTERS.format(number) if number < FEW else ""
    t = t_quantile((1 + LEVEL) / 2, degrees)
    if key in POSITIVE:
        factor = np.exp(t * error / value) if value else 1.0
        return Interval(value / factor, value * factor, warning)
    return Interval(*between_0_and_1(value, t * error, number), warning)


def between_0_and_1(value: float, half: float, number: float) -> tuple[float, float]:
    """Ends about a value with this half-width on its own scale, made of so many clusters.

    At 0 or 1 the standard error is zero. Then the other end is that at which so many clusters would still be
    all wrong, or all right, in 2.5 % of cases (Clopper & Pearson 1934).

    >>> [round(end, 3) for end in between_0_and_1(1.0, 0.0, 36.0)]
    [0.903, 1.0]
    """
    exact = ((1 - LEVEL) / 2) ** (1 / number)
    if value >= 1 - ROUNDING:
        return exact, 1.0
    if value <= ROUNDING:
        return 0.0, 1 - exact
    odds, spread = value / (1 - value), np.exp(half / (value * (1 - value)))
    return odds / (odds + spread), odds / (odds + 1 / spread)


def standard_error(deleted: Deletions) -> tuple[float, float]:
    """The jackknife's standard error of a metric, and its degrees of freedom; NaN where it has one cluster.

    Degrees are the effective number of clusters less one, and those of known and new photos go together
    after Satterthwaite.
    """
    variance = squares = 0.0
    fewest = np.inf
    for weights in deleted.weights:
        present = weights > 0
        without, number = deleted.without[present], int(present.sum())
        if number < 2:
            return np.nan, np.nan
        part = (number - 1) / number * float(np.square(without - without.mean()).sum())
        degrees = max(1.0, effective_number(weights) - 1)
        variance, squares, fewest = variance + part, squares + part**2 / degrees, min(fewest, degrees)
    return float(np.sqrt(variance)), variance**2 / squares if squares else fewest


def effective_number(weights: Floats) -> float:
    """How many equal weights say as much of their mean as these do, (sum w)^2 / sum w^2; 0 of none.

    >>> effective_number(np.array([2.0, 2.0])), effective_number(np.array([10.0, 1.0, 1.0]))
    (2.0, 1.411764705882353)
    """
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def t_quantile(share: float, degrees: float) -> float:
    """The quantile of Student's t distribution with at least one degree of freedom, to about 1e-5.

    t is sqrt(degrees) tan(u), the density of u proportional to cos(u) ** (degrees - 1).

    >>> round(t_quantile(0.975, 4.0), 3)
    2.776
    """
    return _t_quantile(share, round(min(max(1.0, degrees), 1000.0), 2))


@cache
def _angles() -> tuple[Floats, Floats]:
    """Equally spaced angles between right ones, and the cosines in the middle between each two of them."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 20_001)
    return angle, np.cos((angle[1:] + angle[:-1]) / 2)


@cache
def _t_quantile(share: float, degrees: float) -> float:
    angle, cosine = _angles()
    density = cosine ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum(density)]) / density.sum()
    return float(np.sqrt(degrees) * np.tan(np.interp(share, below, angle)))


def _parts(table: pd.DataFrame, photos: Photos) -> Iterator[tuple[str, Floats, Floats]]:
    """Metrics of `summarize` as means: key, values, weights; one that comes twice is the mean of both."""
    new, first = photos.new, first_candidate_correct(table)
    precision = table["average_precision_at_5"].to_numpy()
    called_new = np.where(new_is_candidate(table), predicted_new(table), np.nan)
    equal = np.ones(len(table))
    each_individual = 1 / np.bincount(photos.individuals)[photos.individuals]
    for key in ("top_1", "top_5", "log_loss"):
        yield key, table[key].to_numpy(), equal
    yield "coverage_95", table["covered_95"].to_numpy(), equal
    yield "set_size_95", np.where(new, np.nan, table["set_size_95"]), equal
    yield "map_at_5", precision, equal
    yield "map_at_r", table["average_precision_at_r"].to_numpy(), equal
    yield "map_at_5_known", np.where(new, np.nan, precision), equal
    yield "map_at_5_new", np.where(new, precision, np.nan), equal
    yield "accuracy_new", np.where(new, called_new, np.nan), equal
    yield "accuracy_new", np.where(new, np.nan, 1 - called_new), equal
    yield "normalised_accuracy", np.where(new, np.nan, first), equal
    yield "normalised_accuracy", np.where(new, first, np.nan), equal  # mu is a half
    yield "baks", np.where(new, np.nan, first), each_individual
    yield "baus", np.where(new, first, np.nan), each_individual


def _ratio(codes: Integers, values: Floats, weights: Floats) -> Deletions:
    """The weighted mean of the values that are defined (photos,)."""
    defined, number = np.isfinite(values), int(codes.max()) + 1
    if not defined.all():
        codes, values, weights = codes[defined], values[defined], weights[defined]
    total = np.bincount(codes, weights * values, number)
    weight = np.bincount(codes, weights, number).astype(np.float64)
    left = weight.sum() - weight
    without = np.divide(total.sum() - total, left, out=np.full(number, np.nan), where=left > 0)
    value = total.sum() / weight.sum() if weight.any() else np.nan
    return Deletions(float(value), without, (weight,))


def _mean(parts: Sequence[Deletions]) -> Deletions:
    values, without, weights = zip(*parts, strict=True)
    return Deletions(float(np.mean(values)), np.mean(without, axis=0), sum(weights, ()))


def _geometric_mean(first: Deletions, second: Deletions) -> Deletions:
    without = np.sqrt(first.without * second.without)
    return Deletions(float(np.sqrt(first.value * second.value)), without, first.weights + second.weights)


def _auroc(queries: pd.DataFrame, of: Photos) -> Deletions:
    """AUROC of *new*: each photo's wins over those of the other kind are summed by cluster."""
    new, codes, scores = of.new, of.clusters, queries["new_score"].to_numpy(np.float64)
    clusters = int(codes.max()) + 1
    photos = [np.bincount(codes[kind], minlength=clusters).astype(np.float64) for kind in (new, ~new)]
    wins = np.zeros(clusters)
    for kind, sign in ((new, 1), (~new, -1)):
        others = np.sort(sign * scores[~kind])
        below, up_to = (np.searchsorted(others, sign * scores[kind], side=side) for side in ("left", "right"))
        wins += np.bincount(codes[kind], (below + up_to) / 2, clusters)
    pairs = (photos[0].sum() - photos[0]) * (photos[1].sum() - photos[1])
    total = wins.sum() / 2
    without = np.divide(total - wins, pairs, out=np.full(clusters, np.nan), where=pairs > 0)
    every = photos[0].sum() * photos[1].sum()
    return Deletions(float(total / every) if every else np.nan, without, tuple(photos))


class _Detection:
    """Detection rates: the share of known photos that are right and above a threshold set by new ones."""

    def __init__(self, queries: pd.DataFrame, photos: Photos) -> None:
        new, codes = photos.new, photos.clusters
        best = -queries["new_score"].to_numpy(np.float64)
        self.codes, self.known = codes[~new], best[~new]
        self.correct = best_identity_correct(queries)[~new]
        self.new = np.sort(best[new])[::-1]
        self.of_new = np.bincount(codes[new]).astype(np.float64)

    def interval(self, share: float) -> Interval:
        """The known photos' part at the threshold, and the new ones' part by where the threshold could be.

        The share of all new photos that score above the threshold is known within Wilson's interval, and with
        it the threshold (Woodruff 1952). Where its end is above all photos seen, the other side stands in.
        """
        if np.count_nonzero(self.of_new) < 2 or not len(self.known):
            return Interval(np.nan, np.nan)
        photos, number = len(self.new), effective_number(self.of_new)
        alarms = alarms_allowed(share, photos)
        deleted = _ratio(self.codes, self._detected(self.new[alarms]), np.ones(len(self.known)))
        error, degrees = standard_error(deleted)
        t_known, t_new = (t_quantile((1 + LEVEL) / 2, one) for one in (degrees, number - 1))
        fewest, most = (end * photos for end in _wilson((alarms + 0.5) / photos, number, t_new))
        middle, slope = self._logit(self.new[alarms])
        of_known = t_known * error * slope
        up = self._logit(self.new[min(photos - 1, int(np.ceil(most)))])[0] - middle
        down = up if fewest < 1 else middle - self._logit(self.new[int(fewest)])[0]
        ends = middle + np.array([-np.hypot(of_known, down), np.hypot(of_known, up)])
        low, high = 1 / (1 + np.exp(-ends))
        return Interval(float(low), float(high), DETECTION.format(alarms + 1, photos))

    def _detected(self, threshold: float) -> Floats:
        detected: Floats = self.correct * (self.known > threshold)
        return detected

    def _logit(self, threshold: float) -> tuple[float, float]:
        """The logit of the rate, and its slope; kept half a photo away from 0 and 1."""
        share = (self._detected(threshold).sum() + 0.5) / (len(self.known) + 1)
        return float(np.log(share / (1 - share))), float(1 / (share * (1 - share)))


def _wilson(share: float, number: float, t: float) -> tuple[float, float]:
    """Wilson's interval of a share of so many.

    >>> [round(float(end), 3) for end in _wilson(0.5, 16.0, 2.0)]
    [0.276, 0.724]
    """
    middle, all_of_it = share + t**2 / (2 * number), 1 + t**2 / number
    half = t * np.sqrt(share * (1 - share) / number + t**2 / (4 * number**2))
    return (middle - half) / all_of_it, (middle + half) / all_of_it
