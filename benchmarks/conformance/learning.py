"""Checks of whether a method learns at all, and of what it leaves behind."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from whalebench.benchmarks.conformance.on_trial import (
    TOLERANCE,
    Broken,
    DoesNotApply,
    Learned,
    OnTrial,
    apart,
)
from whalebench.benchmarks.judging.judgement import CALIBRATION
from whalebench.benchmarks.photos import CPU, UNKNOWN
from whalebench.benchmarks.runs.outcome import judge_parts
from whalebench.benchmarks.views import Views


def learns(trial: OnTrial) -> str:
    """It learns beside photos of *new* individuals and individuals with one photo, and changes none."""
    views = trial.views
    if lacking := trial.build().unfit(views.train, views.test):
        raise DoesNotApply(f"It asks for {lacking}, which the photos it is tried on lack.")
    try:
        trial.learned = trial.learn(views)
    except Exception as error:
        if reason := _trouble(trial):
            raise Broken(f"Only without {reason} it learns ({type(error).__name__}: {error}).") from error
        raise
    counts = views.counts()
    return f"It learned {counts['identities']} individuals from {counts['train_photos']} photos."


def is_judged(trial: OnTrial) -> str:
    """What it gives goes through the harness like the outcome of a run."""
    learned = trial.after_learning()
    outcome = judge_parts(learned.method, learned.views, learned.harness, trial.judge)
    return (
        f"MAP@5 on {len(outcome.queries)} test photos: {outcome.metrics['map_at_5']:.3f}, which says little."
    )


def tells_its_lineage(trial: OnTrial) -> str:
    """Every part says which photos it was fitted on; the harness has refused any that it must not be."""
    harness = trial.after_learning().harness
    # What was chosen on valid the harness has written down itself.
    lineage = {part: digests for part, digests in harness.lineage.items() if part != CALIBRATION}
    adapted = harness.adapted_to()
    if not lineage:
        raise Broken("It does not say what it was fitted on: call harness.fitted(part, photos) in learn().")
    parts = ", ".join(
        f"{part} ({len(digests)} photos{f', {adapted[part]} of them of test' if part in adapted else ''})"
        for part, digests in lineage.items()
    )
    return f"Fitted on {'train and bare test photos, none of valid' if adapted else 'train only'}: {parts}."


def is_restored(trial: OnTrial) -> str:
    """weights() through a file, restore() into a new one: the same scores."""
    from safetensors.torch import load, save  # noqa: PLC0415

    learned = trial.after_learning()
    weights = {name: value.detach().contiguous().clone() for name, value in learned.method.weights().items()}
    stored = load(save(weights))
    # As for a finished run: the configuration from its record, the weights from their file.
    again = trial.build(type(trial.config).model_validate(json.loads(trial.config.model_dump_json())))
    torch.manual_seed(1)
    try:
        again.restore(stored, learned.views.train.identities, CPU)
    except NotImplementedError as error:
        raise DoesNotApply("It cannot be restored: `whalebench explain` will refuse its runs.") from error
    off = apart(learned.scores(), Learned(again, learned.harness, learned.views).scores())
    if off > TOLERANCE:
        raise Broken(
            f"Restored from its weights it scores otherwise, by {off:.2g} of the spread: have weights() give "
            "everything that score() reads."
        )
    return f"Restored from its weights ({len(stored)} stored by name) it scores the same."


def declares_its_sizes(trial: OnTrial) -> str:
    """Photos are asked for at the sizes that were decoded before the clock started."""
    learned = trial.after_learning()
    learned.scores("test")
    undeclared = sorted(trial.asked - set(learned.method.sizes()))
    if undeclared:
        named = ", ".join(f"{height} x {width}" for height, width in undeclared)
        raise Broken(f"It asks for photos of {named} px, which sizes() does not name: name them there.")
    return "All photo sizes it asks for are named by sizes()."


def _trouble(trial: OnTrial) -> str:
    """The kind of train photos without which it can learn, or nothing."""
    views = trial.views
    others = {
        "photos of new individuals": replace(views, train=views.train.known()),
        "individuals with one photo": _without_singles(views),
    }
    for reason, rest in others.items():
        with suppress(Exception):  # whatever it is, the first error is the one that is told
            trial.learn(rest)
            return reason
    return ""


def _without_singles(views: Views) -> Views:
    """The same views as if individuals with one photo in train had never been met."""
    train, valid = views.train, views.valid
    assert train.labels is not None
    assert valid.labels is not None
    kept = np.flatnonzero(np.bincount(train.labels[train.labels != UNKNOWN]) > 1)
    # One longer than the individuals, so that UNKNOWN, which is -1, reads itself.
    renamed = np.full(len(train.identities) + 1, UNKNOWN)
    renamed[kept] = np.arange(len(kept))
    identities = tuple(train.identities[label] for label in kept)
    rest = np.flatnonzero((train.labels == UNKNOWN) | (renamed[train.labels] != UNKNOWN))
    known = replace(train, identities=identities, labels=renamed[train.labels]).select(rest)
    return replace(
        views, train=known, valid=replace(valid, identities=identities, labels=renamed[valid.labels])
    )


LEARNING_CHECKS = {
    "judged": is_judged,
    "lineage": tells_its_lineage,
    "restored": is_restored,
    "sizes": declares_its_sizes,
}
"""What each check is called."""
