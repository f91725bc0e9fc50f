"""How well a method found the animals: its boxes, landmarks and masks against the annotated ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.photos import Photos
from whalebench.methods.method import Located

Floats = NDArray[np.float64]
COLUMNS = ("box_iou", "landmark_error", "landmark_pixels", "mask_iou", "fallback")
"""Of the per-query table, where a method locates and the photos are annotated."""


def judge_location(located: Located, annotated: Photos) -> pd.DataFrame:
    """One row a photo: box_iou, landmark_error, landmark_pixels, mask_iou, fallback, as far as they exist.

    landmark_pixels is the mean distance between found and annotated landmarks in pixels of the photo as it
    was taken; landmark_error the same over the largest distance between two annotated landmarks of that
    photo. NaN where nothing is annotated.
    """
    assert annotated.annotations is not None
    found: dict[str, NDArray[np.generic]] = {}
    if located.boxes is not None:
        found["box_iou"] = box_iou(located.boxes, annotated.annotations.boxes[annotated.rows])
    if located.landmarks is not None:
        scale = annotated.shapes[:, None, ::-1].astype(np.float64)
        truth = annotated.annotations.landmarks[annotated.rows] * scale
        pixels = np.linalg.norm(located.landmarks * scale - truth, axis=2).mean(axis=1)
        found |= {"landmark_error": pixels / _extent(truth), "landmark_pixels": pixels}
    if located.masks is not None:
        found["mask_iou"] = _mask_ious(located.masks, annotated)
    if located.fallback is not None:
        found["fallback"] = located.fallback
    return pd.DataFrame(found)


def location_summary(judged: pd.DataFrame) -> dict[str, float | int]:
    """Means of the IoUs, median and 90th percentile of the landmark error, and how many photos fell back."""
    numbers: dict[str, float | int] = {"photos": len(judged)}
    for name in ("box_iou", "mask_iou"):
        if name in judged:
            numbers[f"{name}_mean"] = float(judged[name].mean())
    for name in ("landmark_error", "landmark_pixels"):
        if name in judged:
            numbers[f"{name}_median"] = float(judged[name].median())
            numbers[f"{name}_p90"] = float(judged[name].quantile(0.9))
    if "fallback" in judged:
        numbers["fallback"] = int(judged["fallback"].sum())
    return numbers


def box_iou(found: NDArray[np.floating], truth: NDArray[np.floating]) -> Floats:
    """Intersection over union (photos,) of boxes (photos, 4): 0 where none was found, NaN without a truth.

    >>> box_iou(np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[0.5, 0.0, 1.5, 1.0]])).round(3)
    array([0.333])
    """
    found, truth = found.astype(np.float64), truth.astype(np.float64)
    low = np.maximum(found[:, :2], truth[:, :2])
    high = np.minimum(found[:, 2:], truth[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    both = (found[:, 2:] - found[:, :2]).prod(axis=1) + (truth[:, 2:] - truth[:, :2]).prod(axis=1) - shared
    overlap = shared / np.where(both > 0, both, np.nan)
    missed = np.isnan(found).any(axis=1) & np.isfinite(truth).all(axis=1)
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
