"""A stacker: learns from the valid photos, which no member has learned from, which candidate is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.combined import Combined
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.learners import Learner
from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.mixing import Floats
from whalebench.benchmarks.ensembling.shortlist import Shortlist, check_memory, full_scores, shortlist


def stack(members: Sequence[Member], ground: Ground, kind: type[Learner], seed: int) -> Combined:
    """The members' scores combined by what the learner makes of their candidates.

    Its setting is chosen by the log loss of photos it has not learned from, individuals kept apart; of valid
    it gives scores by those that were learned without them, too. Then it learns from all of valid, and scores
    test.
    """
    temperatures = [member.temperature for member in members]
    valid, test = [member.valid for member in members], [member.test for member in members]
    for scores in (valid, test):
        check_memory(scores)
    splits = ground.splits(seed)
    found = shortlist(valid, temperatures)
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
    of_test = shortlist(test, temperatures)
    return Combined(
        valid=full_scores(found, aside[chosen], valid, temperatures),
        test=full_scores(of_test, learner.logits(of_test.features, chosen), test, temperatures),
        chosen={kind.setting: chosen},
        train_log_loss=trained,
        out_of_fold_log_loss=losses[chosen],
        learned=learner.arrays(chosen),
    )


def candidate_log_loss(found: Shortlist, logits: Floats, ground: Ground) -> float:
    """Mean log loss of the known valid photos whose individual is a candidate, normalised over candidates."""
    highest = np.maximum.reduceat(logits, found.starts)
    total = np.log(np.add.reduceat(np.exp(logits - highest[found.photos]), found.starts)) + highest
    right = found.hits(ground.own)
    return float((total[found.photos[right]] - logits[right]).mean())
