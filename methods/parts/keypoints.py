"""Key points of photos, and how many of them two photos share: RootSIFT, ratio test and RANSAC.

LightGlue, an extra, is a learned matcher in the place of the ratio test. A gallery of key points is compared
with queries pair by pair: all of its photos, or those of a shortlist that another method makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from whalebench import MissingError, RunFailedError
from whalebench.benchmarks.core.arrays import top_columns
from whalebench.benchmarks.core.photos import CPU, Photos, Size
from whalebench.benchmarks.core.usage import STARTING_WEIGHTS
from whalebench.methods.method import PartConfig, Search
from whalebench.methods.parts.networks.weights import digest_weights
from whalebench.methods.parts.training.config import PhotoSize

Motion = Literal["similarity", "homography"]
MIN_MATCHES = 4
"""Matches below which no motion is estimated: three fit one by chance too often."""
RANSAC_SEED = 0
"""Set anew for every pair, so that a pair scores the same whatever was scored before it."""
RANSAC_ITERATIONS = 1000
KEYPOINTS = 500
SECONDS = {"ratio": 1.5e-3, "lightglue": 0.6}
"""To compare two photos of KEYPOINTS each on one core of a laptop; the time grows with their square."""


class MatchingConfig(PartConfig):
    """How key points are found and compared."""

    size: PhotoSize = (256, 384)
    """Height x width in pixels in which key points are looked for."""
    keypoints: Annotated[int, Field(ge=8, le=10000)] = KEYPOINTS
    """Most key points of a photo, the most distinct ones."""
    contrast: Annotated[float, Field(gt=0, lt=1), Search(0.005, 0.04, log=True)] = 0.02
    """Least contrast of a key point, as OpenCV has it; half of its default, for animals under water."""
    matcher: Literal["ratio", "lightglue"] = "ratio"
    """ratio: Lowe's test on RootSIFT; lightglue: a learned matcher, an extra, hundreds of times slower."""
    ratio: Annotated[float, Field(gt=0, le=1), Search(0.6, 0.95)] = 0.8
    """How much nearer than the second nearest key point the nearest has to be."""
    mutual: bool = True
    """Whether two key points have to be each other's nearest."""
    motion: Motion = "similarity"
    """What may lie between two photos: turn, scale and shift (similarity), or a tilted plane (homography)."""
    tolerance: Annotated[float, Field(gt=0), Search(2.0, 20.0, log=True)] = 8.0
    """By how many pixels a key point may miss its partner: animals bend."""


@dataclass(frozen=True, eq=False)
class Keypoints:
    """The key points of one photo."""

    places: NDArray[np.float32]
    """(points, 4): x and y in pixels, diameter in pixels, orientation in radians."""
    descriptors: NDArray[np.uint8]
    """(points, 128), SIFT's, which are whole numbers."""

    def __len__(self) -> int:
        return len(self.places)


def require_packages(matcher: str = "ratio") -> None:
    """Raises MissingError where OpenCV is not installed or, for lightglue, kornia, which brings it."""
    if find_spec("cv2") is None:
        raise MissingError(
            "sift needs OpenCV, a package that is not installed: install whalebench[sift], or opencv-python-"
            "headless."
        )
    if matcher == "lightglue" and find_spec("kornia") is None:
        raise MissingError(
            "matcher=lightglue needs a package that is not installed: install whalebench[lightglue], or set "
            "matcher=ratio."
        )


def estimate_hours(pairs: int, keypoints: int, matcher: str) -> float:
    """About how long it takes to compare that many pairs of photos, in hours."""
    return pairs * SECONDS[matcher] * (keypoints / KEYPOINTS) ** 2 / 3600


def find_keypoints(pixels: NDArray[np.uint8], most: int, contrast: float) -> Keypoints:
    """The most distinct key points of a photo (height, width, 3), RGB (Lowe, 2004); perhaps none."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT.create(nfeatures=most, contrastThreshold=contrast)
    points, descriptors = sift.detectAndCompute(grey, None)
    if not points:
        return Keypoints(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    places = np.array([(*point.pt, point.size, np.deg2rad(point.angle)) for point in points], np.float32)
    # Where the last ones are equally distinct, SIFT gives more than nfeatures.
    return Keypoints(places[:most], np.asarray(descriptors).astype(np.uint8)[:most])


def find_all_keypoints(photos: Photos, config: MatchingConfig) -> list[Keypoints]:
    """The key points of each photo; a mask beside the colours is not looked at."""
    keypoints: list[Keypoints] = []
    for batch in photos.batches(config.size, 64, CPU):
        pixels = (batch.pixels[:, :3] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        keypoints += [find_keypoints(photo, config.keypoints, config.contrast) for photo in pixels]
    return keypoints


def root_sift(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RootSIFT (Arandjelović & Zisserman, 2012): (points, 128) of length 1, roots of shares of the sum."""
    values = descriptors.astype(np.float32)
    root: NDArray[np.float32] = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1e-7))
    return root


def match(
    query: NDArray[np.float32], gallery: NDArray[np.float32], ratio: float, *, mutual: bool
) -> NDArray[np.int64]:
    """Pairs (matches, 2) of rows of two photos' RootSIFT descriptors that show the same point.

    A query point is matched to its nearest gallery point if that is nearer than ratio times the second
    nearest (Lowe's test); with mutual, only if it is the nearest of that gallery point in turn.
    """
    if not len(query) or len(gallery) < 2:
        return np.zeros((0, 2), np.int64)
    similarity = query @ gallery.T
    rows, nearest = np.arange(len(query)), similarity.argmax(axis=1)
    best = similarity[rows, nearest]
    similarity[rows, nearest] = -1.0
    # All have length 1: squared distances are 2 - 2 x similarity.
    rows = rows[np.maximum(1 - best, 0) < ratio**2 * np.maximum(1 - similarity.max(axis=1), 0)]
    if mutual:
        similarity[np.arange(len(query)), nearest] = best
        rows = rows[similarity[:, nearest[rows]].argmax(axis=0) == rows]
    return np.stack([rows, nearest[rows]], axis=1)


def fit_motion(
    query: NDArray[np.float32], gallery: NDArray[np.float32], motion: Motion, tolerance: float
) -> tuple[NDArray[np.float64] | None, int]:
    """The motion that takes most of matched points (matches, 2) to their partners, and how many it takes.

    Within tolerance pixels, as a matrix (2 or 3, 3). RANSAC (Fischler & Bolles, 1981) from one seed; None and
    0 for fewer than MIN_MATCHES matches.
    """
    if len(query) < MIN_MATCHES:
        return None, 0
    import cv2

    cv2.setRNGSeed(RANSAC_SEED)
    estimate: Any = cv2.findHomography if motion == "homography" else cv2.estimateAffinePartial2D
    limits = {"ransacReprojThreshold": tolerance, "maxIters": RANSAC_ITERATIONS, "confidence": 0.99}
    found, inliers = estimate(query, gallery, method=cv2.RANSAC, **limits)
    return found, 0 if inliers is None else int(np.count_nonzero(inliers))


def count_inliers(
    query: NDArray[np.float32], gallery: NDArray[np.float32], motion: Motion, tolerance: float
) -> int:
    """How many matched points (matches, 2) one motion takes to their partners, see `fit_motion`."""
    return fit_motion(query, gallery, motion, tolerance)[1]


class LightGlue:
    """Lindenberger et al. 2023, as kornia has it, with the weights for SIFT (downloaded once)."""

    def __init__(self, size: Size, device: torch.device) -> None:
        from kornia.feature import LightGlue as Network

        try:
            self.network = Network("sift").eval().to(device)
        except Exception as error:  # no network, no disk, no such file any more
            raise RunFailedError(
                f"the weights of LightGlue cannot be had ({type(error).__name__}: {error}): check the "
                f"network connection, or set matcher=ratio."
            ) from error
        setattr(self.network, STARTING_WEIGHTS, {"lightglue": digest_weights(self.network)})
        self.size, self.device = size, device

    def match(self, query: Keypoints, gallery: Keypoints) -> NDArray[np.int64]:
        """Pairs (matches, 2) of points of two photos of the size it was built for."""
        if not len(query) or not len(gallery):
            return np.zeros((0, 2), np.int64)
        with torch.inference_mode():
            output = self.network({"image0": self._inputs(query), "image1": self._inputs(gallery)})
        pairs: NDArray[np.int64] = output["matches"][0].cpu().numpy().astype(np.int64)
        return pairs

    def _inputs(self, points: Keypoints) -> dict[str, torch.Tensor]:
        places = torch.from_numpy(points.places)[None].to(self.device)
        return {
            "keypoints": places[..., :2],
            "scales": places[..., 2],
            "oris": places[..., 3],
            "descriptors": torch.from_numpy(root_sift(points.descriptors))[None].to(self.device),
            "image_size": torch.tensor([self.size[::-1]], device=self.device),
        }


class PairGallery:
    """The key points of the gallery's photos and the individuals they show."""

    def __init__(self, config: MatchingConfig, device: torch.device) -> None:
        self.config = config
        self.lightglue = LightGlue(config.size, device) if config.matcher == "lightglue" else None

    def fill(self, keypoints: list[Keypoints], labels: NDArray[np.int64]) -> None:
        """Takes the key points of photos under labels (photos,), indices of identities."""
        self.keypoints, self.labels = keypoints, labels

    def inliers(self, queries: list[Keypoints], compared: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Inliers (queries, identities) with the best photo of each identity; 0 where not compared."""
        best, config = np.zeros(compared.shape, np.float32), self.config
        roots = [root_sift(query.descriptors) for query in queries]
        for photo, label in zip(self.keypoints, self.labels, strict=True):
            root = root_sift(photo.descriptors)
            for row in np.flatnonzero(compared[:, label]):
                query = queries[row]
                if self.lightglue is not None:
                    pairs = self.lightglue.match(query, photo)
                else:
                    pairs = match(roots[row], root, config.ratio, mutual=config.mutual)
                ends = query.places[pairs[:, 0], :2], photo.places[pairs[:, 1], :2]
                count = count_inliers(*ends, config.motion, config.tolerance)
                best[row, label] = max(best[row, label], count)
        return best

    def state_dict(self) -> dict[str, Tensor]:
        """Places and descriptors of all photos one after the other, the number of each, and labels."""
        return {
            "places": torch.from_numpy(np.concatenate([each.places for each in self.keypoints])),
            "descriptors": torch.from_numpy(np.concatenate([each.descriptors for each in self.keypoints])),
            "counts": torch.tensor([len(each) for each in self.keypoints]),
            "labels": torch.from_numpy(self.labels),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what `state_dict` gave."""
        ends = np.cumsum(state["counts"].numpy())[:-1]
        places, descriptors = (np.split(state[name].numpy(), ends) for name in ("places", "descriptors"))
        keypoints = [Keypoints(*each) for each in zip(places, descriptors, strict=True)]
        self.fill(keypoints, state["labels"].numpy())


def shortlist_mask(scores: NDArray[np.float32], length: int) -> NDArray[np.bool_]:
    """Whether each identity is among a query's `length` best (queries, identities); ties go to the first."""
    listed = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(listed, top_columns(scores, length), True, axis=1)
    return listed


def rerank(
    scores: NDArray[np.float32], inliers: NDArray[np.float32], shortlist: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Scores (queries, identities) that put the shortlist first, in the order of its inliers.

    The shortlist has 1 + inliers + s, all others s, where s in (0, 1) rises with the other method's score:
    it decides between equal inliers, orders whoever is not on the list, and still tells photos apart that
    share nothing with anybody.
    """
    wide = scores.astype(np.float64)
    between = 0.5 * (1 + wide / (1 + np.abs(wide)))
    merged: NDArray[np.float32] = np.where(shortlist, 1 + inliers + between, between).astype(np.float32)
    return merged
