"""What came of a run: how good its scores are, and the files it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from whalebench import RunFailedError, table_cell, visible
from whalebench.benchmarks.clustering.groups import evaluate_grouping
from whalebench.benchmarks.core import record as records
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.record import WEIGHTS, RunRecord
from whalebench.benchmarks.core.workspace import inherit_permissions
from whalebench.benchmarks.running.evaluation import CALIBRATION, Evaluation, evaluate_scores
from whalebench.benchmarks.running.folds import NEW, SCORED, OpenFold, Views
from whalebench.benchmarks.running.harness import (
    RunHarness,
    as_numbers,
    checked_embeddings,
    checked_places,
    checked_weights,
    refuse_other_variants,
)
from whalebench.benchmarks.running.location import evaluate_location, location_summary, location_warnings
from whalebench.benchmarks.running.matches import Compared, match_photos
from whalebench.methods.method import Located, MethodConfig
from whalebench.methods.parts.fusion import OutOfFold
from whalebench.methods.parts.pipeline import Pipeline, SeenWindows
from whalebench.methods.parts.retrieval import Gallery, GalleryConfig
from whalebench.reports.metrics.sides import SideView, precision_by_side
from whalebench.reports.metrics.summary import average_precision_at_r
from whalebench.splits.table import GALLERY

Floats = NDArray[np.float64]
COLUMNS = ("box_iou", "landmark_error", "landmark_pixels", "mask_iou", "mask_precision", "fallback")
"""Of the per-query table, where a method locates and the photos are annotated."""
NUMBERS = ("metrics", "valid_metrics", "variants", "cmc", "calibration", "new_curve", "location", "grouping")
"""Fields of the outcome that are fields of the record, too."""


@dataclass(frozen=True)
class Outcome(Evaluation):
    """Everything a record and its files say about how good a run is."""

    variants: dict[str, dict[str, dict[str, float]]]
    """By name of other ways to score: `metrics` and `valid_metrics`."""
    location: dict[str, dict[str, float | int]]
    """How well the animals were found, by part; empty for a method that does not look for them."""
    grouping: dict[str, Any]
    """How well test is grouped without names, see `evaluate_grouping`; empty without embeddings."""
    arrays: dict[str, NDArray[Any]]
    """Scores and embeddings by name, one row a photo, and of train which bag gave them."""
    names: dict[str, tuple[str, ...]]
    """What the rows and columns of the arrays are."""
    weights: Mapping[str, torch.Tensor]
    lineage: dict[str, tuple[str, ...]]
    """Digests of the photos that each part of the method was fitted on."""
    matches: pd.DataFrame | None
    """Which photos the answers rest on, see `matches.match_photos`; None where that cannot be told."""

    def numbers(self) -> dict[str, Any]:
        """What the record says of how good the run is, by the record's fields."""
        return {name: getattr(self, name) for name in NUMBERS}


@dataclass(frozen=True)
class Submission:
    """Everything a method that has learned hands in of a fold's photos, before the answers are opened."""

    config: MethodConfig
    scores: dict[str, NDArray[np.float32]]
    """By part."""
    embeddings: dict[str, NDArray[np.float32]]
    """By part, of the known photos of train, too; empty for a method that has none."""
    located: dict[str, Located]
    """By part, where the animals are; empty for a method that does not look for them, and for an oracle."""
    variants: dict[str, dict[str, NDArray[np.float32]]]
    """By name of other ways to score, their scores by part."""
    weights: Mapping[str, torch.Tensor]
    windows: SeenWindows | None
    """Through which the test photos are seen; None where they are seen whole."""
    out_of_fold: OutOfFold | None = None
    """What a bagged method said of train; None of another one."""


def ask(method: Pipeline, views: Views, harness: RunHarness) -> Submission:
    """What a method that has learned says of valid and test, in the same way: bare photos in, scores out.

    Raises RunFailedError for scores that cannot be, and where valid shares a photo with train or test.
    """
    harness.calibrated(CALIBRATION, views.valid)
    shown = views.queries()
    if views.gallery is not None:
        return _ask_for_embeddings(method, shown, harness)
    scores = {"valid": score_photos(method, shown["valid"])}
    with harness.usage.scoring(len(shown["test"])):
        scores["test"] = score_photos(method, shown["test"])
    embedded = {part: method.embed(photos) for part, photos in shown.items()}
    located = {} if views.oracle else {part: method.locate(shown[part]) for part in SCORED}
    given = {part: method.variants(shown[part]) for part in SCORED}
    refuse_other_variants(method.name, given)
    return Submission(
        config=method.config,
        scores=scores,
        embeddings=checked_embeddings(method.name, embedded, shown),
        located={
            part: checked_places(method.name, each, len(shown[part]))
            for part, each in located.items()
            if each is not None
        },
        variants={
            name: {part: score_photos(method, shown[part], given[part][name]) for part in SCORED}
            for name in given["test"]
        },
        weights=checked_weights(method.name, method.weights()),
        windows=method.windows(shown["test"]),
        out_of_fold=method.out_of_fold,
    )


def _ask_for_embeddings(method: Pipeline, shown: Mapping[str, Photos], harness: RunHarness) -> Submission:
    """What a method hands in of a disjoint fold: embeddings alone, as the gallery has no names yet."""
    embedded = {part: method.embed(photos) for part, photos in shown.items() if part != "test"}
    with harness.usage.scoring(len(shown["test"])):
        embedded["test"] = method.embed(shown["test"])
    embeddings = checked_embeddings(method.name, embedded, shown)
    if not embeddings:
        raise RunFailedError(f"{method.name} embeds no photos, so none can be compared with a gallery.")
    weights, windows = checked_weights(method.name, method.weights()), method.windows(shown["test"])
    return Submission(method.config, {}, embeddings, {}, {}, weights, windows)


def gallery_scores(submission: Submission, views: Views, opened: OpenFold) -> dict[str, NDArray[np.float32]]:
    """Scores (photos, candidates) of valid by the known photos of train and of test by its gallery.

    By the rule of the method's own gallery, else the nearest photo; who has no photo there scores FLOOR.
    """
    rule, column = getattr(submission.config, "gallery", None), columns_of(opened.candidates)
    gallery = Gallery(rule if isinstance(rule, GalleryConfig) else GalleryConfig())
    assert views.gallery is not None
    known = views.train.known()  # the first candidates are the individuals of train
    of_test = np.array([column[name] for name in opened.gallery], np.int64)
    scores = {}
    for part, asked, of, photos, labels in (
        ("valid", views.valid, "train", known, known.labels),
        ("test", views.test, GALLERY, views.gallery, of_test),
    ):
        gallery.fill(submission.embeddings[of], labels, len(opened.candidates), photos.viewpoints)
        scores[part] = gallery.scores(submission.embeddings[part], asked.viewpoints)
    return scores


def evaluate_parts(submission: Submission, views: Views, opened: OpenFold, harness: RunHarness) -> Outcome:
    """The outcome of what a method has handed in, evaluated by the answers to valid and test."""
    identities, answers = opened.candidates, opened.answers
    scores, embeddings = submission.scores, submission.embeddings
    if views.gallery is not None:
        scores = gallery_scores(submission, views, opened)
    precisions = {part: _precision_at_r(embeddings, part, views, opened) for part in SCORED if embeddings}
    evaluation = evaluate_scores(identities, scores, answers, submission.config, precisions)
    for name, value in evaluation.chosen.items():
        harness.choose(name, value)
    location = {
        part: evaluate_location(located, opened.annotated[part])
        for part, located in submission.located.items()
    }
    more = [location["test"]] if "test" in location else []
    if embeddings and any(opened.known_viewpoints):
        more.append(_by_side(embeddings, views, opened))
    evaluation = replace(evaluation, queries=pd.concat([evaluation.queries, *more], axis=1))
    found = {part: location_summary(table) for part, table in location.items()}
    arrays: dict[str, NDArray[Any]] = {f"{part}_scores": values for part, values in scores.items()}
    of_train, names_of_train = _kept_of_train(submission.out_of_fold, opened)
    arrays |= of_train
    for warning in (*location_warnings(found), *records.shortened_warnings(arrays)):
        harness.warn(warning)
    return Outcome(
        **vars(evaluation),
        variants=_evaluate_variants(submission, identities, opened),
        location=found,
        grouping=evaluate_grouping(embeddings, answers),
        arrays=arrays
        | {f"{part}_embeddings": values for part, values in embeddings.items() if part in SCORED},
        names={"identities": identities} | {part: answers[part].images for part in SCORED} | names_of_train,
        weights=submission.weights,
        lineage=opened.lineage(harness.lineage),
        matches=match_photos(evaluation.queries, _compared(embeddings, views, opened), submission.windows),
    )


def _kept_of_train(
    found: OutOfFold | None, opened: OpenFold
) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[str, ...]]]:
    """The arrays of what was said of train out of fold, and the names of its photos; else nothing."""
    if found is None:
        return {}, {}
    arrays: dict[str, NDArray[Any]] = {"train_scores": found.scores, "train_bags": found.bags}
    if found.embeddings is not None:
        arrays["train_embeddings"] = found.embeddings
    return arrays, {"train": tuple(opened.train_images[row] for row in found.rows)}


def score_photos(
    method: Pipeline, photos: Photos, given: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The method's scores (photos, identities), or others of its that are given, checked.

    Raises RunFailedError for what is no numbers, of another shape, or not finite.
    """
    scores = as_numbers(method.name, method.score(photos) if given is None else given, "scores")
    wanted = (len(photos), len(photos.identities))
    if scores.shape != wanted:
        raise RunFailedError(
            f"{method.name} gave scores of shape {scores.shape}, not {wanted}: a row a photo, a column "
            f"an individual; mend the method's score()."
        )
    if not np.isfinite(scores).all():
        raise RunFailedError(f"{method.name} gave scores that are not finite: lower the learning rate.")
    return scores


def _evaluate_variants(
    submission: Submission, identities: tuple[str, ...], opened: OpenFold
) -> dict[str, dict[str, dict[str, float]]]:
    """How good its other scores are, each with its own choices on valid."""
    evaluated = {}
    for name, scores in submission.variants.items():
        evaluation = evaluate_scores(identities, scores, opened.answers, submission.config)
        evaluated[name] = {"metrics": evaluation.metrics, "valid_metrics": evaluation.valid_metrics}
    return evaluated


def _precision_at_r(
    embeddings: dict[str, NDArray[np.float32]], part: str, views: Views, opened: OpenFold
) -> NDArray[np.float64]:
    label, of, labels = columns_of(opened.candidates), "train", views.train.known().labels
    if part == "test" and opened.gallery:
        of, labels = GALLERY, np.array([label[name] for name in opened.gallery], np.int64)
    truth = opened.answers[part].truth
    wanted = np.array([-1 if name == NEW else label[name] for name in truth], np.int64)
    return average_precision_at_r(embeddings[part], wanted, embeddings[of], labels)


def _by_side(embeddings: Mapping[str, NDArray[np.float32]], views: Views, opened: OpenFold) -> pd.DataFrame:
    """A row a test photo of `BY_SIDE`, from embeddings alone."""
    test, compared = opened.answers["test"], _compared(embeddings, views, opened)
    assert test.traits is not None and compared is not None
    return precision_by_side(
        SideView(compared.query, test.truth, test.traits["viewpoint"].tolist()),
        SideView(compared.gallery, compared.identities, opened.known_viewpoints),
    )


def _compared(
    embeddings: Mapping[str, NDArray[np.float32]], views: Views, opened: OpenFold
) -> Compared | None:
    """The test photos and those that they are compared with; None without embeddings."""
    if not embeddings:
        return None
    known = views.train.known()
    return Compared(
        embeddings["test"],
        embeddings[GALLERY if opened.gallery else "train"],
        opened.known_images,
        opened.gallery or tuple(known.identities[label] for label in known.labels),
    )


def write_outcome(folder: Path, record: RunRecord, outcome: Outcome, curve: pd.DataFrame) -> None:
    """Leaves every file of the run in the folder, the record last."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file as save_weights

    records.write_predictions(folder, outcome.queries)
    if outcome.matches is not None:
        records.write_matches(folder, outcome.matches)
    (folder / records.CURVE).write_text(curve_text(curve), encoding="utf-8", newline="")
    records.write_scores(folder, outcome.arrays, outcome.names)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in outcome.weights.items()}
    # The weights carry the digests of the photos each part was fitted on, so that a part taken up elsewhere
    # can be held against the photos it would judge.
    try:
        save_weights(weights, folder / WEIGHTS, {"lineage": json.dumps(outcome.lineage)})
    except SafetensorError as error:
        raise records.system_error(error) from error
    inherit_permissions(folder / WEIGHTS)
    records.write_record(folder, record)


def curve_text(curve: pd.DataFrame) -> str:
    """The losses by epoch as CSV; a method may call its stages anything."""
    stages = [str(table_cell(visible(str(stage)))) for stage in curve["stage"]]
    return curve.assign(stage=stages).to_csv(index=False)
