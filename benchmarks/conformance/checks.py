"""The checks of the conformance suite, in the order in which they are tried.

First what a method says of itself, then whether it learns, what it scores, what it leaves behind, and what
its learning depends on. Each check returns a sentence, or raises CheckFailed or NotApplicable with one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from whalebench import WhalebenchError
from whalebench.benchmarks.conformance.trial import (
    TOLERANCE,
    CheckFailed,
    Learned,
    Mislabelled,
    NotApplicable,
    Stopped,
    StopsInEpoch,
    Trial,
    equal_weights,
    refuse_difference,
    relative_distance,
    without_singles,
)
from whalebench.benchmarks.core.checkpoint import CheckpointStore
from whalebench.benchmarks.core.photos import CPU, Photos
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.running.evaluation import CALIBRATION, metrics_afresh
from whalebench.benchmarks.running.folds import show_new_photos
from whalebench.benchmarks.running.outcome import ask, evaluate_parts
from whalebench.methods.guests import named
from whalebench.methods.method import MethodConfig, Search
from whalebench.methods.parts.pipeline import Pipeline
from whalebench.methods.registry import configure, fields_of


def names_itself(trial: Trial) -> str:
    """It has the name it is installed under, a line on what it does, and a source."""
    kind = trial.kind
    for fact in ("name", "summary", "source"):
        value = getattr(kind, fact, None)
        if not isinstance(value, str) or not value.strip():
            raise CheckFailed(f"{kind.__name__}.{fact} says nothing: give it one line.")
        if "\n" in value:
            raise CheckFailed(f"{kind.__name__}.{fact} has more than one line: shorten it.")
    if kind.name != trial.name:
        raise CheckFailed(f"It is installed as '{trial.name}' and calls itself '{kind.name}': use one name.")
    return f"{kind.summary} ({kind.source})."


def describes_its_fields(trial: Trial) -> str:
    """Every field, and every part's field, has a docstring."""
    named = list(_all_fields(trial.kind.Config))
    silent = [name for name, description in named if not (description or "").strip()]
    if silent:
        raise CheckFailed(f"Without a docstring below them: {', '.join(silent)}.")
    return f"All {len(named)} fields are described."


def configures(trial: Trial) -> str:
    """Frozen, strict about unknown fields, the same when it is read back from a record; search ranges fit."""
    kind = trial.kind.Config
    if not (isinstance(kind, type) and issubclass(kind, MethodConfig)):
        raise CheckFailed(f"{trial.kind.__name__}.Config is no MethodConfig: derive it from that class.")
    if not kind.model_config.get("frozen") or kind.model_config.get("extra") != "forbid":
        raise CheckFailed(
            f"{kind.__name__} can be changed, or takes unknown fields: leave model_config alone."
        )
    again = kind.model_validate(json.loads(trial.config.model_dump_json()))
    if again != trial.config:
        raise CheckFailed("Its configuration is another one when it is read back from JSON.")
    for name, field in fields_of(kind):
        for mark in field.metadata:
            if isinstance(mark, Search):
                _refuse_range(trial, name, mark)
    return "Frozen, strict, and the same when it is read back from a record."


def _refuse_range(trial: Trial, name: str, mark: Search) -> None:
    if not mark.low < mark.high or (mark.log and mark.low <= 0):
        raise CheckFailed(f"The search range of {name} is empty ({mark.low:g} to {mark.high:g}): mend it.")
    for value in (mark.low, mark.high):
        try:
            configure(trial.kind, [f"{name}={value}"])
        except WhalebenchError as error:
            raise CheckFailed(
                f"The search range of {name} holds {value:g}, which it does not take."
            ) from error


def _all_fields(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Every field with its description, those that hold a part, too."""
    for name, field in config.model_fields.items():
        yield prefix + name, field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _all_fields(field.annotation, f"{prefix}{name}.")


def learns(trial: Trial) -> str:
    """It learns where train has photos of *new* individuals and individuals with one photo."""
    views = trial.views
    if missing := trial.build().missing_requirement(views.train, views.test):
        raise NotApplicable(f"It asks for {missing}, which the photos it is tried on lack.")
    try:
        trial.learn_watched()
    except Exception as error:
        if reason := _learnable_without(trial):
            raise CheckFailed(f"Only without {reason} it learns ({named(error)}).") from error
        raise
    return f"It learned {len(views.train.identities)} individuals from {len(views.train)} photos."


def stays_a_guest(trial: Trial) -> str:
    """It prints nothing on stdout while it learns and scores, and leaves the process as it was."""
    if trial.after_learning() and trial.misconduct:
        raise CheckFailed(trial.misconduct)
    return "It prints nothing on stdout, and leaves current folder, threads and signals as they were."


def _learnable_without(trial: Trial) -> str:
    """The kind of train photos without which it can learn, or ""."""
    views = trial.views
    others = {
        "photos of new individuals": replace(views, train=views.train.known()),
        "individuals with one photo": without_singles(views),
    }
    for reason, rest in others.items():
        with suppress(Exception):  # whatever it is, the first error is the one to report
            trial.learn(rest)
            return reason
    return ""


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
    if method.scores_alone and (alone is None or relative_distance(embeddings[:1], alone) > TOLERANCE):
        raise CheckFailed("A photo embedded alone has another embedding than among others.")
    return f"embed() gives float32 {embeddings.shape} for {len(photos)} photos, all finite."


def scores_each_photo_by_itself(trial: Trial) -> str:
    """A photo's scores do not depend on the photos beside it, on their order, or on chance."""
    method, photos = trial.after_learning().method, trial.after_learning().views.queries()["test"]
    if not method.scores_alone:
        raise NotApplicable("It says that a photo's scores depend on the others (transductive).")
    whole = method.score(photos)
    backwards = np.arange(len(photos))[::-1]
    places = {"in another order": backwards, "among fewer": backwards[::3], "alone": backwards[:1]}
    for beside, chosen in places.items():
        scores = whole.copy()
        scores[chosen] = method.score(photos.select(chosen))
        complaint = (
            f"Scored {beside}, photos get other scores, by {{}} of the spread: score each by itself "
            "(evaluation mode, no statistics of the batch, no chance), or declare `transductive = True`."
        )
        refuse_difference(whole, scores, complaint, TOLERANCE)
    return "Scored in another order, among fewer and alone, photos get the same scores."


def needs_no_labels(trial: Trial) -> str:
    """Photos get the same scores with and without labels and annotations, which test photos do not show."""
    learned = trial.after_learning()
    valid = learned.views.valid
    mislabelled = replace(valid, labels=np.roll(valid.labels, 1))
    complaint = "Its scores change when photos carry labels or annotations: score by the pixels alone."
    refuse_difference(learned.scores(), learned.method.score(mislabelled), complaint, TOLERANCE)
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


def _arrays(photos: Photos) -> dict[str, NDArray[np.generic]]:
    """The arrays of photos that could be written over."""
    arrays = {"rows": photos.rows, "shapes": photos.shapes, "labels": photos.labels}
    if photos.annotations is not None:
        arrays |= {name: getattr(photos.annotations, name) for name in ("boxes", "landmarks", "has_mask")}
    return {name: values for name, values in arrays.items() if values is not None}


def is_evaluated(trial: Trial) -> str:
    """Its scores are evaluated like those of a run, and alike in a process that never met the method."""
    learned, opened = trial.after_learning(), trial.opened()
    submission = ask(learned.method, learned.views, learned.harness)
    outcome = evaluate_parts(submission, learned.views, opened, learned.harness)
    afresh = metrics_afresh(
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


def declares_its_lineage(trial: Trial) -> str:
    """Every part says which photos it was fitted on; the harness has refused any that it must not be."""
    harness = trial.after_learning().harness
    # What was chosen on valid the harness has written down itself.
    lineage = {part: digests for part, digests in harness.lineage.items() if part != CALIBRATION}
    adapted = harness.adapted_to()
    if not lineage:
        raise CheckFailed(
            "It does not say what it was fitted on: call harness.fitted(part, photos) in learn()."
        )
    parts = ", ".join(
        f"{part} ({len(digests)} photos{f', {adapted[part]} of them of test' if part in adapted else ''})"
        for part, digests in lineage.items()
    )
    return f"Fitted on {'train and bare test photos, none of valid' if adapted else 'train only'}: {parts}."


def is_restored(trial: Trial) -> str:
    """Its weights, stored in a file and restored into a new one, give the same scores."""
    learned, again = trial.after_learning(), _restored(trial)
    complaint = (
        "Restored from its weights it scores otherwise, by {} of the spread: have weights() give everything "
        "that score() reads."
    )
    refuse_difference(learned.scores(), replace(learned, method=again).scores(), complaint, TOLERANCE)
    return f"Restored from its weights ({len(learned.method.weights())} stored by name) it scores the same."


def answers_new_photos(trial: Trial) -> str:
    """Test photos asked as new ones, which are in no fold, get the scores of the run to the last bit."""
    learned, again = trial.after_learning(), _restored(trial)
    if not again.scores_alone:
        raise NotApplicable("It scores photos with the help of others, so `whalebench predict` refuses it.")
    views, asked = learned.views, _as_new(trial)
    scores, embeddings = again.score_and_embed(asked)
    complaint = (
        "Asked by score_and_embed() as new photos its test photos score otherwise, by {} of the spread: have "
        "weights() and restore() keep every bit of what score() reads."
    )
    refuse_difference(learned.scores("test"), scores, complaint)
    embedded = learned.method.embed(views.queries()["test"])
    if (embedded is None) != (embeddings is None) or not np.array_equal(embedded, embeddings):  # type: ignore[arg-type]
        raise CheckFailed("score_and_embed() gives other embeddings than embed(): give the same.")
    return "New photos get the scores that they get as test photos, to the last bit."


def _restored(trial: Trial) -> Pipeline:
    """The method anew, with the weights that the learned one stores."""
    from safetensors.torch import load, save

    learned = trial.after_learning()
    weights = {name: value.detach().contiguous().clone() for name, value in learned.method.weights().items()}
    # As for a finished run: the configuration from its record, the weights from their file.
    again = trial.build(type(trial.config).model_validate(json.loads(trial.config.model_dump_json())))
    torch.manual_seed(1)
    try:
        again.restore(load(save(weights)), learned.views.train.identities, CPU)
    except NotImplementedError as error:
        raise NotApplicable(
            "It cannot be restored: `whalebench explain` and `predict` will refuse its runs."
        ) from error
    return again


def _as_new(trial: Trial) -> Photos:
    """The test photos as `whalebench predict` shows photos that are in no fold."""
    benchmark, views = trial.toys.annotated, trial.views
    table = benchmark.catalog.table
    table = table[table["image"].isin(benchmark.split.parts(0).test)].reset_index(drop=True)
    paths, digests, masks = (tuple(table[name]) for name in ("path", "file_digest", "mask"))
    store = PhotoStore(benchmark.store.cache, paths, digests, masks)
    return show_new_photos(
        benchmark, 0, table, store, oracle=views.oracle, viewpoints=trial.config.sees_viewpoints()
    )


def declares_its_sizes(trial: Trial) -> str:
    """Photos are requested at the sizes that were decoded before the clock started."""
    learned = trial.after_learning()
    learned.scores("test")
    undeclared = sorted(trial.requested_sizes - set(learned.method.sizes()))
    if undeclared:
        named = ", ".join(f"{height} x {width}" for height, width in undeclared)
        raise CheckFailed(f"It asks for photos of {named} px, which sizes() does not name: name them there.")
    return "All photo sizes it asks for are named by sizes()."


def repeats_itself(trial: Trial) -> str:
    """The same seed gives the same scores, to the last bit."""
    complaint = (
        "Learned again with the same seed its scores differ, by {} of the spread: draw every random number "
        "from harness.seed or from torch's generator."
    )
    learned = trial.after_learning()
    if not trial.is_unmoved:
        refuse_difference(learned.scores(), trial.learn(trial.views).scores(), complaint)
    return "Learned again with the same seed, it gives the same scores."


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
    if not trial.is_unmoved:
        blind = trial.learn(trial.views_of(trial.toys.blank))
        refuse_difference(learned.scores(), blind.scores(), complaint)
    return "With grey test photos it learns the same."


def sees_pixels_alone(trial: Trial) -> str:
    """Its scores are the same where photos are renamed, moved and reordered, and test has other answers."""
    learned = trial.after_learning()
    complaint = (
        "Where photos have other names, folders and rows, and test photos other answers, it gives other "
        "scores, by {} of the spread: learn and score by what Photos.batch gives, and by the labels of train."
    )
    if not trial.is_unmoved:
        views = trial.views_of(trial.toys.disguised)
        # Inner folds are of the split, as its parts are, and photos keep their places in these.
        disguised = trial.learn(replace(views, inner_folds=trial.views.inner_folds))
        for part in learned.views.queries():
            refuse_difference(learned.scores(part), disguised.scores(part), complaint)
    return "With photos renamed and moved, and other answers to test, it gives the same scores."


def chooses_on_valid_and_learns_nothing(trial: Trial) -> str:
    """It learns the same where valid shows other labels, but for what it says that it chose by them.

    The harness goes on to judge by the right ones, so that what it is asked to choose stays the same.
    """
    learned, same = trial.after_learning(), "With the labels of valid exchanged it learns the same."
    if trial.is_unmoved:
        return same
    mislabelled = trial.learn(trial.views, method=Mislabelled(trial.kind, trial.config))
    if equal_weights(learned, mislabelled) and np.array_equal(
        learned.scores("test"), mislabelled.scores("test")
    ):
        return same
    before, after = learned.harness.chosen, mislabelled.harness.chosen
    chosen = sorted(name for name, value in after.items() if value != before.get(name))
    if not chosen:
        raise CheckFailed(
            "With the labels of valid exchanged it learns something else and does not say what it chose: "
            "learn from train, choose by harness.valid_map_at_5(), or tell harness.choose() what was chosen."
        )
    raise NotApplicable(f"It chooses by the labels of valid itself and says so: {', '.join(chosen)}.")


def answers_without_annotations(trial: Trial) -> str:
    """Where nothing is annotated it says what it lacks, or does without."""
    views = trial.views_of(trial.toys.plain)
    if missing := trial.build().missing_requirement(views.train, views.test):
        return f"Where nothing is annotated it says that there are no {missing}."
    try:
        trial.learn(views).scores()
    except Exception as error:
        raise CheckFailed(
            f"Where nothing is annotated it stops with {named(error)}: have "
            "missing_requirement() say what it lacks."
        ) from error
    return "Where nothing is annotated it does without."


def resumes(trial: Trial) -> str:
    """Stopped in every epoch but the first of each training, and in the last of all, it ends the same."""
    whole = trial.after_learning()
    epochs = whole.harness.curve()["epoch"].tolist()
    if len(epochs) < 2:
        raise NotApplicable("It has no two epochs to be stopped between.")
    # Those before are put back from their last epochs, which shows as well whether all was kept of them.
    places = [place for place, epoch in enumerate(epochs, start=1) if epoch > 1 or place == len(epochs)]
    with TemporaryDirectory(prefix="whalebench-check-", ignore_cleanup_errors=True) as folder:

        def learn(progress: Progress = SILENT) -> Learned:
            # Everything is kept, however long it takes.
            return trial.learn(trial.views, progress, CheckpointStore(Path(folder), max_share=math.inf))

        for before, place in pairwise([1, *places]):
            with suppress(Stopped):  # in an epoch that is learned again the next time
                learn(StopsInEpoch(place - before + 1))
            if not any(Path(folder).iterdir()):
                raise NotApplicable(
                    "Stopped, it begins anew: have it call harness.resume(parts) before its epochs."
                )
        again = learn()
    complaint = (
        "Stopped and taken up again its scores differ by {} of the spread: name all that changes while it "
        "learns to harness.resume()."
    )
    refuse_difference(whole.scores(), again.scores(), complaint)
    return f"Stopped {len(places)} time(s) and taken up again, it gives the same scores."


CHECKS: dict[str, Callable[[Trial], str]] = {
    "name": names_itself,
    "configuration": configures,
    "fields": describes_its_fields,
    "learns": learns,
    "guest": stays_a_guest,
    "scores": scores_have_their_shape,
    "embeddings": embeddings_have_their_shape,
    "one by one": scores_each_photo_by_itself,
    "bare photos": needs_no_labels,
    "one photo": keeps_individuals_of_one_photo,
    "unchanged": leaves_photos_as_they_are,
    "judged": is_evaluated,
    "lineage": declares_its_lineage,
    "restored": is_restored,
    "new photos": answers_new_photos,
    "sizes": declares_its_sizes,
    "same seed": repeats_itself,
    "goes on": resumes,
    "no peeking": does_not_peek,
    "pixels alone": sees_pixels_alone,
    "valid": chooses_on_valid_and_learns_nothing,
    "no annotations": answers_without_annotations,
}
"""By the name that each is reported under; most need what `learns` leaves behind."""
