"""A stacker: learns from the valid photos, which no member has learned from, which candidate is right."""

from __future__ import annotations

import numpy as np

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.combined import Combined
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.learners import Learner, as_bytes
from whalebench.benchmarks.ensembling.mixing import Floats
from whalebench.benchmarks.ensembling.shortlist import Candidates, Shortlist


def stack(said: Candidates, ground: Ground, kind: type[Learner], seed: int) -> Combined:
    """The members' scores combined by what the learner makes of their candidates.

    Its setting is chosen by the log loss of photos it has not learned from, individuals kept apart; of valid
    it gives scores by those that were learned without them, too. Then it learns from all of valid, and scores
    test.
    """
    said.check()
    splits = ground.splits(seed)
    found = said.gather("valid")
    hits = found.hits(ground.own)
    if not splits or not all(hits[found.of(fit)].any() for fit, _ in splits):
        raise WhalebenchError(
            f"The {len(ground.valid.images)} valid photos show too few known individuals, found among the "
            f"candidates, for a stacker to learn from and be tried on: use --rule mean or vote."
        )
    aside = {choice: np.empty(len(hits)) for choice in kind.choices}
    for fit, rest in splits:
        learner, tried = kind(seed), found.of(rest)
        learner.fit(found.features[found.of(fit)], hits[found.of(fit)])
        for choice, logits in aside.items():
            logits[tried] = learner.logits(found.features[tried], choice)
    losses = {choice: candidate_log_loss(found, logits, ground) for choice, logits in aside.items()}
    chosen = min(kind.choices, key=lambda choice: losses[choice])  # of equal ones the simplest
    learner = kind(seed)
    learner.fit(found.features, hits)
    trained = candidate_log_loss(found, learner.logits(found.features, chosen), ground)
    of_test = said.gather("test")
    return Combined(
        valid=said.scored("valid", found, aside[chosen]),
        test=said.scored("test", of_test, learner.logits(of_test.features, chosen)),
        chosen={kind.setting: chosen},
        train_log_loss=trained,
        out_of_fold_log_loss=losses[chosen],
        learned=learner.arrays(chosen) | {"features": as_bytes("\n".join(found.names))},
    )


def candidate_log_loss(found: Shortlist, logits: Floats, ground: Ground) -> float:
    """Mean log loss of the known valid photos whose individual is a candidate, normalised over candidates.

    Each candidate counts once, by the highest of its logits (rows,).
    """
    photos, best = found.photos[found.firsts], found.best(logits)
    starts = np.flatnonzero(np.diff(photos, prepend=-1))
    highest = np.maximum.reduceat(best, starts)
    total = np.log(np.add.reduceat(np.exp(best - highest[photos]), starts)) + highest
    right = found.hits(ground.own)[found.firsts]
    return float((total[photos[right]] - best[right]).mean())
