"""Photos grouped without names: one group an individual, by how probably two photos show the same one.

The probability of a pair is a logistic of the cosine of its embeddings, fitted on pairs of valid photos from
different encounters. Groups are joined by average linkage: the two with the largest mean probability first,
as long as that is at least a threshold, which is chosen on valid by the mean of ARI and AMI. Nothing here
needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.machine import free_memory
from whalebench.benchmarks.running.folds import Answers
from whalebench.reports.metrics.grouping import (
    adjusted_mutual_information,
    adjusted_rand_index,
    grouping_scores,
)

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

MOST_PHOTOS = 1_000
"""Photos of a part that are grouped for the record; the time grows with their square."""
THRESHOLDS = 31
"""How many thresholds are tried on valid, spread over the steps at which its groups are joined."""
BINS = 2_000
"""Into how many bins cosines fall before the logistic is fitted."""
CERTAIN = 1e-9
"""The least distance of two photos that no person has called the same: what is said comes first."""
SCRATCH = 3 * 8
"""Bytes a pair while groups are made."""


@dataclass(frozen=True)
class PairModel:
    """How probably two photos show one individual, and from which probability on they are one group."""

    slope: float
    intercept: float
    """The logit of the probability is slope * cosine + intercept."""
    threshold: float = 0.5
    """Two groups are joined while the mean probability of the pairs between them is at least this."""

    def probability(self, cosines: NDArray[Any]) -> Floats:
        """That pairs with these cosines show one individual each, in any shape."""
        from scipy.special import expit

        return np.asarray(expit(self.slope * np.asarray(cosines, np.float64) + self.intercept))

    def tree(
        self,
        embeddings: NDArray[Any],
        same: Sequence[Places] = (),
        different: Sequence[tuple[Places, Places]] = (),
    ) -> Floats:
        """What average linkage joins step by step, as scipy's `linkage` gives it; of two photos or more.

        Photos of one of `same` are joined before all others, and no photo of the one of a pair in `different`
        (places of the first's photos, of the second's) meets one of the other at a probability above zero.
        Raises WhalebenchError for more photos than there is memory for.
        """
        from scipy.cluster.hierarchy import linkage

        distances = _distances(self, embeddings)
        photos, at = len(embeddings), _condensed(len(embeddings))
        for places in same:
            first, second = np.triu_indices(len(places), 1)
            distances[at(places[first], places[second])] = 0
        for ours, theirs in different:
            # So far that no mean over two groups that hold such a pair can be below 1.
            distances[at(np.repeat(ours, len(theirs)), np.tile(theirs, len(ours)))] = photos**2
        return np.asarray(linkage(distances, "average"))

    def groups(
        self,
        embeddings: NDArray[Any],
        same: Sequence[Places] = (),
        different: Sequence[tuple[Places, Places]] = (),
    ) -> Places:
        """The group of each photo (photos,), from 0: the largest first, of equal ones by their first photo.

        `same` and `different` are as in `tree`, and hold whatever the embeddings say.
        """
        if len(embeddings) < 2:
            return np.zeros(len(embeddings), np.int64)
        return cut(self.tree(embeddings, same, different), self.threshold)


def cut(tree: Floats, threshold: float) -> Places:
    """The groups of a tree at a threshold, numbered as in `PairModel.groups`."""
    from scipy.cluster.hierarchy import fcluster

    _, first, group, photos = np.unique(
        fcluster(tree, 1 - threshold, "distance"), return_index=True, return_inverse=True, return_counts=True
    )
    number = np.empty(len(first), np.int64)
    number[np.lexsort((first, -photos))] = np.arange(len(first))
    return np.asarray(number[group])


def _distances(model: PairModel, embeddings: NDArray[Any]) -> Floats:
    """One minus the probability of each pair of photos, those of the first photo first."""
    photos, unit = len(embeddings), normalise(embeddings)
    pairs, free = photos * (photos - 1) // 2, free_memory()
    if free is not None and pairs * SCRATCH > free:
        raise WhalebenchError(
            f"{photos:,} photos are {pairs:,} pairs, which take {pairs * SCRATCH / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free: group them in parts, as by season."
        )
    distances, end = np.empty(pairs), 0
    for row in range(photos - 1):
        start, end = end, end + photos - row - 1
        distances[start:end] = 1 - model.probability(unit[row + 1 :] @ unit[row])
    return np.maximum(distances, CERTAIN, out=distances)


def _condensed(photos: int) -> Any:
    """Where the pairs of places stand among all pairs of so many photos, those of the first photo first."""

    def at(one: Places, other: Places) -> Places:
        low, high = np.minimum(one, other), np.maximum(one, other)
        return np.asarray(low * (2 * photos - low - 1) // 2 + high - low - 1)

    return at


@dataclass(frozen=True)
class Named:
    """Photos of a part that name their individual: those of others say nothing of who is the same."""

    embeddings: NDArray[np.float32]
    identities: tuple[str, ...]
    groups: tuple[str, ...]
    """The encounter, or the photos of one picture, of each."""

    @classmethod
    def of(cls, embeddings: NDArray[np.float32], answers: Answers) -> Named:
        """Those of a part; of more than MOST_PHOTOS whole encounters, drawn by a fixed seed."""
        named = np.array([bool(identity) for identity in answers.identities], bool)
        rows = np.flatnonzero(named)
        if len(rows) > MOST_PHOTOS:
            encounters, place = np.unique(np.array(answers.groups)[rows], return_inverse=True)
            order = np.random.default_rng(0).permutation(len(encounters))[place]
            rows = np.sort(rows[np.argsort(order, kind="stable")[:MOST_PHOTOS]])
        identities, groups = (tuple(of[row] for row in rows) for of in (answers.identities, answers.groups))
        return cls(embeddings[rows], identities, groups)


def choose_on_valid(valid: Named) -> PairModel | None:
    """The logistic and the threshold that suit the photos of valid.

    None where they show no two photos of one individual, or of two. Photos of one encounter look alike for
    other reasons, so their pairs do not count, unless individuals have no others there.
    """
    individual, encounter = (
        np.unique(of, return_inverse=True)[1] if of else np.zeros(0)
        for of in (valid.identities, valid.groups)
    )
    first, second = np.triu_indices(len(individual), 1)
    same, apart = individual[first] == individual[second], encounter[first] != encounter[second]
    counted = apart if (same & apart).any() else np.ones(len(same), bool)
    if not (same & counted).any() or same[counted].all():
        return None
    unit = normalise(valid.embeddings)
    model = fit_logistic((unit @ unit.T)[first, second][counted], same[counted])
    tree = model.tree(valid.embeddings)
    thresholds = _thresholds(tree)
    worth = [_worth(valid.identities, cut(tree, threshold)) for threshold in thresholds]
    best = [place for place, value in enumerate(worth) if value >= max(worth) - 1e-12]
    return replace(model, threshold=thresholds[best[len(best) // 2]])


def fit_logistic(cosines: NDArray[Any], same: NDArray[np.bool_]) -> PairModel:
    """The logistic under which pairs that are the same, or not, have the least log loss; it is never certain.

    As if one pair more of either kind had been the other way (Platt, 1999), so it is finite where cosines
    part the two kinds.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    middle, spread = float(cosines.mean()), float(cosines.std()) or 1.0
    ends = (float(cosines.min()) - spread / BINS, float(cosines.max()) + spread / BINS)
    right, wrong = (np.histogram(cosines[of], BINS, ends)[0] for of in (same, ~same))
    edges = np.linspace(*ends, BINS + 1)
    x, pairs = ((edges[1:] + edges[:-1]) / 2 - middle) / spread, right + wrong
    target = right * (right.sum() + 1) / (right.sum() + 2) + wrong / (wrong.sum() + 2)

    def loss(weights: Floats) -> tuple[float, Floats]:
        logit = weights[0] * x + weights[1]
        off = (pairs * expit(logit) - target) / pairs.sum()
        value = (pairs * np.logaddexp(0, logit) - target * logit).sum() / pairs.sum()
        return float(value), np.array([off @ x, off.sum()])

    slope, intercept = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return PairModel(float(slope / spread), float(intercept - slope * middle / spread))


def _thresholds(tree: Floats) -> list[float]:
    """Between the steps of a tree, and beyond both ends, falling: from no two photos together to all."""
    steps = np.unique(tree[:, 2])
    between = np.concatenate([[steps[0] / 2], (steps[1:] + steps[:-1]) / 2, [(steps[-1] + 1) / 2]])
    places = np.unique(np.linspace(0, len(between) - 1, THRESHOLDS).round().astype(int))
    return [float(1 - height) for height in between[places]]


def _worth(identities: Sequence[str], groups: Places) -> float:
    of_groups = groups.tolist()
    found = adjusted_rand_index(identities, of_groups), adjusted_mutual_information(identities, of_groups)
    return sum(found) / 2


def evaluate_grouping(
    embeddings: Mapping[str, NDArray[np.float32]], answers: Mapping[str, Answers]
) -> dict[str, Any]:
    """How well the photos of test are grouped without names, by what is chosen on valid.

    The scores of `grouping_scores` of test, the same of valid under `valid`, and `slope`, `intercept` and
    `threshold` of `PairModel`. Empty without embeddings; a `reason` alone where valid has nothing to choose
    by.
    """
    if not embeddings:
        return {}
    valid, test = (Named.of(embeddings[part], answers[part]) for part in ("valid", "test"))
    model = choose_on_valid(valid)
    if model is None:
        return {"reason": "valid shows no two photos of one individual, or one individual only"}
    scored = [
        grouping_scores(photos.identities, model.groups(photos.embeddings).tolist())
        for photos in (test, valid)
    ]
    return scored[0] | {"valid": scored[1]} | vars(model)
