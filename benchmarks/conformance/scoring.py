"""Checks of the scores of a method that has learned, and of what its learning depends on.

For the latter it learns anew: with the same seed, after stops, with other test photos, without annotations.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.conformance.trial import (
    TOLERANCE,
    CheckFailed,
    NotApplicable,
    Trial,
    relative_distance,
)
from whalebench.benchmarks.core.checkpoint import CheckpointStore
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.progress import EpochNews, Silent


def scores_have_their_shape(trial: Trial) -> str:
    """float32 (photos, identities), finite, and not the same for every photo."""
    learned = trial.after_learning()
    for part, photos in learned.views.queries().items():
        scores = learned.method.score(photos)
        _refuse_shape(scores, (len(photos), len(photos.identities)), f"score() of {part}")
    if len(np.unique(scores, axis=0)) == 1:
        raise CheckFailed("It gives every photo the same scores.")
    return f"score() gives float32 {scores.shape} for {len(photos)} photos, all finite."


def embeddings_have_their_shape(trial: Trial) -> str:
    """float32 (photos, dimensions), finite, the same for a photo among others and alone."""
    method, photos = trial.after_learning().method, trial.after_learning().views.queries()["valid"]
    embeddings = method.embed(photos)
    if embeddings is None:
        raise NotApplicable("It has no embeddings.")
    _refuse_shape(embeddings, (len(photos), embeddings.shape[-1]), "embed()")
    alone = method.embed(photos.select([0]))
    if not method.transductive and (alone is None or relative_distance(embeddings[:1], alone) > TOLERANCE):
        raise CheckFailed("A photo embedded alone has another embedding than among others.")
    return f"embed() gives float32 {embeddings.shape} for {len(photos)} photos, all finite."


def scores_each_photo_by_itself(trial: Trial) -> str:
    """A photo's scores do not depend on the photos beside it, on their order, or on chance."""
    method, photos = trial.after_learning().method, trial.after_learning().views.queries()["test"]
    if method.transductive:
        raise NotApplicable("It says that a photo's scores depend on the others (transductive).")
    whole = method.score(photos)
    backwards = np.arange(len(photos))[::-1]
    for beside, chosen in {
        "in another order": backwards, "among fewer": backwards[::3], "alone": backwards[:1]
    }.items():  # fmt: skip
        off = relative_distance(whole, _with_rows(whole, chosen, method.score(photos.select(chosen))))
        if off > TOLERANCE:
            raise CheckFailed(
                f"Scored {beside}, photos get other scores, by {off:.2g} of the spread: score each by itself "
                "(evaluation mode, no statistics of the batch, no chance), or declare `transductive = True`."
            )
    return "Scored in another order, among fewer and alone, photos get the same scores."


def needs_no_labels(trial: Trial) -> str:
    """Photos get the same scores with and without labels and annotations, which test photos do not show."""
    learned = trial.after_learning()
    valid = learned.views.valid
    mislabelled = replace(valid, labels=np.roll(valid.labels, 1))
    off = relative_distance(learned.scores(), learned.method.score(mislabelled))
    if off > TOLERANCE:
        raise CheckFailed(
            "Its scores change when photos carry labels or annotations: score by the pixels alone."
        )
    return "Bare photos get the scores of photos with labels and annotations."


def keeps_individuals_of_one_photo(trial: Trial) -> str:
    """Individuals with one photo in train have scores that vary from photo to photo, like others'."""
    learned = trial.after_learning()
    known = learned.views.train.known()
    scores = np.concatenate([learned.scores("train"), learned.scores("test")])
    single = np.flatnonzero(np.bincount(known.labels) == 1)
    lost = [known.identities[label] for label in single if not np.ptp(scores[:, label]) > 0]
    if lost:
        raise CheckFailed(
            f"Individuals with one photo vanish: {', '.join(lost)} score the same for every photo, even "
            "for their own."
        )
    names = " and ".join(known.identities[label] for label in single)
    return f"Individuals with one photo ({names}) are scored like others."


def leaves_photos_as_they_are(trial: Trial) -> str:
    """Learning and scoring change no labels, places or annotations."""
    fresh = trial.views_of(trial.toys.annotated)
    learned = trial.after_learning()
    learned.scores("test")
    for part in ("train", "valid", "test"):
        before, after = (_arrays(getattr(views, part)) for views in (fresh, learned.views))
        for name, values in before.items():
            if not np.array_equal(values, after[name], equal_nan=values.dtype.kind == "f"):
                raise CheckFailed(f"It changed the {name} of {part} in place: work on a copy.")
    return "Labels, places and annotations are as they were."


def _refuse_shape(values: object, wanted: tuple[int, ...], what: str) -> None:
    if not isinstance(values, np.ndarray) or values.dtype != np.float32:
        kind = getattr(values, "dtype", type(values).__name__)
        raise CheckFailed(f"{what} gives {kind}: give a NumPy array of float32.")
    if values.shape != wanted:
        raise CheckFailed(f"{what} has the shape {values.shape}: give {wanted}, a row a photo.")
    if not np.isfinite(values).all():
        raise CheckFailed(f"{what} holds {int((~np.isfinite(values)).sum())} values that are not finite.")


def _with_rows(
    whole: NDArray[np.float32], places: NDArray[np.int64], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A copy of the table with other values at some rows."""
    filled = whole.copy()
    filled[places] = values
    return filled


def _arrays(photos: Photos) -> dict[str, NDArray[np.generic]]:
    """The arrays of photos that could be written over."""
    arrays = {"rows": photos.rows, "shapes": photos.shapes, "labels": photos.labels}
    if photos.annotations is not None:
        arrays |= {name: getattr(photos.annotations, name) for name in ("boxes", "landmarks", "has_mask")}
    return {name: values for name, values in arrays.items() if values is not None}


SCORING_CHECKS = {
    "scores": scores_have_their_shape,
    "embeddings": embeddings_have_their_shape,
    "one by one": scores_each_photo_by_itself,
    "bare photos": needs_no_labels,
    "one photo": keeps_individuals_of_one_photo,
    "unchanged": leaves_photos_as_they_are,
}
"""What each check is called."""


def repeats_itself(trial: Trial) -> str:
    """The same seed gives the same scores, to the last bit."""
    first, again = trial.after_learning().scores(), trial.learn(trial.views).scores()
    if not np.array_equal(first, again):
        raise CheckFailed(
            f"Learned again with the same seed its scores differ, by {relative_distance(first, again):.2g} "
            "of the spread: draw every random number from harness.seed or from torch's generator."
        )
    return "Learned again with the same seed, it gives the same scores."


def does_not_peek(trial: Trial) -> str:
    """What it learns does not change with the pixels of test photos, unless it says that it saw them."""
    learned = trial.after_learning()
    if parts := learned.harness.adapted_to():
        raise NotApplicable(
            f"It learns from test photos and says so (transductive): {', '.join(sorted(parts))}."
        )
    first = learned.scores()
    blind = trial.learn(trial.views_of(trial.toys.blank)).scores()
    if not np.array_equal(first, blind):
        raise CheckFailed(
            "With other test photos it learns something else: in learn() look at train and valid only, "
            "through Photos.batch."
        )
    return "With grey test photos it learns the same."


def answers_without_annotations(trial: Trial) -> str:
    """Where nothing is annotated it says what it lacks, or does without."""
    views = trial.views_of(trial.toys.plain)
    if missing := trial.build().missing_requirement(views.train, views.test):
        return f"Where nothing is annotated it says that there are no {missing}."
    try:
        trial.learn(views).scores()
    except Exception as error:
        raise CheckFailed(
            f"Where nothing is annotated it stops with {type(error).__name__} ({error}): have "
            "missing_requirement() say what it lacks."
        ) from error
    return "Where nothing is annotated it does without."


def resumes(trial: Trial) -> str:
    """Stopped in every epoch but the first, and resumed each time, it ends with the same scores."""
    whole, stops = trial.after_learning(), 0
    with TemporaryDirectory(prefix="whalebench-check-", ignore_cleanup_errors=True) as folder:
        while True:
            try:
                # Everything is kept, however long it takes.
                again = trial.learn(
                    trial.views, StopsInSecondEpoch(), CheckpointStore(Path(folder), max_share=math.inf)
                )
                break
            except Stopped:
                stops += 1
            if not any(Path(folder).iterdir()):
                raise NotApplicable(
                    "Stopped, it begins anew: have it call harness.resume(parts) before its epochs."
                )
    if not stops:
        raise NotApplicable("It has no two epochs to be stopped between.")
    first, second = whole.scores(), again.scores()
    if not np.array_equal(first, second):
        raise CheckFailed(
            f"Stopped and taken up again its scores differ by {relative_distance(first, second):.2g} of the "
            "spread: name all that changes while it learns to harness.resume()."
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
    "goes on": resumes,
    "no peeking": does_not_peek,
    "no annotations": answers_without_annotations,
}
"""What each check is called."""
