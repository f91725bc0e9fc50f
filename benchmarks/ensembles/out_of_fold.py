"""What members that are bagged said of train: thousands of photos for a stacker to learn from.

Each photo was answered by the one network of a member that had not learned from it. That this is so is tried
again whenever it is read, by the split and by what each network says that it was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.record import read_scores
from whalebench.benchmarks.ensembles.members import FoldData, FusionTask, Member
from whalebench.benchmarks.running.calibration import choose_calibration
from whalebench.benchmarks.running.evaluation import CALIBRATION
from whalebench.benchmarks.running.folds import NEW, Answers
from whalebench.methods.parts.fusion import (
    BAG,
    INNER_GALLERY,
    JOINT_GALLERY,
    Embeddings,
    Labels,
    OutOfFold,
    Rows,
    Scores,
)


@dataclass(frozen=True)
class TrainAnswers:
    """Photos of train, and what every member said of each by a network that had not learned from it."""

    images: tuple[str, ...]
    labels: Labels
    """(photos,) the column of each one's individual, -1 where it is new."""
    bags: Rows
    """(photos,) the inner fold of each, from 0: the same of all members."""
    scores: list[Scores]
    """Scores (photos, identities) by member."""
    temperatures: list[float]
    """Each member's, of these scores: one network is less sure than all of its member together."""
    embeddings: list[Embeddings | None]
    """(photos, dimensions) by member, each in the space of the network that answered."""


def answers_of_train(task: FusionTask) -> TrainAnswers | None:
    """What the members said of train; None unless all have said it over the same inner folds.

    Photos of encounters that valid shows, too, as a published split may have them, are left out. Raises
    WhalebenchError for a photo that was answered by a network that had learned from it.
    """
    counts = {member.bags for member in task.members}
    if len(counts) > 1 or counts == {1}:
        return None
    found = [read_out_of_fold(member, task.fold) for member in task.members]
    every = [each for each in found if each is not None]
    if len(every) < len(found) or any(len(each.rows) != len(every[0].rows) for each in every):
        return None
    fold, rows, bags = task.fold, every[0].rows, every[0].bags
    apart = np.flatnonzero(~fold.train["group"].iloc[rows].isin(fold.valid_groups).to_numpy())
    photos = fold.train.iloc[rows[apart]]
    labels, scores = fold.columns(list(photos["identity"])), [each.scores[apart] for each in every]
    answers = _answers(photos)
    return TrainAnswers(
        images=answers.images,
        labels=labels,
        bags=bags[apart],
        scores=scores,
        temperatures=[choose_calibration(one, answers, fold.identities).temperature for one in scores],
        embeddings=[each.embeddings if each.embeddings is None else each.embeddings[apart] for each in every],
    )


def _answers(photos: pd.DataFrame) -> Answers:
    identities = tuple(photos["identity"])
    truth = tuple(identity or NEW for identity in identities)
    return Answers(tuple(photos.index), identities, truth, identities)


def read_out_of_fold(member: Member, fold: FoldData) -> OutOfFold | None:
    """What the member's run keeps of train; None where it keeps nothing.

    Raises WhalebenchError where that is not of train as the run's inner folds cut it, and for a photo that
    was answered by a network that had learned from it.
    """
    wanted = ("train_scores", "train_embeddings", "train_bags")
    arrays, names = read_scores(member.run.folder, wanted)
    images = names.get("train")
    if not images:
        return None
    scores, bags, embeddings = (arrays.get(name) for name in (wanted[0], wanted[2], wanted[1]))
    row_of = columns_of(fold.train.index)
    rows = np.array([row_of.get(image, -1) for image in images], np.int64)
    if (
        scores is None
        or bags is None
        or scores.shape != (len(images), len(fold.identities))
        or bags.shape != (len(images),)
        or (embeddings is not None and len(embeddings) != len(images))
        or not all(np.isfinite(each).all() for each in (scores, embeddings) if each is not None)
        or (np.diff(rows, prepend=-1) <= 0).any()
    ):
        raise WhalebenchError(
            f"What {member.name} keeps of train is not a row for each of some photos of train: repeat the "
            f"run with --force."
        )
    found = OutOfFold(rows, bags.astype(np.int64), scores, embeddings)
    _refuse_in_fold(member, found, fold)
    return found


def _refuse_in_fold(member: Member, found: OutOfFold, fold: FoldData) -> None:
    """Raises WhalebenchError for rows of a network that learned from the photo, or of another inner fold."""
    digests = fold.train["content_digest"].to_numpy()[found.rows]
    inner = member.inner_folds(fold)[found.rows]
    fitted = _fitted_on(member.lineage, member.bags)
    for bag, own in enumerate(fitted):
        if seen := own.intersection(digests[found.bags == bag]):
            raise WhalebenchError(
                f"{member.name} gives as out-of-fold what its network {bag + 1} says of {len(seen)} train "
                f"photo(s) that it learned from and knows by heart: repeat the run with --force, or leave it "
                f"out."
            )
    if not np.array_equal(inner, found.bags):
        raise WhalebenchError(
            f"What {member.name} keeps of train is not by its inner folds, as the split gives them: repeat "
            f"the run with --force, or leave it out."
        )


def _fitted_on(lineage: Mapping[str, Sequence[str]], bags: int) -> list[set[str]]:
    """By bag, digests of all photos that what answered its inner fold was fitted on."""
    fitted: list[set[str]] = [set() for _ in range(bags)]
    for part, digests in lineage.items():
        scope, _, rest = part.partition(".")
        owner = [bag for bag in range(bags) if scope == BAG.format(bag + 1)]
        # What was chosen, and taken in, afterwards.
        if part in (CALIBRATION, JOINT_GALLERY) or (owner and rest == INNER_GALLERY):
            continue
        for bag in owner or range(bags):
            fitted[bag].update(digests)
    return fitted
