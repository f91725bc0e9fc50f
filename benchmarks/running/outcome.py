"""What came of a run: how good its scores are, how well it found the animals, and the files it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from whalebench import RunFailedError
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.record import (
    CURVE,
    WEIGHTS,
    RunRecord,
    write_predictions,
    write_record,
    write_scores,
)
from whalebench.benchmarks.core.workspace import inherit_permissions
from whalebench.benchmarks.running.evaluation import CALIBRATION, Evaluation, evaluate_scores
from whalebench.benchmarks.running.folds import NEW, Answers, Views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.methods.method import Located
from whalebench.methods.parts.pipeline import Pipeline
from whalebench.reports.metrics.summary import average_precision_at_r

Floats = NDArray[np.float64]
COLUMNS = ("box_iou", "landmark_error", "landmark_pixels", "mask_iou", "fallback")
"""Of the per-query table, where a method locates and the photos are annotated."""
NUMBERS = ("metrics", "valid_metrics", "variants", "cmc", "calibration", "new_curve", "location")
"""Fields of the outcome that are fields of the record, too."""


@dataclass(frozen=True)
class Outcome(Evaluation):
    """Everything a record and its files say about how good a run is."""

    variants: dict[str, dict[str, dict[str, float]]]
    """By name of other ways to score: `metrics` and `valid_metrics`."""
    location: dict[str, dict[str, float | int]]
    """How well the animals were found, by part; empty for a method that does not look for them."""
    arrays: dict[str, NDArray[np.float32]]
    """Scores and embeddings by name, one row a photo."""
    names: dict[str, tuple[str, ...]]
    """What the rows and columns of the arrays are."""
    weights: Mapping[str, torch.Tensor]
    lineage: dict[str, tuple[str, ...]]
    """Digests of the photos that each part of the method was fitted on."""

    def numbers(self) -> dict[str, Any]:
        """What the record says of how good the run is, by the record's fields."""
        return {name: getattr(self, name) for name in NUMBERS}


def evaluate_parts(method: Pipeline, views: Views, harness: RunHarness) -> Outcome:
    """The outcome of a method that has learned: its scores of valid and test evaluated.

    Valid goes the same way as test: bare photos in, scores out. Raises RunFailedError where it shares a photo
    with train or test.
    """
    harness.calibrated(CALIBRATION, views.valid)
    shown = views.queries()
    scores = {part: score_photos(method, shown[part]) for part in ("valid", "test")}
    answers = {"valid": views.valid_answers, "test": views.test_answers}
    embeddings = _embeddings(method, shown)
    precisions = {
        part: _precision_at_r(embeddings, part, answers[part], views.train)
        for part in (answers if embeddings else ())
    }
    identities = views.train.identities
    evaluation = evaluate_scores(identities, scores, answers, method.config, precisions)
    for name, value in evaluation.chosen.items():
        harness.choose(name, value)
    location = _evaluate_locations(method, views)
    if "test" in location:
        queries = pd.concat([evaluation.queries, location["test"]], axis=1)
        evaluation = replace(evaluation, queries=queries)
    return Outcome(
        **vars(evaluation),
        variants=_evaluate_variants(method, views),
        location={part: location_summary(table) for part, table in location.items()},
        arrays={f"{part}_scores": values for part, values in scores.items()}
        | {f"{part}_embeddings": values for part, values in embeddings.items() if part != "train"},
        names={"identities": identities, "valid": views.valid.images, "test": views.test.images},
        weights=method.weights(),
        lineage=harness.lineage,
    )


def score_photos(method: Pipeline, photos: Photos) -> NDArray[np.float32]:
    """The method's scores (photos, identities); raises RunFailedError for another shape, or not finite."""
    return _checked(method, method.score(photos), photos)


def _checked(method: Pipeline, given: NDArray[np.float32], photos: Photos) -> NDArray[np.float32]:
    scores = np.asarray(given, np.float32)
    wanted = (len(photos), len(photos.identities))
    if scores.shape != wanted:
        raise RunFailedError(
            f"{method.name} gave scores of shape {scores.shape}, not {wanted}: a row a photo, a column "
            f"an individual; mend the method's score()."
        )
    if not np.isfinite(scores).all():
        raise RunFailedError(f"{method.name} gave scores that are not finite: lower the learning rate.")
    return scores


def _evaluate_variants(method: Pipeline, views: Views) -> dict[str, dict[str, dict[str, float]]]:
    """How good its other scores are, each with its own choices on valid."""
    shown = views.queries()
    given = {part: method.variants(shown[part]) for part in ("valid", "test")}
    answers = {"valid": views.valid_answers, "test": views.test_answers}
    evaluated = {}
    for name in given["test"]:
        scores = {part: _checked(method, variants[name], shown[part]) for part, variants in given.items()}
        evaluation = evaluate_scores(views.train.identities, scores, answers, method.config)
        evaluated[name] = {"metrics": evaluation.metrics, "valid_metrics": evaluation.valid_metrics}
    return evaluated


def _evaluate_locations(method: Pipeline, views: Views) -> dict[str, pd.DataFrame]:
    """How well the animals of each part were found; nothing for an oracle, who did not have to look."""
    tables: dict[str, pd.DataFrame] = {}
    for part, annotated in views.annotated.items():
        located = None if views.oracle else method.locate(views.queries()[part])
        if located is not None:
            tables[part] = evaluate_location(located, annotated)
    return tables


def _embeddings(method: Pipeline, shown: dict[str, Photos]) -> dict[str, NDArray[np.float32]]:
    """Embeddings by part; empty for a method that has none."""
    embeddings: dict[str, NDArray[np.float32]] = {}
    for part, photos in shown.items():
        embedded = method.embed(photos)
        if embedded is None:
            return {}
        embeddings[part] = np.asarray(embedded, np.float32)
    return embeddings


def _precision_at_r(
    embeddings: dict[str, NDArray[np.float32]], part: str, answers: Answers, train: Photos
) -> NDArray[np.float64]:
    label = columns_of(train.identities)
    wanted = np.array([-1 if truth == NEW else label[truth] for truth in answers.truth], np.int64)
    return average_precision_at_r(embeddings[part], wanted, embeddings["train"], train.known().labels)


def evaluate_location(located: Located, annotated: Photos) -> pd.DataFrame:
    """One row a photo: box_iou, landmark_error, landmark_pixels, mask_iou, fallback, as far as they exist.

    landmark_pixels is the mean distance between found and annotated landmarks in pixels of the photo as it
    was taken; landmark_error the same over the largest distance between two annotated landmarks of that
    photo. NaN where nothing is annotated.
    """
    assert annotated.annotations is not None
    columns: dict[str, NDArray[np.generic]] = {}
    if located.boxes is not None:
        columns["box_iou"] = box_iou(located.boxes, annotated.annotations.boxes[annotated.rows])
    if located.landmarks is not None:
        scale = annotated.shapes[:, None, ::-1].astype(np.float64)
        truth = annotated.annotations.landmarks[annotated.rows] * scale
        pixels = np.linalg.norm(located.landmarks * scale - truth, axis=2).mean(axis=1)
        columns |= {"landmark_error": pixels / _extent(truth), "landmark_pixels": pixels}
    if located.masks is not None:
        columns["mask_iou"] = _mask_ious(located.masks, annotated)
    if located.fallback is not None:
        columns["fallback"] = located.fallback
    return pd.DataFrame(columns)


def location_summary(table: pd.DataFrame) -> dict[str, float | int]:
    """Means of the IoUs, median and 90th percentile of the landmark error, and how many photos fell back."""
    numbers: dict[str, float | int] = {"photos": len(table)}
    for name in ("box_iou", "mask_iou"):
        if name in table:
            numbers[f"{name}_mean"] = float(table[name].mean())
    for name in ("landmark_error", "landmark_pixels"):
        if name in table:
            numbers[f"{name}_median"] = float(table[name].median())
            numbers[f"{name}_p90"] = float(table[name].quantile(0.9))
    if "fallback" in table:
        numbers["fallback"] = int(table["fallback"].sum())
    return numbers


def box_iou(boxes: NDArray[np.floating], truth: NDArray[np.floating]) -> Floats:
    """Intersection over union (photos,) of boxes (photos, 4): 0 where none was found, NaN without a truth.

    >>> box_iou(np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[0.5, 0.0, 1.5, 1.0]])).round(3)
    array([0.333])
    """
    boxes, truth = boxes.astype(np.float64), truth.astype(np.float64)
    low = np.maximum(boxes[:, :2], truth[:, :2])
    high = np.minimum(boxes[:, 2:], truth[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    both = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (truth[:, 2:] - truth[:, :2]).prod(axis=1) - shared
    overlap = shared / np.where(both > 0, both, np.nan)
    missed = np.isnan(boxes).any(axis=1) & np.isfinite(truth).all(axis=1)
    return np.asarray(np.where(missed, 0.0, overlap), np.float64)


def _extent(landmarks: Floats) -> Floats:
    """The largest distance (photos,) between two of landmarks (photos, landmarks, 2), NaN without one."""
    pairs = combinations(range(landmarks.shape[1]), 2)
    apart = [np.linalg.norm(landmarks[:, one] - landmarks[:, other], axis=1) for one, other in pairs]
    largest = np.max(apart, axis=0) if apart else np.full(len(landmarks), np.nan)
    return np.where(largest > 0, largest, np.nan)


def _mask_ious(masks: NDArray[np.float32], annotated: Photos) -> Floats:
    assert annotated.annotations is not None
    result = np.full(len(masks), np.nan)
    for place in np.flatnonzero(annotated.annotations.has_mask[annotated.rows]).tolist():
        truth = annotated.batch([place], (masks.shape[1], masks.shape[2])).masks
        assert truth is not None
        one, other = masks[place] >= 0.5, truth[0, 0].numpy() >= 0.5
        union = (one | other).sum()
        result[place] = (one & other).sum() / union if union else np.nan
    return result


def write_outcome(folder: Path, record: RunRecord, outcome: Outcome, curve: pd.DataFrame) -> None:
    """Leaves every file of the run in the folder, the record last."""
    from safetensors.torch import save_file as save_weights

    write_predictions(folder, outcome.queries)
    curve.to_csv(folder / CURVE, index=False)
    write_scores(folder, outcome.arrays, outcome.names)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in outcome.weights.items()}
    # The weights carry the digests of the photos each part was fitted on, so that a part taken up elsewhere
    # can be held against the photos it would judge.
    save_weights(weights, folder / WEIGHTS, {"lineage": json.dumps(outcome.lineage)})
    inherit_permissions(folder / WEIGHTS)
    write_record(folder, record)
