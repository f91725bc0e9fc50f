"""How well a run found the animals: boxes, landmarks and masks held against the annotated ones."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import isnan, nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.core.masks import mask_iou, mask_precision
from whalebench.benchmarks.core.photos import Photos
from whalebench.methods.method import Located

Floats = NDArray[np.float64]
LEAST_OVERLAP = 0.1
"""Mean IoU below which boxes or masks could as well have been guessed."""
MOST_ERROR = 0.5
"""The same of the median landmark error, above this."""
MOST_FALLBACK = 0.5
"""Share of photos above which seeing the whole photo is no exception."""
LOOK = "the annotations may be wrong (look at some), or the finder learned too little (give it more epochs)."


def evaluate_location(located: Located, annotated: Photos) -> pd.DataFrame:
    """One row a photo: box_iou, landmark_error, landmark_pixels, mask_iou, mask_precision, fallback if known.

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
        columns |= _mask_overlaps(located.masks, annotated)
    if located.fallback is not None:
        columns["fallback"] = located.fallback
    return pd.DataFrame(columns)


def location_summary(table: pd.DataFrame) -> dict[str, float | int]:
    """Means of IoUs and mask precision, median and p90 of the landmark error, and how many fell back."""
    numbers: dict[str, float | int] = {"photos": len(table)}
    for name in ("box_iou", "mask_iou", "mask_precision"):
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


def _mask_overlaps(masks: NDArray[np.float32], annotated: Photos) -> dict[str, NDArray[np.generic]]:
    """By column the IoU and the precision (photos,) of masks, NaN where none is annotated."""
    assert annotated.annotations is not None
    ious, precisions = np.full((2, len(masks)), np.nan)
    for place in np.flatnonzero(annotated.annotations.has_mask[annotated.rows]).tolist():
        truth = annotated.batch([place], (masks.shape[1], masks.shape[2])).masks
        assert truth is not None
        found, animal = masks[[place]] >= 0.5, truth[:, 0].numpy() >= 0.5
        ious[place], precisions[place] = mask_iou(found, animal)[0], mask_precision(found, animal)[0]
    return {"mask_iou": ious, "mask_precision": precisions}


def location_warnings(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A sentence for each thing that was not found, by `location_summary` of `test` and `valid`.

    What is annotated in neither part is not judged; that photos fell back is seen without annotations. No
    sentence has a number of its run, so that a board says it once for all folds and seeds.
    """
    doubts = []
    for key, what in (("box_iou_mean", "Boxes"), ("mask_iou_mean", "Masks")):
        part, overlap = _known(found, key)
        if overlap < LEAST_OVERLAP:
            doubts.append(f"{what} found on {part} miss the annotated ones (mean IoU below {LEAST_OVERLAP})")
    part, error = _known(found, "landmark_error_median")
    if error > MOST_ERROR:
        far = f"median off by more than {MOST_ERROR} of the largest distance between two"
        doubts.append(f"Landmarks found on {part} miss the annotated ones ({far})")
    part, fallback = _known(found, "fallback")
    if part and fallback > MOST_FALLBACK * found[part]["photos"]:
        doubts.append(f"Most {part} photos were seen whole, as what was found on them made no sense")
    return [f"{doubt}: {LOOK}" for doubt in doubts]


def _known(found: Mapping[str, Mapping[str, float]], key: str) -> tuple[str, float]:
    """The part, test before valid, in which a number is known, and the number; NaN where in none."""
    known = ((part, found[part].get(key, nan)) for part in ("test", "valid") if part in found)
    return next(((part, value) for part, value in known if not isnan(value)), ("", nan))
