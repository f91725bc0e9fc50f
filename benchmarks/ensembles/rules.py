"""The rules by which members become one, by name.

The product of the members' probabilities, each to a power of its own that is found on valid.

A logarithmic opinion pool (Genest & Zidek, 1986; Heskes, 1998): where members agree it is surer than any of
them, as a mean never is, and it forgets a member whose power is near 0.

Embeddings of members side by side, and the nearest photo of the gallery (Happywhale, 26th: nine).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.ensembles.feature_stacking import CLASSIFIERS, stack_features
from whalebench.benchmarks.ensembles.fusion import (
    Floats,
    Mixture,
    Scores,
    blocks,
    fit_weights,
    log_probabilities,
    log_softmax,
    mean_scores,
    mixed_log_loss,
    own_log_probabilities,
    vote_scores,
)
from whalebench.benchmarks.ensembles.members import Combined, Embeddings, Ground, Member, Side, side_of
from whalebench.benchmarks.ensembles.options import NO_OPTIONS, Options
from whalebench.benchmarks.ensembles.pairs import Pairs
from whalebench.benchmarks.ensembles.stacking import LEARNERS, Candidates, stack
from whalebench.reports.metrics.evaluation import means_by_threshold

MOST = 2_000
"""Photos of valid, about, that powers are found on: a few numbers need no more."""
Rows = NDArray[np.int64]


def product_scores(scores: Sequence[Scores], temperatures: Sequence[float], powers: Floats) -> Scores:
    """Log probabilities (photos, identities) of the product, made to be one in all.

    `powers` are (members,), or (photos, members) where each photo has its own.
    """
    found: Scores = np.empty(scores[0].shape, np.float32)
    by_photo = np.broadcast_to(powers, (len(found), len(scores)))
    for rows in blocks(len(found), found.shape[1]):
        total = np.zeros(found[rows].shape)
        for place, (one, temperature) in enumerate(zip(scores, temperatures, strict=True)):
            total += by_photo[rows, place, None] * log_probabilities(one[rows], temperature)
        found[rows] = log_softmax(total)
    return found


def pool(members: Sequence[Member], ground: Ground, seed: int) -> Combined:
    """The product with the powers that make the truth of known valid photos most likely.

    Valid's scores are by powers found without the photo, and without its individual. Where valid has too few
    known photos for that all powers are one over the number of members.
    """
    mixture = Mixture(members, product_scores)
    equal = np.full(len(members), 1 / len(members))
    splits, known = ground.splits(seed), np.flatnonzero(ground.own >= 0)
    if not splits:
        return Combined(mixture.valid(equal), mixture.test(equal), {"powers": equal.tolist()})
    evidence = Evidence(members, known[:: max(1, len(known) // MOST)], ground.own)
    aside = np.empty((len(ground.own), len(members)))
    for fit, rest in splits:
        aside[rest] = evidence.powers(fit)
    powers = evidence.powers(known)
    return Combined(
        valid=mixture.valid(aside),
        test=mixture.test(powers),
        chosen={"powers": powers.tolist()},
        train_log_loss=evidence.log_loss(powers),
        out_of_fold_log_loss=evidence.log_loss(aside[evidence.rows]),
        learned={"powers": powers},
    )


class Evidence:
    """What the members say of some known valid photos, and whose these are."""

    def __init__(self, members: Sequence[Member], rows: Rows, own: Rows) -> None:
        """`own` is the right column of each valid photo, and `rows` those that are looked at."""
        self.rows, self.own = rows, own[rows]
        self.logs = np.stack(
            [log_probabilities(one.valid[rows], one.temperature).astype(np.float32) for one in members]
        )

    def powers(self, fit: Rows) -> Floats:
        """The powers (members,), above 0, under which the truths of these valid photos are most likely.

        Beforehand each is taken to be within a factor of e of one over the number of members (a normal
        distribution of its logarithm), so that few photos move them little.
        """
        from scipy.optimize import minimize

        chosen = np.flatnonzero(np.isin(self.rows, fit))
        start = np.full(len(self.logs), -np.log(len(self.logs)))

        def cost(logarithms: Floats) -> tuple[float, Floats]:
            powers = np.exp(logarithms)
            loss, slope = self._loss_and_slope(powers, chosen)
            away = logarithms - start
            return loss + float(away @ away) / 2, slope * powers + away

        found = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 1e-9})
        powers: Floats = np.exp(found.x)
        return powers

    def log_loss(self, powers: Floats) -> float:
        """Mean log loss of the photos under powers (members,) or (photos, members)."""
        rows = np.arange(len(self.rows))
        return self._loss_and_slope(powers, rows)[0] / len(rows)

    def _loss_and_slope(self, powers: Floats, chosen: Rows) -> tuple[float, Floats]:
        """Summed log loss of the photos at some places, and its derivatives by each power (members,)."""
        loss, slope = 0.0, np.zeros(len(self.logs))
        by_photo = np.broadcast_to(powers, (len(self.rows), len(self.logs)))
        for part in blocks(len(chosen), self.logs.shape[2]):
            rows = chosen[part]
            logs, own = self.logs[:, rows].astype(np.float64), self.own[rows, None]
            mixed = log_softmax(np.einsum("pm,mpi->pi", by_photo[rows], logs))
            loss -= float(np.take_along_axis(mixed, own, 1).sum())
            right = np.take_along_axis(logs, np.broadcast_to(own, (len(logs), *own.shape)), 2).sum(
                axis=(1, 2)
            )
            slope += np.einsum("pi,mpi->m", np.exp(mixed), logs) - right
        return loss, slope


FLOOR = -1.0
"""The lowest cosine: of an individual without a photo in the gallery."""


def nearest_scores(members: Sequence[Member], ground: Ground, weights: Floats) -> tuple[Scores, Scores]:
    """Scores (photos, identities) of valid and test: the cosine to each individual's nearest photo.

    Each member's embeddings have length 1, so the cosine of those side by side is the mean of the members'
    cosines; a weight (members,) lengthens a member's by its root.
    """
    sides = [_side(member, ground) for member in members]
    galleries, labels = [side.gallery for side in sides], ground.gallery_labels
    valid, test = ([side.valid for side in sides], [side.test for side in sides])
    return (
        _nearest(valid, galleries, labels, weights, len(ground.identities)),
        _nearest(test, galleries, labels, weights, len(ground.identities)),
    )


def _nearest(
    queries: Sequence[Embeddings],
    galleries: Sequence[Embeddings],
    labels: NDArray[np.int64],
    weights: Floats,
    identities: int,
) -> Scores:
    """Scores (photos, identities), in blocks of photos, so that memory does not grow with the gallery."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    found = np.full((len(queries[0]), identities), FLOOR, np.float32)
    sorted_galleries = [gallery[order] for gallery in galleries]
    for rows in blocks(len(found), len(labels)):
        cosines = np.zeros((len(found[rows]), len(labels)), np.float32)
        for query, gallery, weight in zip(queries, sorted_galleries, weights, strict=True):
            cosines += np.float32(weight) * (query[rows] @ gallery.T)
        found[rows, present] = np.maximum.reduceat(cosines, starts, axis=1)
    return found


def _side(member: Member, ground: Ground) -> Side:
    side = side_of(member, ground)
    if side is None:
        raise WhalebenchError(
            f"The run {member.name} keeps no embeddings of its gallery and of test to put beside the others' "
            f"({member.named.record.method}): leave it out, or use --rule mean."
        )
    return side


WEIGHTED = ("mean", "product", "vote", "knn")
"""Rules that take weights."""
MIXES = {"mean": mean_scores, "product": product_scores, "vote": vote_scores}


def combine(
    rule: str,
    members: Sequence[Member],
    ground: Ground,
    given: Floats | None,
    seed: int,
    options: Options = NO_OPTIONS,
    progress: Progress = SILENT,
) -> Combined:
    """The members' scores by that rule; `given` weights (members,) are taken as they are.

    Without them `mean` and `product` choose their own on valid, and the others weigh all members the same.
    """
    if rule == "pairs":
        return stack(Pairs(members, ground, options, progress), ground, LEARNERS["lightgbm"], seed)
    if rule in LEARNERS:
        return stack(Candidates(members), ground, LEARNERS[rule], seed)
    if rule in CLASSIFIERS:
        mean = _mean(members, ground, seed)
        return stack_features(members, ground, mean, CLASSIFIERS[rule], seed, options.pca)
    if rule == "mean" and given is None and len(members) > 1:
        return _mean(members, ground, seed)
    if rule == "product" and given is None and len(members) > 1:
        return pool(members, ground, seed)
    weights = np.full(len(members), 1 / len(members)) if given is None else given
    if rule == "knn":
        valid, test = nearest_scores(members, ground, weights)
    else:
        mixed = Mixture(members, MIXES[rule])
        valid, test = mixed.valid(weights), mixed.test(weights)
    return Combined(valid, test, {"weights": weights.tolist()})


def _mean(members: Sequence[Member], ground: Ground, seed: int) -> Combined:
    """The mean with weights by log loss on valid; equal ones, unless those are better on photos set aside.

    Better is a lower log loss and no lower MAP@5. Then valid's scores are by weights found without it.
    """
    mixed = Mixture(members, mean_scores)
    equal = np.full(len(members), 1 / len(members))
    plain = mixed.valid(equal)
    splits, known = ground.splits(seed), ground.own >= 0
    if not splits:
        return Combined(plain, mixed.test(equal), {"weights": equal.tolist(), "equal_weights": True})
    own = own_log_probabilities(members, ground.own)
    aside = np.empty((len(known), len(members)))
    for fit, rest in splits:
        aside[rest] = fit_weights(own[fit[known[fit]]])
    weights = fit_weights(own[known])
    losses = [float(mixed_log_loss(own, each)[known].mean()) for each in (weights, aside, equal)]
    fitted = mixed.valid(aside)
    better = losses[1] < losses[2] and _map_at_5(fitted, ground) >= _map_at_5(plain, ground)
    chosen = weights if better else equal
    return Combined(
        valid=fitted if better else plain,
        test=mixed.test(chosen),
        chosen={"weights": chosen.tolist(), "equal_weights": not better},
        train_log_loss=losses[0],
        out_of_fold_log_loss=losses[1],
        learned={"weights": chosen},
    )


def _map_at_5(scores: Scores, ground: Ground) -> float:
    """On the known photos of valid."""
    found = means_by_threshold(
        truth=ground.valid.truth, identities=ground.identities, scores=scores, new_thresholds=[None]
    )
    return found["map_at_5_known"][0]


def given_weights(text: str | None, rule: str, members: int) -> Floats | None:
    """The weights (members,) as typed, 0.5,0.5 or 2,1, made to be one in all; None where none are given."""
    if text is None:
        return None
    if rule not in WEIGHTED:
        raise WhalebenchError(f"--rule {rule} learns its own weights from valid: leave --weights out.")
    try:
        weights = np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise WhalebenchError(f"--weights {text} are no numbers: give one a run, as 0.5,0.5.") from error
    if len(weights) != members:
        raise WhalebenchError(f"--weights {text} are {len(weights)} for {members} runs: give one a run.")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise WhalebenchError(f"--weights {text} cannot be: none may be below 0, and one must be above.")
    found: Floats = weights / weights.sum()
    return found
