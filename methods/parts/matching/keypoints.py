"""Key points of a photo and what two photos have in common by them: RootSIFT, ratio test, RANSAC."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from whalebench import MissingError

Motion = Literal["similarity", "homography"]
FEWEST = 4
"""Matches below which no motion is sought: three fit one by chance too often."""
SEED = 0
"""Of RANSAC, anew for every pair, so that a pair scores the same whatever was scored before it."""
ROUNDS = 1000
"""Most samples that RANSAC draws for a pair."""


SECONDS = {"ratio": 1.5e-3, "lightglue": 0.6}
"""Of one pair with KEYPOINTS each on one core of a laptop; it grows with the square of their number."""
KEYPOINTS = 500


@dataclass(frozen=True)
class Matching:
    """How key points are found and compared outside of `sift`: its fields, at their defaults."""

    size: tuple[int, int] = (256, 384)
    keypoints: int = KEYPOINTS
    contrast: float = 0.02
    ratio: float = 0.8
    mutual: bool = True
    motion: Motion = "similarity"
    tolerance: float = 8.0


@dataclass(frozen=True, eq=False)
class Keypoints:
    """The key points of one photo."""

    places: NDArray[np.float32]
    """(points, 4): x and y in pixels, diameter in pixels, orientation in radians."""
    descriptors: NDArray[np.uint8]
    """(points, 128), SIFT's, which are whole numbers."""

    def __len__(self) -> int:
        return len(self.places)


def require_opencv() -> None:
    """Raises WhalebenchError where OpenCV is not installed."""
    if find_spec("cv2") is None:
        raise MissingError(
            "sift needs OpenCV, a package that is not installed: install whalebench[sift], or opencv-python-"
            "headless."
        )


def hours_of(pairs: int, keypoints: int, matcher: str) -> float:
    """About how long so many pairs of photos take to compare, in hours."""
    return pairs * SECONDS[matcher] * (keypoints / KEYPOINTS) ** 2 / 3600


def find_keypoints(pixels: NDArray[np.uint8], most: int, contrast: float) -> Keypoints:
    """The most distinct key points of a photo (height, width, 3), RGB (Lowe, 2004); perhaps none."""
    import cv2  # noqa: PLC0415  (an extra)

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT.create(nfeatures=most, contrastThreshold=contrast)
    found, descriptors = sift.detectAndCompute(grey, None)
    if not found:
        return Keypoints(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    places = np.array([(*point.pt, point.size, np.deg2rad(point.angle)) for point in found], np.float32)
    # Ties at the last place let SIFT give more than it was asked for.
    return Keypoints(places[:most], np.asarray(descriptors).astype(np.uint8)[:most])


def rooted(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RootSIFT (Arandjelović & Zisserman, 2012): (points, 128) of length 1, roots of shares of the sum."""
    values = descriptors.astype(np.float32)
    root: NDArray[np.float32] = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1e-7))
    return root


def match(
    query: NDArray[np.float32], gallery: NDArray[np.float32], ratio: float, *, mutual: bool
) -> NDArray[np.int64]:
    """Pairs (matches, 2) of rows of the two photos' RootSIFT descriptors that are each other's.

    A query point is matched to its nearest gallery point if that is nearer than ratio times the second
    nearest (Lowe's test); with mutual, only if it is the nearest of that gallery point in turn.
    """
    if not len(query) or len(gallery) < 2:
        return np.zeros((0, 2), np.int64)
    likeness = query @ gallery.T
    rows, nearest = np.arange(len(query)), likeness.argmax(axis=1)
    best = likeness[rows, nearest]
    likeness[rows, nearest] = -1.0
    # All have length 1: squared distances are 2 - 2 x likeness.
    rows = rows[np.maximum(1 - best, 0) < ratio**2 * np.maximum(1 - likeness.max(axis=1), 0)]
    if mutual:
        likeness[np.arange(len(query)), nearest] = best
        rows = rows[likeness[:, nearest[rows]].argmax(axis=0) == rows]
    return np.stack([rows, nearest[rows]], axis=1)


def count_inliers(
    query: NDArray[np.float32], gallery: NDArray[np.float32], motion: Motion, tolerance: float
) -> int:
    """How many matched points (matches, 2) one motion takes to their partners, within tolerance pixels.

    RANSAC (Fischler & Bolles, 1981) from one seed; 0 for fewer than FEWEST matches.
    """
    if len(query) < FEWEST:
        return 0
    import cv2  # noqa: PLC0415  (an extra)

    cv2.setRNGSeed(SEED)
    how: dict[str, Any] = {
        "method": cv2.RANSAC, "ransacReprojThreshold": tolerance, "maxIters": ROUNDS, "confidence": 0.99
    }  # fmt: skip
    seek = cv2.findHomography if motion == "homography" else cv2.estimateAffinePartial2D
    _, inside = seek(query, gallery, **how)
    return 0 if inside is None else int(np.count_nonzero(inside))
