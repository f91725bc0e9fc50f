"""The rules by which members become one, by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.classifiers import CLASSIFIERS
from whalebench.benchmarks.ensembling.combined import Combined
from whalebench.benchmarks.ensembling.feature_stacking import stack_features
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.learners import LEARNERS
from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.mixing import Floats, Scores, mean_scores, vote_scores
from whalebench.benchmarks.ensembling.mixture import Mixture
from whalebench.benchmarks.ensembling.nearest import nearest_scores
from whalebench.benchmarks.ensembling.options import NO_OPTIONS, Options
from whalebench.benchmarks.ensembling.pairing import Pairs
from whalebench.benchmarks.ensembling.pooling import pool, product_scores
from whalebench.benchmarks.ensembling.shortlist import Candidates
from whalebench.benchmarks.ensembling.stacking import stack
from whalebench.benchmarks.ensembling.weighing import fit_weights, mixed_log_loss, own_log_probabilities
from whalebench.benchmarks.judging.selection import Judge
from whalebench.benchmarks.progress import SILENT, Progress

WEIGHTED = ("mean", "product", "vote", "knn")
"""Rules that take weights."""
MIXES = {"mean": mean_scores, "product": product_scores, "vote": vote_scores}


def combine(
    rule: str,
    members: Sequence[Member],
    ground: Ground,
    given: Floats | None,
    judge: Judge,
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
        mean = _mean(members, ground, judge, seed)
        return stack_features(members, ground, mean, CLASSIFIERS[rule], seed, options.pca)
    if rule == "mean" and given is None and len(members) > 1:
        return _mean(members, ground, judge, seed)
    if rule == "product" and given is None and len(members) > 1:
        return pool(members, ground, seed)
    weights = np.full(len(members), 1 / len(members)) if given is None else given
    if rule == "knn":
        valid, test = nearest_scores(members, ground, weights)
    else:
        mixed = Mixture(members, MIXES[rule])
        valid, test = mixed.valid(weights), mixed.test(weights)
    return Combined(valid, test, {"weights": weights.tolist()})


def _mean(members: Sequence[Member], ground: Ground, judge: Judge, seed: int) -> Combined:
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
    better = losses[1] < losses[2] and _map_at_5(fitted, ground, judge) >= _map_at_5(plain, ground, judge)
    chosen = weights if better else equal
    return Combined(
        valid=fitted if better else plain,
        test=mixed.test(chosen),
        chosen={"weights": chosen.tolist(), "equal_weights": not better},
        train_log_loss=losses[0],
        out_of_fold_log_loss=losses[1],
        learned={"weights": chosen},
    )


def _map_at_5(scores: Scores, ground: Ground, judge: Judge) -> float:
    """On the known photos of valid."""
    found = judge.means_by_threshold(
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
