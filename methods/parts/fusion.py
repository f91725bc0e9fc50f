"""Scores of several methods made one: mean, product, vote, nearest photo, and what each member counts.

`whalebench run ensemble`, `whalebench ensemble` and `pseudo` all fuse by these formulas; each finds its own
temperatures and weights, and a vote within one run has no energies. Scores are (photos, identities), higher
is more likely; a member's probabilities are the softmax of its scores over its temperature. Without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from whalebench.benchmarks.core.arrays import normalise, row_blocks, top_columns

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]
Embeddings = NDArray[np.float32]
Labels = NDArray[np.int64]
Rows = NDArray[np.int64]
Shares = tuple[float, ...]
"""How much each member counts, of sum 1."""
Rule = Callable[[Sequence[Scores], Sequence[float], Floats], Scores]
"""Fuses the scores of members, given their temperatures and weights."""

VOTES = 20
"""Candidates that are voted for."""
TIE = 1e-3
"""What something between 0 and 1 counts beside votes: it decides between equal ones only."""
QUARTERS = 4
"""Shares that valid chooses from are multiples of one of so many."""
PRIOR = 1.0
"""Photos that each member is taken to have got right beforehand, so that few photos move weights little."""
ROUNDS = 2_000
"""Of expectation-maximisation, which stops earlier where the weights stand still."""
LOWEST_COSINE = -1.0
"""The score of an individual without a photo in the gallery."""
BAG, INNER_GALLERY = "bag_{}", "gallery_of_inner_fold"
"""What stands before the names of the parts of a bag, by its number from 1; and that of its parts which took
in the bag's own inner fold after the bag had answered it."""
JOINT_GALLERY = "joint_gallery"
"""The part that says of all bags' galleries that they have the known photos of train, in train's order: they
were put so when all bags had answered."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What was said of photos of train by the network that had not learned from them."""

    rows: Rows
    """Their places in train, rising; those from which every network learned are not among them."""
    bags: Rows
    """(rows,) which of the networks said it, from 0."""
    scores: Scores
    """(rows, identities)."""
    embeddings: Embeddings | None
    """(rows, dimensions), of length 1; None of a method that has none."""


def log_probabilities(scores: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Log softmax (photos, identities) of the scores over the temperature; nothing underflows."""
    return np.asarray(log_softmax(scores.astype(np.float64) / temperature, axis=-1))


def mean_scores(scores: Sequence[Scores], temperatures: Sequence[float], weights: Floats) -> Scores:
    """Log of the weighted mean of the members' probabilities (a linear opinion pool).

    `weights` are (members,), or (photos, members) where each photo has its own; one in all.
    """
    fused: Scores = np.empty(scores[0].shape, np.float32)
    by_photo = np.broadcast_to(weights, (len(fused), len(scores)))
    for rows in row_blocks(*fused.shape):
        total = np.full(fused[rows].shape, -np.inf)
        for place, (one, temperature) in enumerate(zip(scores, temperatures, strict=True)):
            weight = by_photo[rows, place, None]
            if weight.any():
                with np.errstate(divide="ignore"):  # a weight of zero counts as -inf
                    np.logaddexp(total, np.log(weight) + log_probabilities(one[rows], temperature), out=total)
        fused[rows] = total
    return fused


def product_scores(scores: Sequence[Scores], temperatures: Sequence[float], weights: Floats) -> Scores:
    """Log of the product of the members' probabilities, each to the power of its weight, made one in all.

    A logarithmic opinion pool (Genest & Zidek, 1986; Heskes, 1998): where members agree it is surer than any
    of them, as a mean never is, and it forgets a member whose weight is near 0. `weights` are as those of
    `mean_scores`, but need not be one in all.
    """
    fused: Scores = np.empty(scores[0].shape, np.float32)
    by_photo = np.broadcast_to(weights, (len(fused), len(scores)))
    for rows in row_blocks(*fused.shape):
        total = np.zeros(fused[rows].shape)
        for place, (one, temperature) in enumerate(zip(scores, temperatures, strict=True)):
            total += by_photo[rows, place, None] * log_probabilities(one[rows], temperature)
        fused[rows] = log_probabilities(total)
    return fused


def vote_scores(scores: Sequence[Scores], temperatures: Sequence[float], weights: Floats) -> Scores:
    """Weighted sum of 1 / rank over the members' first candidates; weights are (members,).

    Equal votes, also those for nobody, are told apart by the mean probability. (Humpback 2019,
    third place; TGS Salt 2018, fourth place.)
    """
    fused: Scores = np.empty(scores[0].shape, np.float32)
    for rows in row_blocks(*fused.shape):
        total = np.zeros(fused[rows].shape)
        for one, temperature, weight in zip(scores, temperatures, weights, strict=True):
            probabilities = np.exp(log_probabilities(one[rows], temperature))
            total += weight * (votes(one[rows]) + TIE * probabilities)
        fused[rows] = total
    return fused


def votes(scores: NDArray[Any]) -> Floats:
    """1 / rank of each photo's first 20 candidates, 0 of all others, (photos, identities) as the scores.

    Of equally good candidates the first column comes first.
    """
    return reciprocal_ranks(top_columns(scores, VOTES), scores.shape[1])


def reciprocal_ranks(best: Labels, identities: int) -> Floats:
    """1 / rank (photos, identities) of the columns (photos, candidates), best first, and 0 of all others."""
    ranked = np.zeros((len(best), identities))
    np.put_along_axis(ranked, best, np.broadcast_to(1 / np.arange(1, best.shape[1] + 1), best.shape), 1)
    return ranked


def voted(scores: Sequence[Scores]) -> Scores:
    """Scores (photos, identities) by rank voting, of those of several trainings of one method.

    Votes put the individuals of a photo in order, equal ones by the mean score. How sure it is that it is
    anyone at all, by which *new* is told, votes do not say: the best score of a photo is its best mean score.
    """
    mean = np.mean(scores, axis=0, dtype=np.float64)
    lowest, highest = mean.min(axis=1, keepdims=True), mean.max(axis=1, keepdims=True)
    shares = (mean - lowest) / np.maximum(highest - lowest, 1e-12)
    ordered = np.mean([votes(one) for one in scores], axis=0) + TIE * shares
    level: Scores = (ordered - ordered.max(axis=1, keepdims=True) + highest).astype(np.float32)
    return level


SCORE_RULES: dict[str, Rule] = {"mean": mean_scores, "product": product_scores, "vote": vote_scores}
"""The rules that fuse scores, by name; `knn` fuses embeddings."""


@dataclass(frozen=True, eq=False)
class ScoreFusion:
    """A rule that fuses members, and what it has to know of them from valid.

    Probabilities forget how much like anyone known a photo is: those of a new one are one in all, too. So the
    members' energies, log of the sum of exp(score / temperature) (Liu et al. 2020), are added to all fused
    scores of a photo. That changes no order of individuals, only when *new* comes before them.
    """

    rule: Rule
    temperatures: Sequence[float]
    energy_mean: Floats
    """(members,) of the known and new photos of valid."""
    energy_spread: Floats
    """(members,) above 0."""

    @classmethod
    def of_valid(cls, rule: Rule, valid: Sequence[Scores], temperatures: Sequence[float]) -> Self:
        """The fusion of members with these scores of valid."""
        each = energies(valid, temperatures)
        return cls(rule, temperatures, each.mean(axis=0), np.maximum(each.std(axis=0), 1e-9))

    def fuse(self, scores: Sequence[Scores], weights: Floats) -> Scores:
        """Fused scores of photos, given each member's; weights as of the rule."""
        fused = self.rule(scores, self.temperatures, weights)
        fused += self.energy_score(energies(scores, self.temperatures), weights).astype(np.float32)[:, None]
        return fused

    def energy_score(self, energies: Floats, weights: Floats) -> Floats:
        """(photos,) the weighted mean of the members' energies (photos, members), each in the same unit.

        The unit is the spread that a member's energies have on valid, times the mean spread: what is made of
        equal members is what each of them says.
        """
        shares = weights / weights.sum(axis=-1, keepdims=True)
        mean = ((energies - self.energy_mean) / self.energy_spread * shares).sum(axis=1)
        score: Floats = mean * (self.energy_spread * shares).sum(axis=-1)
        return score


def energies(scores: Sequence[Scores], temperatures: Sequence[float]) -> Floats:
    """(photos, members) log of the sum of exp(score / temperature)."""
    energy = np.empty((len(scores[0]), len(scores)))
    for place, (one, temperature) in enumerate(zip(scores, temperatures, strict=True)):
        for rows in row_blocks(*one.shape):
            energy[rows, place] = logsumexp(one[rows].astype(np.float64) / temperature, axis=1)
    return energy


def average_scores(scores: Sequence[Scores], counted: NDArray[np.bool_] | None = None) -> Scores:
    """The average of raw scores on one scale, as those of several trainings of one method.

    Where `counted` (members, photos) is given, a photo's scores are those of its counted members alone.
    """
    every = np.stack(scores)
    among = np.ones((len(every), 1, 1), np.bool_) if counted is None else counted[:, :, None]
    return np.asarray(np.where(among, every, 0).sum(axis=0) / among.sum(axis=0), np.float32)


def side_by_side(embeddings: Sequence[Embeddings], shares: Sequence[float] | None = None) -> Embeddings:
    """Embeddings (photos, dimensions) of length 1 whose cosines are the means of the members'.

    The mean is weighted by the shares where these are given.
    """
    weights = [1.0] * len(embeddings) if shares is None else shares
    lengthened = [
        normalise(one) * np.float32(np.sqrt(weight)) for one, weight in zip(embeddings, weights, strict=True)
    ]
    return normalise(np.hstack(lengthened))


def nearest_scores(
    queries: Sequence[Embeddings],
    galleries: Sequence[Embeddings],
    labels: Labels,
    identities: int,
    weights: Floats,
) -> Scores:
    """Scores (queries, identities): the weighted mean of the members' cosines to each one's nearest photo.

    Embeddings of queries and of the gallery, whose labels are (photos,), have length 1 and are given by
    member. Memory does not grow with the gallery.
    """
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    scores = np.full((len(queries[0]), identities), LOWEST_COSINE, np.float32)
    ordered = [gallery[order] for gallery in galleries]
    for rows in row_blocks(len(scores), len(labels)):
        cosines = np.zeros((len(scores[rows]), len(labels)), np.float32)
        for query, gallery, weight in zip(queries, ordered, weights, strict=True):
            cosines += np.float32(weight) * (query[rows] @ gallery.T)
        scores[rows, present] = np.maximum.reduceat(cosines, starts, axis=1)
    return scores


def ranked_right(scores: Scores, labels: Labels) -> Floats:
    """1 / rank (known photos,) of each one's individual where it is among the first five, else 0."""
    known = np.flatnonzero(labels >= 0)
    ahead = (scores[known] > scores[known, labels[known], None]).sum(axis=1)
    return np.where(ahead < 5, 1 / (1.0 + ahead), 0.0)


def share_choices(members: int) -> list[Shares]:
    """Equal shares and all in quarters, one in all, those nearest to equal first.

    >>> share_choices(2)
    [(0.5, 0.5), (0.25, 0.75), (0.75, 0.25), (0.0, 1.0), (1.0, 0.0)]
    """
    dealt = combinations_with_replacement(range(members), QUARTERS)
    quarters = {tuple(each.count(place) / QUARTERS for place in range(members)) for each in dealt}
    equal = 1 / members
    return sorted(
        quarters | {(equal,) * members}, key=lambda each: (sum((share - equal) ** 2 for share in each), each)
    )


def target_log_probabilities(
    scores: Sequence[Scores], temperatures: Sequence[float], labels: Labels
) -> Floats:
    """(photos, members) log probability that each member gives the label (photos,) of each photo.

    That of another column, the first, where a label is below 0: leave those photos out.
    """
    targets = np.maximum(labels, 0)[:, None]
    logs = np.empty((len(labels), len(scores)))
    for place, (one, temperature) in enumerate(zip(scores, temperatures, strict=True)):
        for rows in row_blocks(*one.shape):
            each = log_probabilities(one[rows], temperature)
            logs[rows, place] = np.take_along_axis(each, targets[rows], axis=1)[:, 0]
    return logs


def fit_weights(target_logs: Floats) -> Floats:
    """The weights (members,), above 0 and one in all, under which a mean makes the truth most likely.

    `target_logs` (photos, members) are the log probabilities of the truth; each member is as if right on one
    photo more. That is convex in the weights, and expectation-maximisation finds the one best point (stacking
    of distributions, Yao et al. 2018).
    """
    likelihoods = np.exp(target_logs - target_logs.max(axis=1, keepdims=True))
    weights = np.full(target_logs.shape[1], 1 / target_logs.shape[1])
    for _ in range(ROUNDS):
        shares = weights * likelihoods
        counts = (shares / shares.sum(axis=1, keepdims=True)).sum(axis=0) + PRIOR
        better = counts / counts.sum()
        if np.abs(better - weights).max() < 1e-7:
            break
        weights = better
    return weights


def mean_log_loss(target_logs: Floats, weights: Floats) -> Floats:
    """(photos,) log loss of the weighted mean, of log probabilities (photos, members) of the truth."""
    highest = target_logs.max(axis=1, keepdims=True)
    mean = (np.exp(target_logs - highest) * weights).sum(axis=1)
    loss: Floats = -(highest[:, 0] + np.log(np.maximum(mean, 1e-300)))
    return loss


def fit_temperature(scores: Scores, labels: Labels) -> float:
    """The temperature at which scores (photos, identities) of known photos have the least log loss.

    Labels (photos,) are below 0 where a photo is of nobody known. Where all are, there is nothing to choose
    by, and it is the spread of the scores.
    """
    from scipy.optimize import minimize_scalar

    known = np.flatnonzero(labels >= 0)
    if not len(known):
        return max(float(scores.std()), 1e-6)
    seen, target = scores[known], labels[known]

    def log_loss(log_temperature: float) -> float:
        logs = log_probabilities(seen, float(np.exp(log_temperature)))
        return -float(logs[np.arange(len(target)), target].mean())

    best = minimize_scalar(log_loss, bounds=(-7.0, 5.0), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(best.x))
