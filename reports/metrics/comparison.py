"""Which contestant is better, and how sure that is: over test photos and over trainings.

A contestant's mean would be another one with other individuals on the photos, and with another seed of the
training: two crossed sources. What single individuals add is seen between clusters of photos (an individual,
or an encounter of a new one), and with it the part of the seed noise that is each cluster's own. What a seed
does to all clusters at once is seen between seeds only; it is estimated there, and where a contestant has few
seeds drawn towards what the benchmark's other contestants show.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from whalebench.benchmarks.core.arrays import row_blocks
from whalebench.reports.metrics.jackknife import (
    LEVEL,
    POSITIVE,
    Deletions,
    Difference,
    Interval,
    between_0_and_1,
    effective_number,
    standard_error,
    t_quantile,
)
from whalebench.reports.metrics.ranking import Floats, Integers

Grid = Mapping[int, Mapping[int, pd.DataFrame]]
"""Per-query tables of one contestant by fold and seed."""

SEED = 2019
KEY = "average_precision_at_5"
DRAWS = 2_000
FEWEST_DRAWS, MOST_CELLS = 800, 50_000_000
"""Where pairs are many fewer draws are held against each of them, so that a second is enough."""
PRIOR_DEGREES = 4
"""How many degrees of freedom the pooled seed spread counts for beside a contestant's own."""
POWER = 0.8
ROUNDING = 1e-12
"""A share of a variance that is zero but for rounding."""
FEW_INDIVIDUALS = 50
"""Below so many effective individuals a comparison says little of others."""
ONE_SEED = (
    "No ranks: every contestant was trained with one seed, and no other of this benchmark shows how much "
    "a seed changes the score; run a second seed of one of them."
)
ONE_CLUSTER = "No ranks: all photos are of one individual, which says nothing about others."


class SeedSpread(NamedTuple):
    """How much a seed changes the mean of one fold, pooled over contestants with several seeds."""

    spread: float
    """Standard deviation between seeds of one fold."""
    degrees: int
    """Degrees of freedom: seeds less one of each fold, summed."""
    own: float
    """The part of it that is each cluster's own, which is seen between clusters, too."""


class Standing(NamedTuple):
    """One contestant of a comparison."""

    contestant: str
    value: float
    """The mean over photos, then over seeds, then over folds."""
    low: float
    high: float
    """Of the 95 % interval over individuals and trainings; over individuals alone where there is no rank."""
    rank_low: int | None
    """One more than the number of contestants that are told to be better; None where there are no ranks."""
    rank_high: int | None
    """The number of contestants less those that are told to be worse."""
    probability_best: float | None
    seed_spread: float
    """Standard deviation between seeds of one fold; NaN where no fold has several."""
    seeds: tuple[int, int]
    """How many seeds a fold has, at least and at most."""


class Lead(NamedTuple):
    """First minus second, with an interval that holds for all pairs of a comparison at once."""

    value: float
    low: float
    high: float
    told_apart: bool


class Leads(Mapping[tuple[str, str], Lead]):
    """The lead of each contestant over each other one."""

    def __init__(self, names: Sequence[str], values: Floats, low: Floats) -> None:
        self._place = {name: place for place, name in enumerate(names)}
        self._values, self._low = values, low

    def __getitem__(self, pair: tuple[str, str]) -> Lead:
        first, second = (self._place[name] for name in pair)
        if first == second:
            raise KeyError(pair)
        low, high = float(self._low[first, second]), -float(self._low[second, first])
        return Lead(float(self._values[first] - self._values[second]), low, high, low > 0 or high < 0)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((one, other) for one in self._place for other in self._place if one != other)

    def __len__(self) -> int:
        return len(self._place) * (len(self._place) - 1)


@dataclass(frozen=True)
class Comparison:
    """Contestants on the same photos, and what can be said of who is better."""

    standings: tuple[Standing, ...]
    """Best first."""
    leads: Leads
    """By first and second contestant; of every pair with disjoint rank intervals the two are told apart."""
    effective_individuals: float
    """(sum n)^2 / sum n^2 over the photos n of each cluster: fewer than there are where a few dominate."""
    detectable_lead: float
    """The smallest lead of the median pair that would have been told with 80 % power; NaN without ranks."""
    spread: SeedSpread | None
    """What a contestant's own seed spread was drawn towards."""
    unranked: str
    """Why there are no ranks; empty where there are."""

    @property
    def warning(self) -> str:
        """A sentence where too few individuals, or too unequal ones, decide; else empty."""
        if self.effective_individuals >= FEW_INDIVIDUALS:
            return ""
        number = f"{self.effective_individuals:.0f}"
        return (
            f"The photos count for {number} individuals; fewer than {FEW_INDIVIDUALS} say little of others."
        )


def compare(
    grids: Mapping[str, Grid], folds: Sequence[int], key: str = KEY, pooled: SeedSpread | None = None
) -> Comparison:
    """Standings and leads of contestants that all have these folds, on the same photos fold by fold.

    `key` is a column of the per-query tables; photos where it is NaN are left out. `pooled` is what the
    contestants of the benchmark show of a seed; without it these alone do. The draws are seeded: the same
    numbers on each call.
    """
    contestants = _contestants(grids, folds, key)
    pooled = pooled or _pool(fold for one in contestants for fold in one.folds)
    photos = _photos(grids, folds)
    joint = _Joint(contestants, pooled, effective_number(photos))
    unranked = _why_unranked(contestants, pooled, len(photos))
    critical = np.nan if unranked else joint.critical()
    low, best = joint.lowest_leads(critical), joint.best()
    if key not in POSITIVE:  # no share is ahead of another by more than one
        low = np.maximum(low, -1.0)
    standings = [
        Standing(
            one.name,
            one.value,
            *joint.interval(place, key)[:2],
            None if unranked else 1 + int((low[:, place] > 0).sum()),
            None if unranked else len(contestants) - int((low[place] > 0).sum()),
            None if unranked else float(best[place]),
            one.seed_spread,
            one.seeds,
        )
        for place, one in enumerate(contestants)
    ]
    return Comparison(
        standings=tuple(standings),
        leads=Leads([one.name for one in contestants], joint.values, low),
        effective_individuals=joint.individuals,
        detectable_lead=joint.detectable(critical),
        spread=pooled,
        unranked=unranked,
    )


def seed_spread(grids: Mapping[str, Grid], key: str = KEY) -> SeedSpread | None:
    """What the contestants with several seeds of one fold show together; None where none has."""
    several = [list(seeds.values()) for grid in grids.values() for seeds in grid.values() if len(seeds) > 1]
    return _pool(_fold(tables, key, _Clusters(tables[:1])) for tables in several)


def leak_inflation(
    twin: Grid, strict: Grid, pooled: SeedSpread | None = None, key: str = KEY
) -> Difference | None:
    """The score on a random twin less that on the strict split, over the folds of both; None where none is.

    The test photos are others, but of the same individuals, as many of each. So the difference is jackknifed
    over individuals, each left out of both at once, which gives its 95 % interval. What a seed does to all of
    them at once is added, as far as several seeds, of `pooled` or of these two, show it.
    """
    folds = sorted(twin.keys() & strict.keys())
    if not folds:
        return None
    grids = {"twin": twin, "strict": strict}
    tables = [table for grid in grids.values() for fold in folds for table in grid[fold].values()]
    clusters = _Clusters(tables)
    sides = [
        _Contestant(name, tuple(_fold(list(grid[fold].values()), key, clusters) for fold in folds))
        for name, grid in grids.items()
    ]
    changes = sides[0].changes - sides[1].changes
    gap = sides[0].value - sides[1].value
    error, degrees = standard_error(Deletions(gap, gap - changes, (_counts(clusters, tables),)))
    if not np.isfinite(error):
        return Difference(gap, np.nan, np.nan)
    seeds, own, freedom = np.array([side.seed_variance(pooled or seed_spread(grids)) for side in sides]).T
    of_seeds = np.maximum(0.0, seeds - own)
    squares = error**4 / degrees + float((of_seeds**2 / freedom).sum())
    variance = error**2 + float(of_seeds.sum())
    half = t_quantile((1 + LEVEL) / 2, variance**2 / squares if squares else degrees) * np.sqrt(variance)
    return Difference(gap, *np.clip([gap - half, gap + half], -1.0, 1.0).tolist())


def _counts(clusters: "_Clusters", tables: Iterable[pd.DataFrame]) -> Floats:
    """How many photos each cluster has in the tables together, (clusters,)."""
    counts = [np.bincount(clusters.codes(table), minlength=len(clusters)) for table in tables]
    photos: Floats = np.sum(counts, axis=0, dtype=np.float64)
    return photos


def _why_unranked(contestants: Sequence["_Contestant"], pooled: SeedSpread | None, clusters: int) -> str:
    if len(contestants) < 2:
        return ""
    return ONE_CLUSTER if clusters < 2 else ONE_SEED if pooled is None else ""


def _photos(grids: Mapping[str, Grid], folds: Sequence[int]) -> Floats:
    """How many photos of all folds each cluster has."""
    first = next(iter(grids.values()))
    clusters = pd.concat([next(iter(first[fold].values()))["cluster"] for fold in folds])
    photos: Floats = clusters.value_counts().to_numpy(np.float64)
    return photos


class _Fold(NamedTuple):
    """The trainings of one contestant on one fold."""

    value: float
    """The mean over photos and seeds."""
    changes: Floats
    """By how much the mean over seeds is above what it is without a cluster (clusters,)."""
    seeds: int
    spread: float
    """Variance between seeds of the fold's mean; NaN of one seed."""
    own: float
    """The part of that variance which is each cluster's own, and so in `changes`."""


class _Clusters:
    """The clusters of all folds, and which of them each photo is of."""

    def __init__(self, tables: Iterable[pd.DataFrame]) -> None:
        self._index = pd.Index(pd.unique(pd.concat([table["cluster"] for table in tables])))
        self._codes: dict[int, tuple[pd.api.extensions.ExtensionArray, Integers]] = {}

    def __len__(self) -> int:
        return len(self._index)

    def codes(self, table: pd.DataFrame) -> Integers:
        """The place of each photo's cluster (photos,); most tables have the photos of the one before."""
        clusters = table["cluster"].array
        before = self._codes.get(len(table))
        if before is None or not clusters.equals(before[0]):
            before = clusters, self._index.get_indexer(pd.Index(table["cluster"])).astype(np.int64)
            self._codes[len(table)] = before
        return before[1]


def _fold(tables: Sequence[pd.DataFrame], key: str, clusters: _Clusters) -> _Fold:
    sums, weights = np.empty((len(clusters), len(tables))), np.zeros(len(clusters))
    for seed, table in enumerate(tables):
        codes, values = clusters.codes(table), table[key].to_numpy(np.float64)
        defined = np.isfinite(values)
        number = max(1, int(defined.sum()))
        weights = np.bincount(codes[defined], minlength=len(clusters)) / number
        sums[:, seed] = np.bincount(codes[defined], values[defined], len(clusters)) / number
    means = sums.sum(axis=0) if weights.any() else np.full(len(tables), np.nan)
    left = np.where(weights < 1, 1 - weights, np.inf)  # of a fold of a single cluster nothing is known
    changes = (sums - weights[:, None] * means) / left[:, None]
    several = len(tables) > 1
    return _Fold(
        value=float(means.mean()),
        changes=changes.mean(axis=1),
        seeds=len(tables),
        spread=float(means.var(ddof=1)) if several else np.nan,
        own=_jackknifed(len(clusters)) * float(changes.var(axis=1, ddof=1).sum()) if several else np.nan,
    )


def _jackknifed(clusters: int) -> float:
    """What the sum of squared changes is multiplied with, to be a variance."""
    return (clusters - 1) / clusters


@dataclass(frozen=True)
class _Contestant:
    """A contestant over all folds of a comparison."""

    name: str
    folds: tuple[_Fold, ...]

    @property
    def value(self) -> float:
        return float(np.mean([fold.value for fold in self.folds]))

    @property
    def changes(self) -> Floats:
        """Of the mean over folds, (clusters,)."""
        changes: Floats = np.mean([fold.changes for fold in self.folds], axis=0)
        return changes

    @property
    def degrees(self) -> int:
        """How many degrees of freedom its own seeds give."""
        return sum(fold.seeds - 1 for fold in self.folds)

    @property
    def seed_spread(self) -> float:
        pooled = _pool(self.folds)
        return pooled.spread if pooled else np.nan

    @property
    def seeds(self) -> tuple[int, int]:
        numbers = [fold.seeds for fold in self.folds]
        return min(numbers), max(numbers)

    def seed_variance(self, pooled: SeedSpread | None) -> tuple[float, float, int]:
        """Variance of its mean between trainings, the part of it seen between clusters, and degrees.

        The own estimate is moderated with the pooled one, as in limma (Smyth 2004).
        """
        degrees = self.degrees + _prior(pooled)
        if not degrees:
            return 0.0, 0.0, 1
        several = [fold for fold in self.folds if fold.seeds > 1]
        own = sum((fold.seeds - 1) * fold.spread for fold in several)
        spread, own_pool = (pooled.spread**2, pooled.own**2) if pooled else (0.0, 0.0)
        moderated = (own + _prior(pooled) * spread) / degrees
        part = sum((own_pool if fold.seeds == 1 else fold.own) / fold.seeds for fold in self.folds)
        number = len(self.folds) ** 2
        return moderated * sum(1 / fold.seeds for fold in self.folds) / number, part / number, degrees


def _prior(pooled: SeedSpread | None) -> int:
    return min(PRIOR_DEGREES, pooled.degrees) if pooled else 0


def _pool(folds: Iterable[_Fold]) -> SeedSpread | None:
    several = [fold for fold in folds if fold.seeds > 1]
    if not several:
        return None
    degrees = [fold.seeds - 1 for fold in several]
    total = np.average([fold.spread for fold in several], weights=degrees)
    own = np.average([fold.own for fold in several], weights=degrees)
    return SeedSpread(float(np.sqrt(total)), sum(degrees), float(np.sqrt(own)))


def _contestants(grids: Mapping[str, Grid], folds: Sequence[int], key: str) -> list[_Contestant]:
    """All of them, best first; equal ones and those without a value in the order given."""
    first = next(iter(grids.values()))
    clusters = _Clusters(next(iter(first[fold].values())) for fold in folds)
    contestants = [
        _Contestant(name, tuple(_fold(list(grid[fold].values()), key, clusters) for fold in folds))
        for name, grid in grids.items()
    ]
    return sorted(contestants, key=lambda one: -np.nan_to_num(one.value, nan=-np.inf))


class _Joint:
    """What all contestants' means could be, drawn together: with other individuals and other trainings.

    A draw draws the variances, too, about their estimates (inverse chi-squared by their degrees of freedom):
    the distribution of Behrens and Fisher, whose intervals err to the careful side where degrees are few.
    """

    def __init__(
        self, contestants: Sequence[_Contestant], pooled: SeedSpread | None, individuals: float
    ) -> None:
        self.values = np.array([one.value for one in contestants])
        self.clusters = len(contestants[0].changes)
        self.individuals = individuals
        changes = np.stack([one.changes for one in contestants], axis=1)
        changes *= np.sqrt(_jackknifed(len(changes)))
        seeds, own, degrees = np.array([one.seed_variance(pooled) for one in contestants]).T
        self.of_clusters, self.of_seeds = changes.T @ changes, np.maximum(0, seeds - own)
        rng = np.random.default_rng(SEED)
        blocks = row_blocks(DRAWS, len(changes))  # all draws at once are 1.6 GB of 100,000 clusters
        of_clusters = np.concatenate(
            [rng.normal(size=(block.stop - block.start, len(changes))) @ changes for block in blocks]
        )
        freedom = max(1.0, individuals - 1)
        of_clusters /= np.sqrt(np.maximum(_squares(rng, freedom, 1) / freedom, ROUNDING))
        # What is pooled is off by the same for all.
        squares = _squares(rng, np.array([one.degrees for one in contestants]), len(contestants))
        squares = squares + _squares(rng, _prior(pooled), 1)
        drawn = seeds / np.maximum(squares / degrees, ROUNDING)
        of_seeds = rng.normal(size=drawn.shape) * np.sqrt(np.maximum(0, drawn - own))
        self.noise = of_clusters + of_seeds
        """By how much the mean of each is off (draws, contestants)."""

    def best(self) -> Floats:
        """Share of the draws in which each contestant is the best, (contestants,)."""
        winners = (np.nan_to_num(self.values, nan=-np.inf) + self.noise).argmax(axis=1)
        return np.bincount(winners, minlength=len(self.values)) / len(winners)

    def interval(self, place: int, key: str) -> Interval:
        """The 95 % interval of one contestant's mean; NaN where all photos are of one individual."""
        value, half = float(self.values[place]), float(np.quantile(np.abs(self.noise[:, place]), LEVEL))
        if self.clusters < 2 or np.isnan(value):
            return Interval(np.nan, np.nan)
        if key in POSITIVE:
            return Interval(max(0.0, value - half), value + half)
        return Interval(*between_0_and_1(value, half, self.individuals))

    def errors(self) -> Floats:
        """Standard errors of all leads, (contestants, contestants)."""
        variances = np.diag(self.of_clusters)
        paired = variances[:, None] + variances - 2 * self.of_clusters
        paired[paired < ROUNDING * variances.max()] = 0
        paired += self.of_seeds[:, None] + self.of_seeds
        np.fill_diagonal(paired, 0)
        return np.sqrt(paired)

    def critical(self) -> float:
        """How many standard errors the largest of all leads is off by in 95 % of the draws (max-T)."""
        pairs = max(1, len(self.values) * (len(self.values) - 1) // 2)
        draws = min(DRAWS, max(FEWEST_DRAWS, MOST_CELLS // pairs))
        noise, largest = np.ascontiguousarray(self.noise[:draws].T), np.zeros(draws)
        for place, error in enumerate(self.errors()):
            after = place + 1 + np.flatnonzero(error[place + 1 :])
            if len(after):
                off = noise[after] - noise[place]
                np.abs(off, out=off)
                off *= 1 / error[after, None]
                np.maximum(largest, off.max(axis=0), out=largest)
        return float(np.quantile(largest, LEVEL))

    def lowest_leads(self, critical: float) -> Floats:
        """Lower ends of the simultaneous intervals of first minus second (contestants, contestants).

        Who leads a second that leads a third leads that by at least the sum: standard errors of differences
        obey the triangle inequality.
        """
        low: Floats = self.values[:, None] - self.values - critical * self.errors()
        return low

    def detectable(self, critical: float) -> float:
        """The lead of the median pair that is told apart with 80 % power."""
        if len(self.values) < 2:
            return np.nan
        median = float(np.median(self.errors()[np.triu_indices(len(self.values), 1)]))
        return (critical + t_quantile(POWER, self.individuals - 1)) * median


def _squares(rng: np.random.Generator, degrees: float | Floats, columns: int) -> Floats:
    """Draws of a sum of so many squares of normal numbers, (draws, columns); 0 of none."""
    drawn: Floats = rng.chisquare(np.maximum(degrees, 1), (DRAWS, columns)) * (np.asarray(degrees) > 0)
    return drawn
