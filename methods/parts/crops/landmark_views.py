"""Views of aligned animals: as the landmarks lie in their places, upright, and a little displaced."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from whalebench.benchmarks.photos import Photos
from whalebench.methods.parts.crops.finder import windows_round
from whalebench.methods.parts.crops.lens import Crop
from whalebench.methods.parts.transforms.geometry import affine_maps, compose, invert, move

SMALLEST = 0.05
"""Where an upright window has a side below this share of the photo's, the whole photo is seen instead."""
TURN, ZOOM, SHIFT = math.radians(5), 0.05, 0.03
"""How far views are displaced at most: an angle, the logarithm of a factor, a share of the window."""


def aligned_and_upright(photos: Photos) -> Photos:
    """The aligned photos, and after them all of them upright: twice as many."""
    windows = _crop(photos).windows
    twice = photos.select(np.tile(np.arange(len(photos)), 2))
    return _through(twice, torch.cat([windows, upright(windows)]))


def views_of(photos: Photos, versions: int) -> list[Photos]:
    """The aligned photos in versions, then the same upright; the first version is not displaced.

    The displacements are drawn once and for all, those of fewer versions are the first of those of more.
    """
    windows = _crop(photos).windows
    moves = _displacements(versions)
    return [
        _through(photos, compose(each, moved.expand(len(photos), 2, 3)))
        for each in (windows, upright(windows))
        for moved in moves
    ]


def upright(windows: Tensor) -> Tensor:
    """Maps (photos, 2, 3) to the upright boxes round windows, which are cut at the photo's border.

    The whole photo where little of it is left.
    """
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=windows.dtype)
    places = move(corners.expand(len(windows), 4, 2), invert(windows))
    ends = torch.cat([places.amin(dim=1), places.amax(dim=1)], dim=1).clamp(-1, 1)
    return windows_round(((ends + 1) / 2).float().numpy(), 0.0, SMALLEST).maps.to(windows.dtype)


def _displacements(versions: int) -> Tensor:
    """Maps (versions, 2, 3) in frame units of a window, drawn from a seed of their own."""
    drawn = torch.rand(versions, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    drawn[0] = 0
    angle, zoom = TURN * drawn[:, 0], (ZOOM * drawn[:, 1]).exp()
    # Frame units run from -1 to 1, so a share of the window is two of them.
    return affine_maps(angle, torch.zeros_like(angle), zoom, zoom, 2 * SHIFT * drawn[:, 2:], 1.0)


def _crop(photos: Photos) -> Crop:
    assert isinstance(photos.lens, Crop)
    return photos.lens


def _through(photos: Photos, windows: Tensor) -> Photos:
    return replace(photos, lens=replace(_crop(photos), windows=windows))
