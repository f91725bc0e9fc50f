"""Parts of one photograph: photos that were cut from one picture, at another zoom, turned or mirrored.

The most distinct key points of each photo are looked up among those of all others: each in the cells of
descriptor space that it lies nearest to. Photos that share some are confirmed by RootSIFT and RANSAC, and by
the correlation of what both of them show: one animal in two photos has key points in common, too, but not
pixels, and what plain sea has in common is neither. Needs OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.methods.parts.keypoints import (
    Keypoints,
    find_keypoints,
    fit_motion,
    match,
    root_sift,
)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

LONGEST, PIXELS = 320, 160
"""The longer side of a photo in which key points are looked for, and of that whose pixels are compared."""
POINTS = 96
"""Most key points of a photo."""
CONTRAST = 0.015
"""Least contrast of a key point."""
CELL, MOST_CELLS, PROBES = 300, 4096, 2
"""Points a cell, about; most cells; and in how many of them each point is looked up."""
CROWDED = 1500
"""Most points of a cell that is looked into: what so many photos show, as plain sea, tells none apart."""
NEAREST, NEAR = 4, 0.84
"""Points that one is matched to in a cell, at most and how alike at least (cosine of RootSIFT)."""
TURN_BINS, OCTAVES = 8, 1.0
"""Bins of a full turn, and octaves of zoom a bin, in which points have to agree."""
SHARED, KEPT = 3, 8
"""Least points that two photos share to be compared, and with how many others a photo is."""
INLIERS, TOLERANCE, RATIO = 5, 4.0, 0.85
"""Least points that one motion takes to their partners, within so many pixels; Lowe's ratio."""
SAME_PIXELS, SAME_SCENE = 0.72, 0.5
"""Least correlation of the details that both show, of one picture and of one moment."""
LEAST_SHARED = 0.1
"""Least share of the smaller that both have to show."""
BLUR = 15
"""Width in pixels of what is smooth and so no detail."""
CHUNK, SHARDS = 1 << 16, 16
"""Descriptors compared at once, about, and parts in which votes are counted: both for the sake of memory."""
MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()
"""Where the numbers of a SIFT descriptor lie in that of the mirrored photo."""


@dataclass(frozen=True)
class Picture:
    """What is kept of a photo to find others of the same picture."""

    points: Keypoints
    pixels: NDArray[np.uint8]
    """Grey, the longer side of PIXELS."""
    scale: float
    """Of its pixels to those that the places of points are in."""


@dataclass(frozen=True)
class Overlap:
    """Two photos that show parts of one picture or, less alike than SAME_PIXELS, of one scene."""

    first: int
    second: int
    likeness: float
    """Correlation of the details that both show."""
    turn: int
    """Quarter turns of the first, about, until it is as the second; 4 more where it is mirrored first."""
    shared: float
    """Share of one of the two that the other shows, too: of that of which it is more."""


def can_find_parts() -> bool:
    """Whether OpenCV is installed."""
    return find_spec("cv2") is not None


def picture_of(photo: Image.Image) -> Picture:
    """Key points and pixels of an upright grey photo."""
    wide, high = photo.size
    scale = LONGEST / max(wide, high)
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    large = photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0) if scale < 1 else photo
    points = find_keypoints(np.asarray(large.convert("RGB")), POINTS, CONTRAST)
    share = min(1.0, PIXELS / max(large.size))
    small = large.resize([max(1, round(side * share)) for side in large.size], Image.Resampling.BOX)
    return Picture(points, np.asarray(small, np.uint8), share)


def find_parts(pictures: Sequence[Picture], progress: Progress = SILENT) -> Iterator[Overlap]:
    """The pairs of photos that show parts of one picture or scene, each once, in the order of the photos."""
    pairs = propose_parts([picture.points for picture in pictures], progress)
    progress.stage("confirm parts")
    with ThreadPoolExecutor(cores()) as pool:
        found = pool.map(lambda pair: overlap(pictures, *pair), pairs.tolist())
        for done, each in enumerate(found, start=1):
            if each is not None:
                yield each
            progress.advance(done, len(pairs))


def propose_parts(points: Sequence[Keypoints], progress: Progress = SILENT) -> Ints:
    """Pairs of photos that share key points in one motion (pairs, 3): first, second, whether mirrored."""
    if not any(map(len, points)):
        return np.zeros((0, 3), np.int64)
    progress.stage("look up")
    every = np.concatenate([each.descriptors for each in points])
    places = np.concatenate([each.places for each in points])
    photo = np.repeat(np.arange(len(points)), [len(each) for each in points])
    drawn = np.random.default_rng(0).permutation(len(every))[: min(MOST_CELLS, 1 + len(every) // CELL)]
    centres = root_sift(every[np.sort(drawn)])
    votes, cells = [np.zeros((2, 0), np.int64)], _cells(every, centres)
    crowded = np.bincount(cells[:, 0], minlength=len(centres)) > CROWDED
    for mirrored in (False, True):
        asked = _cells(every[:, MIRROR], centres) if mirrored else cells
        for cell, (keys, queries) in enumerate(_members(cells[:, 0], asked, len(centres))):
            progress.advance(mirrored * len(centres) + cell + 1, 2 * len(centres))
            if crowded[cell]:
                continue
            looked_up = root_sift(every[queries][:, MIRROR] if mirrored else every[queries])
            # A point is among the keys itself, unless this is not its own cell or it is mirrored.
            itself = np.full(len(queries), -1) if mirrored else _places(queries, keys)
            rows, partners = _nearest(looked_up, root_sift(every[keys]), itself)
            apart = photo[queries[rows]] != photo[keys[partners]]
            rows, partners = rows[apart], partners[apart]
            met = queries[rows], keys[partners]
            votes.append(_votes(*met, photo, places, mirrored=mirrored))
    return _elected(votes, len(points))


def _votes(one: Ints, other: Ints, photo: Ints, places: Floats, *, mirrored: bool) -> Ints:
    """For each two points that are alike two numbers (2, votes): of pair and motion, and of the point.

    Turn and zoom are told in two grids of bins of which the second lies half a bin off the first.
    """
    swapped = photo[one] > photo[other]
    one, other = np.where(swapped, other, one), np.where(swapped, one, other)
    angle = places[one, 3] if not mirrored else np.pi - places[one, 3]
    turn = (places[other, 3] - angle) / (2 * np.pi) * TURN_BINS
    zoom = np.log2(places[other, 2] / places[one, 2]) / OCTAVES
    pairs = (photo[one] * (1 << 20) + photo[other]) * 2 + mirrored
    codes = []
    for grid in (0, 1):
        turns = np.floor(turn + grid / 2).astype(np.int64) % TURN_BINS
        zooms = np.clip(np.floor(zoom + grid / 2).astype(np.int64) + 8, 0, 15)
        codes.append(((pairs * TURN_BINS + turns) * 16 + zooms) * 2 + grid)
    return np.stack([np.concatenate(codes), np.concatenate([one, one])])


def _cells(descriptors: NDArray[np.uint8], centres: Floats) -> Ints:
    """The PROBES nearest centres of each descriptor (points, PROBES), the nearest first."""
    import torch

    wanted, of = torch.from_numpy(centres.T.copy()), min(PROBES, len(centres))
    parts = [
        (torch.from_numpy(root_sift(descriptors[start : start + CHUNK // 8])) @ wanted).topk(of, dim=1)[1]
        for start in range(0, len(descriptors), CHUNK // 8)
    ]
    return torch.cat(parts).numpy()


def _members(cell_of: Ints, asked: Ints, cells: int) -> Iterator[tuple[Ints, Ints]]:
    """For each cell the points that lie in it, and those that are looked up in it."""
    for_keys, order = np.argsort(cell_of, kind="stable"), np.argsort(asked.ravel(), kind="stable")
    edges = np.arange(cells + 1)
    of_keys = np.searchsorted(cell_of[for_keys], edges)
    of_queries = np.searchsorted(asked.ravel()[order], edges)
    for cell in range(cells):
        keys = for_keys[of_keys[cell] : of_keys[cell + 1]]
        yield keys, order[of_queries[cell] : of_queries[cell + 1]] // asked.shape[1]


def _places(wanted: Ints, ordered: Ints) -> Ints:
    """Where each number is in an ascending array; -1 where it is not."""
    places = np.searchsorted(ordered, wanted).clip(max=max(0, len(ordered) - 1))
    return np.where(ordered[places] == wanted, places, -1) if len(ordered) else np.full(len(wanted), -1)


def _nearest(queries: Floats, keys: Floats, itself: Ints) -> tuple[Ints, Ints]:
    """Rows of queries and of keys that are as good as the same, less the place of each itself (or -1)."""
    import torch

    found_rows, found_keys = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    step = max(1, (1 << 22) // max(1, len(keys)))
    held = torch.from_numpy(keys).T.contiguous()
    for start in range(0, len(queries) if len(keys) else 0, step):
        alike = torch.from_numpy(queries[start : start + step]) @ held
        own = itself[start : start + step]
        alike[np.flatnonzero(own >= 0), own[own >= 0]] = 0
        some = torch.nonzero(alike.amax(dim=1) >= NEAR)[:, 0]
        values, places = alike[some].topk(min(NEAREST, len(keys)), dim=1)
        rows, ranks = torch.nonzero(values >= NEAR, as_tuple=True)
        found_rows.append(some[rows].numpy() + start)
        found_keys.append(places[rows, ranks].numpy())
    return np.concatenate(found_rows), np.concatenate(found_keys)


def _counted(votes: Ints) -> tuple[Ints, Ints]:
    """The motions that SHARED points and more have, ascending, and how many points."""
    order = np.lexsort(votes[::-1])
    new = np.ones(len(order), bool)
    new[1:] = (votes[:, order[1:]] != votes[:, order[:-1]]).any(axis=0)
    motions, counts = np.unique(votes[0, order[new]], return_counts=True)
    return motions[counts >= SHARED], counts[counts >= SHARED]


def _elected(votes: Sequence[Ints], photos: int) -> Ints:
    """The pairs with most points in one motion: SHARED at least, of each photo the KEPT best."""
    shards = [
        _counted(np.concatenate([each[:, each[0] % SHARDS == shard] for each in votes], axis=1))
        for shard in range(SHARDS)
    ]
    motions, counts = (np.concatenate(each) for each in zip(*shards, strict=True))
    order = np.argsort(motions)
    motions, counts = motions[order], counts[order]
    best = np.argsort(-counts, kind="stable")
    pairs, where = np.unique(motions[best] // (TURN_BINS * 32), return_index=True)
    taken, kept = np.zeros(photos, np.int64), []
    for row in np.argsort(where, kind="stable").tolist():
        ends = [pairs[row] >> 21, pairs[row] >> 1 & ((1 << 20) - 1)]
        if (taken[ends] < KEPT).any():
            taken[ends] += 1
            kept.append((*ends, pairs[row] & 1))
    return np.array(sorted(kept), np.int64).reshape(-1, 3)


def overlap(pictures: Sequence[Picture], first: int, second: int, mirrored: int) -> Overlap | None:
    """How two photos show parts of one picture or scene; None where they do not."""
    one, other = pictures[first], pictures[second]
    places, descriptors, pixels = one.points.places[:, :2], one.points.descriptors, one.pixels
    if mirrored:
        places = places * (-1, 1) + (pixels.shape[1] / one.scale - 1, 0)
        descriptors, pixels = descriptors[:, MIRROR], pixels[:, ::-1]
    pairs = match(root_sift(descriptors), root_sift(other.points.descriptors), RATIO, mutual=True)
    ends = places[pairs[:, 0]], other.points.places[pairs[:, 1], :2]
    motion, inliers = fit_motion(*ends, "similarity", TOLERANCE)
    if motion is None or inliers < INLIERS:
        return None
    motion = (_scaling(other.scale) @ np.vstack([motion, (0, 0, 1)]) @ _scaling(1 / one.scale))[:2]
    likeness, shared = _likeness(np.ascontiguousarray(pixels), other.pixels, motion)
    if likeness < SAME_SCENE or shared < LEAST_SHARED:
        return None
    turn = round(-np.degrees(np.arctan2(motion[1, 0], motion[0, 0])) / 90) % 4
    return Overlap(first, second, likeness, turn + 4 * mirrored, shared)


def _scaling(share: float) -> NDArray[np.float64]:
    """Takes places in pixels, of which the middle of the first is 0, to those in a picture of this share."""
    off = (share - 1) / 2
    return np.array([[share, 0, off], [0, share, off], [0, 0, 1]])


def _likeness(
    one: NDArray[np.uint8], other: NDArray[np.uint8], motion: NDArray[np.float64]
) -> tuple[float, float]:
    """Correlation of the details that both show once the first is moved, and how much of one that is."""
    import cv2

    size = other.shape[::-1]
    inside = cv2.warpAffine(np.ones_like(one), motion, size, flags=cv2.INTER_NEAREST).astype(bool)
    area = one.size * abs(float(np.linalg.det(motion[:, :2])))
    shared = inside.sum() / max(1.0, min(area, other.size))
    moved = cv2.warpAffine(one.astype(np.float32), motion, size, flags=cv2.INTER_AREA)
    moved[~inside] = other[~inside]
    details = [(grey - cv2.blur(grey, (BLUR, BLUR)))[inside] for grey in (moved, other.astype(np.float32))]
    if not inside.any():
        return 0.0, 0.0
    a, b = (each - each.mean() for each in details)
    length = float(np.sqrt((a @ a) * (b @ b)))
    return (float(a @ b) / length if length else 0.0), min(1.0, float(shared))
