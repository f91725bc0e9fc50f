"""A run's scores looked at closely: by what is known of its photos, and by what they ask of a reviewer.

Both from the per-query table alone. A reviewer looks at the candidates of a photo, best first, until the
individual is among them or patience ends; a match that is missed makes a known animal look new.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import row_blocks
from whalebench.reports.metrics.jackknife import column_deletions, interval_of
from whalebench.reports.metrics.ranking import (
    CANDIDATES,
    NEW,
    Floats,
    Integers,
    Photos,
    is_new,
    mean,
)
from whalebench.reports.metrics.sides import Sides, sides

TRAIN_PHOTOS = {"1": (1, 1), "2–4": (2, 4), "5–9": (5, 9), "≥10": (10, inf)}
"""Buckets of known photos by photos of their individual in train: from, to."""
METRICS = {"map_at_5": "average_precision_at_5", "top_1": "top_1", "log_loss": "log_loss"}
"""What is said of each bucket: the metric, and the column that it is the mean of."""
SEED, RESAMPLES = 2019, 2_000
"""Of the draws of individuals behind the interval of the effort: what a share of matches takes is no mean."""
SHARES = (0.9, 0.95, 0.99)
"""The shares of matches that a reviewer may want to find."""


class Bucket(NamedTuple):
    """Scores of the test photos that have something in common."""

    by: str
    """What they were divided by, a column of the per-query table."""
    name: str
    photos: int
    individuals: int
    """What is resampled: individuals, or encounters of *new* photos."""
    metrics: dict[str, float]
    """Each of `METRICS` with `<key>_low` and `<key>_high`, NaN where undefined."""


def buckets(queries: pd.DataFrame, photos: Photos | None = None) -> list[Bucket]:
    """The buckets of a run that have photos: by photos in train, viewpoint, species, what train has seen.

    A photo of which a trait is not known is in no bucket of it; older runs, which know none, have no buckets.
    `photos` are those of the table, where they are known from another run.
    """
    columns, clusters = queries[[*METRICS.values()]], (photos or Photos(queries)).clusters
    return [_bucket(by, name, columns[inside], clusters[inside]) for by, name, inside in _divisions(queries)]


def _divisions(queries: pd.DataFrame) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """What is divided by, the name of a bucket, and which photos are in it, at least one."""
    photos = queries["train_photos"].to_numpy(np.float64)
    inside = {name: (photos >= low) & (photos <= high) for name, (low, high) in TRAIN_PHOTOS.items()}
    yield from (("train_photos", name, photos) for name, photos in inside.items() if photos.any())
    for by in ("viewpoint", "species"):
        given = np.array([name if isinstance(name, str) else "" for name in queries[by]])
        yield from ((by, name, given == name) for name in sorted({*given} - {""}))
    for by in ("encounter_seen", "side_seen"):
        seen = queries[by].to_numpy(np.float64)
        inside = {"seen": seen == 1, "not seen": seen == 0}
        yield from ((by, name, photos) for name, photos in inside.items() if photos.any())


def _bucket(by: str, name: str, queries: pd.DataFrame, clusters: Integers) -> Bucket:
    names, codes = np.unique(clusters, return_inverse=True)
    metrics = dict[str, float]()
    for key, column in METRICS.items():
        ends = interval_of(key, column_deletions(queries, column, codes))
        metrics |= {key: mean(queries[column]), f"{key}_low": ends.low, f"{key}_high": ends.high}
    return Bucket(by, name, len(queries), len(names), metrics)


class Effort(NamedTuple):
    """What it takes to find a share of the matches, and what the rest does to an estimate of abundance."""

    share: float
    candidates: int
    """How many a reviewer must look at, at most, a photo."""
    low: float
    high: float
    """Ends of the 95 % interval of `candidates` over individuals; NaN with a single one."""
    found: float
    """The share of matches found by that, at least `share`."""
    abundance_bias: float
    """See `abundance_bias`."""


def effort(queries: pd.DataFrame) -> list[Effort]:
    """By share of matches, how many candidates must be looked at; empty where no photo is known.

    A match is a known photo, each weighing the same. Ends are percentiles over draws of individuals.
    """
    ranks, clusters = identity_ranks(queries), queries["cluster"][~is_new(queries)]
    if not len(ranks):
        return []
    places, place = np.unique(ranks, return_inverse=True)
    codes, names = pd.factorize(clusters, sort=True)
    cells = np.bincount(codes * len(places) + place, minlength=len(names) * len(places))
    photos = cells.reshape(len(names), len(places)).astype(np.float64)
    draws = _draws(len(names))
    needed: dict[float, list[Floats]] = {share: [] for share in SHARES}
    for rows in row_blocks(len(draws), len(names)):
        found = np.cumsum(draws[rows].astype(np.float64) @ photos, axis=1)
        for share, drawn in needed.items():
            enough = found >= share * found[:, -1:] - 1e-9  # a whole number but for rounding is whole
            drawn.append(places[enough.argmax(axis=1)])
    return [_effort(ranks, share, np.concatenate(drawn), len(names)) for share, drawn in needed.items()]


@lru_cache(maxsize=1)  # the same for all runs of a fold, and as large as all of these together
def _draws(clusters: int) -> NDArray[np.uint16]:
    """How often each cluster is drawn, (1 + draws, clusters); in the first row once."""
    rng, shares = np.random.default_rng(SEED), np.full(clusters, 1 / clusters)
    draws = np.ones((1 + RESAMPLES, clusters), np.uint16)
    for rows in row_blocks(RESAMPLES, clusters):
        draws[1:][rows] = rng.multinomial(clusters, shares, size=rows.stop - rows.start)
    return draws


def _effort(ranks: Floats, share: float, drawn: Floats, individuals: int) -> Effort:
    candidates, found = int(drawn[0]), found_within(ranks, int(drawn[0]))
    low, high = np.quantile(drawn[1:], (0.025, 0.975)) if individuals > 1 else (nan, nan)
    return Effort(share, candidates, float(low), float(high), found, abundance_bias(1 - found))


def effort_curve(queries: pd.DataFrame) -> dict[str, list[float]]:
    """The share of matches `found` among so many `candidates`: lists of one length, where it rises."""
    candidates, photos = np.unique(identity_ranks(queries), return_counts=True)
    found = np.cumsum(photos) / max(1, photos.sum())
    return {"candidates": candidates.tolist(), "found": found.tolist()}


def identity_ranks(queries: pd.DataFrame) -> Floats:
    """The rank of each known photo's truth among individuals, (known photos,), *new* left out.

    Where both the truth and *new* stand beyond the fifth candidate it is not known which comes first; then
    the rank is that among all candidates, one too high at most. Half a rank, of tied individuals, is rounded
    up.
    """
    names = [f"candidate_{place}" for place in range(1, CANDIDATES + 1)]
    candidates = queries.reindex(columns=names).to_numpy()  # a table may lack some
    place_of_new = np.where((candidates == NEW).any(axis=1), (candidates == NEW).argmax(axis=1) + 1, inf)
    rank, known = queries["rank"].to_numpy(np.float64), ~is_new(queries)
    ranks: Floats = np.ceil(rank - (place_of_new < rank))[known]
    return ranks


def found_within(ranks: Floats, candidates: int) -> float:
    """The share of matches among so many candidates, of ranks (matches,).

    >>> found_within(np.array([1.0, 1.0, 3.0, 40.0]), 3)
    0.75
    """
    return float((ranks <= candidates).mean())


def abundance_bias(missed: float) -> float:
    """By which share an estimate of abundance is too high where this share of matches is missed.

    Lincoln and Petersen: of n1 animals met first and n2 later, m met twice, there are n1 * n2 / m. A missed
    match is a known animal taken for a new one, so that m (1 - missed) are counted, and the estimate is
    1 / (1 - missed) of what it should be. That holds for two occasions, a closed population, one photo an
    animal and occasion, no wrong match, and matches missed whoever the animal is. Several photos of an animal
    make it less; more occasions make it more: in the simulations of Patton et al. (2025, Conservation
    Biology, e14436) two percent more missed matches made the estimate five percent higher.

    >>> round(abundance_bias(0.1), 3), abundance_bias(1.0)
    (0.111, inf)
    """
    return missed / (1 - missed) if missed < 1 else inf


class Breakdown(NamedTuple):
    """All that is said here of one run."""

    buckets: Sequence[Bucket]
    effort: Sequence[Effort]
    curve: Mapping[str, Sequence[float]]
    """See `effort_curve`."""
    sides: Sequence[Sides] = ()
    """One, or none where photos cannot be compared by side."""

    def document(self) -> dict[str, Any]:
        """As JSON prints it: `buckets`, `effort`, `sides` and `effort_curve`."""
        names = ("buckets", "effort", "sides")
        lists = {name: [one._asdict() for one in getattr(self, name)] for name in names}
        return lists | {"effort_curve": self.curve}


def break_down(queries: pd.DataFrame, photos: Photos | None = None) -> Breakdown:
    """The breakdown of a per-query table with all its columns.

    `photos` are those of the table, where they are known from another run.
    """
    return Breakdown(buckets(queries, photos), effort(queries), effort_curve(queries), sides(queries))
