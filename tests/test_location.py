"""How well animals were found: by hand, and where nothing was found or annotated."""

from __future__ import annotations

import numpy as np
import pytest

from whalebench.benchmarks.core.photos import Annotations, Photos
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.running.location import (
    box_iou,
    evaluate_location,
    location_summary,
)
from whalebench.methods.method import Located

NAN = np.nan


def photos(boxes: list[list[float]], landmarks: list[list[list[float]]]) -> Photos:
    count = len(boxes)
    names = tuple("abc"[: len(landmarks[0])])
    return Photos(
        images=tuple(f"p{row}" for row in range(count)),
        digests=("",) * count,
        identities=("ann", "bob"),
        store=PhotoStore(None, (), (), ()),  # type: ignore[arg-type]
        rows=np.arange(count),
        shapes=np.tile(np.array([100, 200]), (count, 1)),
        annotations=Annotations(
            np.array(boxes, np.float32), np.array(landmarks, np.float32), names, np.zeros(count, np.bool_)
        ),
    )


def test_a_missed_box_counts_as_nothing_and_a_photo_without_one_not_at_all() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0.5, 0.5, 1, 1], [NAN] * 4])
    found = np.array([[0, 0, 1, 1], [NAN] * 4, [0, 0, 0.5, 0.5], [0, 0, 1, 1]])
    assert box_iou(found, truth).tolist()[:3] == [1.0, 0.0, 0.0]
    assert np.isnan(box_iou(found, truth)[3])


def test_landmark_errors_are_in_pixels_and_in_shares_of_the_largest_distance() -> None:
    """3-4-5: 6 pixels across and 8 down is 10; the landmarks are 100 pixels apart."""
    truth = [[[0.2, 0.5], [0.7, 0.5]], [[NAN, NAN], [0.7, 0.5]]]
    found = np.array([[[0.23, 0.58], [0.7, 0.5]], [[0.2, 0.5], [0.7, 0.5]]], np.float32)
    judged = evaluate_location(Located(landmarks=found), photos([[NAN] * 4] * 2, truth))
    assert judged["landmark_pixels"].tolist()[0] == pytest.approx(5.0, abs=1e-4)
    assert judged["landmark_error"].tolist()[0] == pytest.approx(0.05, abs=1e-5)
    assert judged.loc[1].isna().all()


def test_a_summary_counts_photos_and_fallbacks() -> None:
    located = Located(
        boxes=np.array([[0, 0, 1, 1], [0, 0, 0.5, 1]], np.float32), fallback=np.array([True, False])
    )
    judged = evaluate_location(located, photos([[0, 0, 1, 1]] * 2, [[[NAN, NAN]]] * 2))
    assert location_summary(judged) == {"photos": 2, "box_iou_mean": 0.75, "fallback": 1}
    assert list(judged) == ["box_iou", "fallback"]
