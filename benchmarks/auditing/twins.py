"""Twins: files that show one picture, turned, mirrored, cropped, brighter or saved in another way.

Each photo is decoded once to a small grey picture. A coarse grid of it, which is little changed by what twins
differ in, is correlated with that of every other photo in eight turns and some croppings: that proposes. The
croppings of the likely ones are then aligned from coarse to fine, and the correlation of their details, in
which two photos of plain sea differ, confirms (normalised cross-correlation, Lewis 1995).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import Region
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.store import MAX_PIXELS, pixel_limit, read_photo

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Looked = TypeVar("Looked")

SIDE = 64
"""Height and width of the small pictures."""
DRAFT = 256
"""Least height and width at which a JPEG is decoded: fewer pixels would round the noise of plain sea away."""
TILE = 8
"""Cells along a side of the grid that proposes, and of each tile of the finer ones that confirm."""
EDGES = ((0.0, 0.0), (0.0, 0.1), (0.05, 0.05), (0.1, 0.0), (0.1, 0.1))
"""What may be cropped off two opposite edges, as shares; what lies between is near enough to one of them."""
WINDOWS = tuple(
    (rows, columns)
    for rows in range(5)
    for columns in range(5)
    if rows == columns or 4 not in (rows, columns)
)
"""Croppings: what is cut off top and bottom, and off left and right, as places in EDGES."""
TURNS = 8
"""Quarter turns, and those of the mirrored picture."""
FLATTEST = 0.01
"""Grey levels by which cells have to differ: below is what rounding leaves of a plain colour."""
PROPOSED, KEPT = 0.5, 4
"""Least correlation of coarse grids, and how many of the best are confirmed for each photo."""
CONFIRMED = 0.55
"""Least correlation of aligned details of one picture."""
STEPS = ((8, 0.03, 0.6), (16, 0.015, 0.3), (32, 0.0075, 0.2), (32, 0.004, 0.0))
"""Cells, the step in which edges are then moved, and the least correlation with which one goes on."""
WIDEST = 0.3
"""Most that is cropped off one edge."""
BLOCK, KEYS, PART = 8, 1024, 512
"""Photos that are compared at a time, with how many others, and pairs that are aligned at a time."""


@dataclass(frozen=True)
class Matches:
    """Pairs of photos that look alike; arrays with one entry a pair, the most alike first."""

    larger: Ints
    """Places of the photos that show as much as the other or more."""
    smaller: Ints
    likeness: Floats
    """Correlation of the details after alignment, at most 1."""
    turns: Ints
    """How the larger is turned to be as the smaller: quarter turns, and 4 more where it is mirrored first."""
    trims: Floats
    """(pairs, 4), shares cropped off the larger's top, bottom, left and right."""

    def __len__(self) -> int:
        return len(self.larger)


def small_pictures(paths: Sequence[str], progress: Progress = SILENT) -> Floats:
    """Grey pictures (photos, SIDE, SIDE) of the whole frames, upright, each less its mean."""
    pictures = np.empty((len(paths), SIDE, SIDE), np.float32)
    for row, picture in enumerate(decode_all(paths, small_picture, progress)):
        pictures[row] = picture
    return pictures


def decode_all(
    paths: Sequence[str],
    look: Callable[[Image.Image], Looked],
    progress: Progress = SILENT,
    regions: Sequence[Region | None] = (),
) -> Iterator[Looked]:
    """What `look` makes of each photo in grey and upright, on all cores, each decoded once.

    Where there are regions the frames are these parts of the files.

    Raises WhalebenchError naming a file that cannot be decoded.
    """
    progress.stage("decode")
    pool = ThreadPoolExecutor(cores())
    try:
        # Threads of the library for matrices would fight those of the pool over the cores.
        with pixel_limit(MAX_PIXELS), threadpool_limits(1, "blas"):
            parts = regions or [None] * len(paths)
            seen = pool.map(lambda path, region: look(_grey(path, region)), paths, parts)
            for done, looked in enumerate(seen, start=1):
                yield looked
                progress.advance(done, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)


def _grey(path: str, region: Region | None) -> Image.Image:
    try:
        return read_photo(Path(path), "L", (DRAFT, DRAFT), region)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise WhalebenchError(
            f"photo '{path}' cannot be decoded ({one_line(error, 80)}): restore the file, then audit again."
        ) from error


def small_picture(photo: Image.Image) -> Floats:
    """A grey photo as SIDE by SIDE means, less their mean."""
    grey = np.asarray(photo, np.float32)
    # Exact means in floats: of plain sea they tell more than whole numbers hold, or filters that round cells.
    whole = np.zeros((1, 2), np.float32)
    rows, columns = (_cell_weights(whole, SIDE, pixels)[0] for pixels in grey.shape)
    small = rows @ grey @ columns.T
    less: Floats = small - small.mean()
    return less


def turned(pictures: Floats, turn: int) -> Floats:
    """Pictures (..., side, side), mirrored for turns from 4 on, then turned by quarters."""
    mirrored = pictures[..., ::-1] if turn >= 4 else pictures
    return np.rot90(mirrored, turn % 4, axes=(-2, -1))


def turned_back(pictures: Floats, turn: int) -> Floats:
    """The pictures that `turned` makes these of."""
    back = np.rot90(pictures, -(turn % 4), axes=(-2, -1))
    return back[..., ::-1] if turn >= 4 else back


def find_twins(pictures: Floats, progress: Progress = SILENT, *, least: float = CONFIRMED) -> Matches:
    """The pairs of small pictures whose details, aligned, have at least that correlation."""
    proposed = propose(pictures, progress)
    progress.stage("confirm")
    parts = [np.arange(start, min(start + PART, len(proposed))) for start in range(0, len(proposed), PART)]
    aligned = [_at(proposed, np.arange(0))]
    with ThreadPoolExecutor(cores()) as pool:
        for part, kept in zip(
            parts, pool.map(lambda each: align(pictures, _at(proposed, each)), parts), strict=True
        ):
            aligned.append(_at(kept, kept.likeness >= least))
            progress.advance(int(part[-1]) + 1, len(proposed))
    return _once(_joined(aligned))


def propose(pictures: Floats, progress: Progress = SILENT) -> Matches:
    """For each photo up to KEPT others whose coarse grid is like that of a cropping of it, in some turn."""
    import torch

    progress.stage("compare")
    every = np.zeros((len(pictures), 4), np.float32)
    whole = torch.from_numpy(details(cropped(pictures, every, TILE)))[:, 0]
    found = []
    for start in range(0, len(pictures), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(pictures)))
        variants = torch.from_numpy(_variants(pictures[block]))
        found.append(_proposed(block, variants, whole))
        progress.advance(int(block[-1]) + 1, len(pictures))
    return _joined(found)


def _variants(pictures: Floats) -> Floats:
    """Coarse details (photos, TURNS x WINDOWS, cells) of each photo."""
    weights = _cell_weights(np.array(EDGES, np.float32), TILE).reshape(-1, SIDE)
    grids: Floats = np.matmul(np.matmul(weights, pictures), weights.T)
    grids = grids.reshape(len(pictures), len(EDGES), TILE, len(EDGES), TILE).swapaxes(2, 3)
    rows, columns = np.array(WINDOWS).T
    found = details(grids[:, rows, columns]).reshape(len(pictures), len(WINDOWS), TILE, TILE)
    each = [turned(found, turn).reshape(len(pictures), len(WINDOWS), -1) for turn in range(TURNS)]
    return np.concatenate(each, axis=1)


def _proposed(block: Ints, variants: torch.Tensor, whole: torch.Tensor) -> Matches:
    """The best others of the photos of a block."""
    import torch

    flat = variants.flatten(0, 1).contiguous()
    best = torch.cat(
        [(flat @ keys.T).view(len(block), -1, len(keys)).amax(dim=1) for keys in torch.split(whole, KEYS)],
        dim=1,
    )
    best[torch.arange(len(block)), torch.from_numpy(block)] = -1
    values, places = best.topk(min(KEPT, best.shape[1]), dim=1)
    rows, ranks = torch.nonzero(values >= PROPOSED, as_tuple=True)
    others = places[rows, ranks]
    which = torch.einsum("pvc,pc->pv", variants[rows], whole[others]).argmax(dim=1).numpy()
    turn, window = np.divmod(which, len(WINDOWS))
    trims = np.array(EDGES, np.float32)[np.array(WINDOWS)].reshape(-1, 4)
    return Matches(
        block[rows.numpy()],
        others.numpy(),
        values[rows, ranks].numpy(),
        turn.astype(np.int64),
        trims[window],
    )


def align(pictures: Floats, proposed: Matches) -> Matches:
    """Those of some proposed pairs that fit, with their croppings moved to where they fit best."""
    kept = proposed
    for cells, step, least in STEPS:
        turns = zip(kept.smaller.tolist(), kept.turns.tolist(), strict=True)
        other = np.array([turned_back(pictures[place], turn) for place, turn in turns], np.float32)
        photos, trims = pictures[kept.larger], kept.trims.copy()
        aim = details(cropped(other.reshape(-1, SIDE, SIDE), np.zeros_like(trims), cells))
        fit = _fits(photos, trims, aim, cells)
        for moved in np.concatenate([_moves(step)] * 2):
            tried = np.clip(trims + moved, 0, WIDEST)
            better = _fits(photos, tried, aim, cells)
            wins = better > fit
            trims[wins], fit[wins] = tried[wins], better[wins]
        kept = _at(replace(kept, trims=trims, likeness=fit), fit >= least)
    return kept


def _moves(step: float) -> Floats:
    """Changes of the four edges: shifts and stretches along each side, and each edge by itself."""
    shifts = [(1, -1, 0, 0), (0, 0, 1, -1), (1, 1, 0, 0), (0, 0, 1, 1)]
    edges = [tuple(row) for row in np.eye(4, dtype=int)]
    moves = np.array([*shifts, *edges], np.float32) * step
    return np.concatenate([moves, -moves])


def _fits(pictures: Floats, trims: Floats, aim: Floats, cells: int) -> Floats:
    """Mean correlation (pictures,) of the tiles in which one of the two shows anything."""
    tiles = details(cropped(pictures, trims, cells))
    shown = (tiles.any(axis=-1) | aim.any(axis=-1)).sum(axis=-1)
    fits: Floats = np.einsum("ptc,ptc->p", tiles, aim) / np.maximum(shown, 1, dtype=np.float32)
    return fits


def cropped(pictures: Floats, trims: Floats, cells: int) -> Floats:
    """Means (pictures, cells, cells) of the cells of a cropping of each: trims (pictures, 4) are cut off."""
    rows, columns = _cell_weights(trims[:, :2], cells), _cell_weights(trims[:, 2:], cells)
    means: Floats = np.matmul(np.matmul(rows, pictures), columns.transpose(0, 2, 1))
    return means


def _cell_weights(trims: Floats, cells: int, side: int = SIDE) -> Floats:
    """(pictures, cells, side): the share that each pixel along a side has in each cell."""
    length = (1 - trims.sum(axis=1, keepdims=True)) * side / cells
    start = (trims[:, :1] * side + length * np.arange(cells, dtype=np.float32))[:, :, None]
    end, pixels = start + length[:, :, None], np.arange(side, dtype=np.float32)
    covered = np.minimum(end, pixels + 1) - np.maximum(start, pixels)
    weights: Floats = (np.maximum(covered, 0) / length[:, :, None]).astype(np.float32)
    return weights


def details(grids: Floats) -> Floats:
    """Tiles (..., tiles, TILE squared) of grids, of length 1 without what is smooth; 0 where nothing is left.

    Each by itself, so that one bright spot does not outweigh all else.
    """
    *rest, cells, _ = grids.shape
    across = cells // TILE
    tiles = grids.reshape(*rest, across, TILE, across, TILE).swapaxes(-3, -2)
    flat = tiles.reshape(*rest, across**2, TILE**2)
    flat = flat - np.matmul(np.matmul(flat, _smooth().T), _smooth())
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    unit = np.where(length >= FLATTEST * TILE, flat / np.maximum(length, 1e-9), np.float32(0))
    return unit.astype(np.float32, copy=False)


@cache
def _smooth() -> Floats:
    """(16, TILE squared), of length 1 and at right angles: all that changes along one side only, and twists.

    Light that falls off, horizons and their edges are among it, which many photos share.
    """
    ramp, each, one = np.arange(TILE) - (TILE - 1) / 2, np.eye(TILE), np.ones((1, TILE))
    kinds = [np.kron(each, one), np.kron(one, each), np.kron(ramp, ramp)[None]]
    _, lengths, basis = np.linalg.svd(np.concatenate(kinds), full_matrices=False)
    return np.ascontiguousarray(basis[lengths > 1e-6], np.float32)


def _joined(parts: Sequence[Matches]) -> Matches:
    return Matches(
        *(np.concatenate(arrays) for arrays in zip(*(vars(each).values() for each in parts), strict=True))
    )


def _at(matches: Matches, chosen: NDArray[np.bool_] | Ints) -> Matches:
    return Matches(*(array[chosen] for array in vars(matches).values()))


def _once(matches: Matches) -> Matches:
    """Each pair once, as it fits best, the most alike first."""
    order = _at(matches, np.argsort(-matches.likeness, kind="stable"))
    ends = np.sort(np.stack([order.larger, order.smaller], axis=1), axis=1)
    _, first = np.unique(ends, axis=0, return_index=True)
    return _at(order, np.sort(first))
