"""The checks of the sealed test: scores are owed to pixels and the labels of train, and judged as they are.

Each tries the method where something has changed that it must not depend on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from whalebench.benchmarks.conformance.judge import judge_afresh
from whalebench.benchmarks.conformance.trial import (
    CheckFailed,
    Learned,
    NotApplicable,
    Trial,
    refuse_difference,
)
from whalebench.benchmarks.core.photos import LabelledPhotos
from whalebench.benchmarks.running.outcome import ask, evaluate_parts
from whalebench.methods.method import Harness
from whalebench.methods.parts.pipeline import Pipeline


def is_evaluated(trial: Trial) -> str:
    """Its scores are evaluated like those of a run, and alike in a process that never met the method."""
    learned, opened = trial.after_learning(), trial.opened()
    submission = ask(learned.method, learned.views, learned.harness)
    outcome = evaluate_parts(submission, learned.views, opened, learned.harness)
    afresh = judge_afresh(
        learned.views.train.identities, submission.scores, opened.answers, submission.config
    )
    for name, value in afresh.items():
        said = outcome.metrics[name]
        # MAP@R is of embeddings, which the other process is not given.
        if name != "map_at_r" and not np.isclose(value, said, rtol=1e-9, atol=0, equal_nan=True):
            raise CheckFailed(
                f"Its scores are worth a {name} of {said:.3f} here and of {value:.3f} in a process without "
                "it: leave the code that judges as it is."
            )
    return (
        f"MAP@5 on {len(outcome.queries)} test photos: {outcome.metrics['map_at_5']:.3f}, which says little."
    )


def does_not_peek(trial: Trial) -> str:
    """What it learns does not change with the pixels of test photos, unless it says that it saw them."""
    learned = trial.after_learning()
    if parts := learned.harness.adapted_to():
        raise NotApplicable(
            f"It learns from test photos and says so (transductive): {', '.join(sorted(parts))}."
        )
    complaint = (
        "With other test photos it learns something else: in learn() look at train and valid only, "
        "through Photos.batch."
    )
    blind = trial.learn(trial.views_of(trial.toys.blank))
    refuse_difference(learned.scores(), blind.scores(), complaint)
    return "With grey test photos it learns the same."


def sees_pixels_alone(trial: Trial) -> str:
    """Its scores are the same where photos are renamed, moved and reordered, and test has other answers."""
    learned = trial.after_learning()
    disguised = trial.learn(trial.views_of(trial.toys.disguised))
    complaint = (
        "Where photos have other names, folders and rows, and test photos other answers, it gives other "
        "scores, by {} of the spread: learn and score by what Photos.batch gives, and by the labels of train."
    )
    for part in learned.views.queries():
        refuse_difference(learned.scores(part), disguised.scores(part), complaint)
    return "With photos renamed and moved, and other answers to test, it gives the same scores."


def chooses_on_valid_and_learns_nothing(trial: Trial) -> str:
    """It learns the same where valid shows other labels, but for what it says that it chose by them.

    The harness goes on to judge by the right ones, so that what it is asked to choose stays the same.
    """
    learned = trial.after_learning()
    mislabelled = trial.learn(trial.views, method=Mislabelled(trial.kind, trial.config))
    if _equal_weights(learned, mislabelled) and np.array_equal(
        learned.scores("test"), mislabelled.scores("test")
    ):
        return "With the labels of valid exchanged it learns the same."
    before, after = learned.harness.chosen, mislabelled.harness.chosen
    chosen = sorted(name for name, value in after.items() if value != before.get(name))
    if not chosen:
        raise CheckFailed(
            "With the labels of valid exchanged it learns something else and does not say what it chose: "
            "learn from train, choose by harness.valid_map_at_5(), or tell harness.choose() what was chosen."
        )
    raise NotApplicable(f"It chooses by the labels of valid itself and says so: {', '.join(chosen)}.")


class Mislabelled(Pipeline):
    """The method shown valid under the labels of other photos."""

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Learns as ever, the labels and species of valid exchanged."""
        species = None if valid.species is None else np.roll(valid.species, 1)
        super().learn(train, replace(valid, labels=np.roll(valid.labels, 1), species=species), harness)


def _equal_weights(one: Learned, other: Learned) -> bool:
    first, second = one.method.weights(), other.method.weights()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
