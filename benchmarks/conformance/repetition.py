"""Checks that have a method learn anew: with the same seed, other test photos, nothing annotated."""

from __future__ import annotations

import numpy as np

from whalebench.benchmarks.conformance.on_trial import Broken, OnTrial, apart


def repeats_itself(trial: OnTrial) -> str:
    """The same seed gives the same scores, to the last bit."""
    first, again = trial.after_learning().scores(), trial.learn(trial.views).scores()
    if not np.array_equal(first, again):
        raise Broken(
            f"Learned again with the same seed its scores differ, by {apart(first, again):.2g} of the "
            "spread: draw every random number from harness.seed or from torch's generator."
        )
    return "Learned again with the same seed, it gives the same scores."


def does_not_peek(trial: OnTrial) -> str:
    """What it learns does not change with the pixels of test photos."""
    first = trial.after_learning().scores()
    blind = trial.learn(trial.views_of(trial.ground.blank)).scores()
    if not np.array_equal(first, blind):
        raise Broken(
            "With other test photos it learns something else: in learn() look at train and valid only, "
            "through Photos.batch."
        )
    return "With grey test photos it learns the same."


def answers_without_annotations(trial: OnTrial) -> str:
    """Where nothing is annotated it says what it lacks, or does without."""
    views = trial.views_of(trial.ground.plain)
    if lacking := trial.build().unfit(views.train, views.test):
        return f"Where nothing is annotated it says that there are no {lacking}."
    try:
        trial.learn(views).scores()
    except Exception as error:
        raise Broken(
            f"Where nothing is annotated it stops with {type(error).__name__} ({error}): have unfit() say "
            "what it lacks."
        ) from error
    return "Where nothing is annotated it does without."


REPEAT_CHECKS = {
    "same seed": repeats_itself,
    "no peeking": does_not_peek,
    "no annotations": answers_without_annotations,
}
"""What each check is called."""
