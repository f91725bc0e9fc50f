"""Checks that have a method learn anew: same seed, after stops, other test photos, nothing annotated."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from whalebench.benchmarks.conformance.on_trial import Broken, DoesNotApply, OnTrial, apart
from whalebench.benchmarks.progress import EpochNews, Silent
from whalebench.benchmarks.runs.unfinished import Unfinished


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
    """What it learns does not change with the pixels of test photos, unless it says that it saw them."""
    learned = trial.after_learning()
    if parts := learned.harness.adapted_to():
        raise DoesNotApply(
            f"It learns from test photos and says so (transductive): {', '.join(sorted(parts))}."
        )
    first = learned.scores()
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


def goes_on(trial: OnTrial) -> str:
    """Stopped in every epoch but the first, and taken up each time, it ends with the same scores."""
    whole, stops = trial.after_learning(), 0
    with TemporaryDirectory(prefix="whalebench-check-", ignore_cleanup_errors=True) as folder:
        while True:
            try:
                # Everything is kept, however long it takes.
                again = trial.learn(
                    trial.views, StopsInSecondEpoch(), Unfinished(Path(folder), share=math.inf)
                )
                break
            except Stopped:
                stops += 1
            if not any(Path(folder).iterdir()):
                raise DoesNotApply(
                    "Stopped, it begins anew: have it call harness.resume(parts) before its epochs."
                )
    if not stops:
        raise DoesNotApply("It has no two epochs to be stopped between.")
    first, second = whole.scores(), again.scores()
    if not np.array_equal(first, second):
        raise Broken(
            f"Stopped and taken up again its scores differ by {apart(first, second):.2g} of the spread: "
            "name all that changes while it learns to harness.resume()."
        )
    return f"Stopped {stops} time(s) and taken up again, it gives the same scores."


class Stopped(Exception):
    """A run stopped from outside."""


class StopsInSecondEpoch(Silent):
    """Stops a run before its second epoch could be kept."""

    epochs = 0

    def epoch(self, news: EpochNews) -> None:
        """Stopped at the second one."""
        del news
        self.epochs += 1
        if self.epochs == 2:
            raise Stopped


REPEAT_CHECKS = {
    "same seed": repeats_itself,
    "goes on": goes_on,
    "no peeking": does_not_peek,
    "no annotations": answers_without_annotations,
}
"""What each check is called."""
