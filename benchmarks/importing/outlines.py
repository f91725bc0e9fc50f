"""Masks that a layout gives as outlines, drawn as files of the benchmark: COCO's polygons and run lengths.

A polygon is [x, y, x, y, …] in pixels, several of them are one animal; run lengths go down the columns and
begin with what is not the animal, as numbers or packed into text (https://cocodataset.org/#format-data).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.progress import Progress
from whalebench.benchmarks.core.store import Advance
from whalebench.benchmarks.importing.layouts.layout import Outline
from whalebench.benchmarks.importing.sources import Source, whole_folder

Mask = NDArray[np.bool_]


@contextmanager
def with_masks(
    source: Source, outlines: Mapping[str, Outline], folder: Path, progress: Progress
) -> Iterator[Source]:
    """The source with the outlines as further files, which stand in the folder when the block succeeds.

    Raises WhalebenchError for one that is no outline of its photo.
    """
    if not outlines:
        yield source
        return
    progress.stage("draw the masks")
    with whole_folder(folder) as drawn:
        for done, (name, outline) in enumerate(outlines.items(), 1):
            try:
                mask = filled(outline.segmentation, outline.width, outline.height)
            except (TypeError, ValueError) as error:
                raise WhalebenchError(
                    f"{outline.place} has an outline that cannot be drawn ({one_line(error, 80)}); correct "
                    f"it, or leave its segmentation empty."
                ) from error
            Image.fromarray(mask).save(drawn / Path(name).name)
            progress.advance(done, len(outlines))
        yield _WithMasks(source, drawn, folder, frozenset(outlines))


class _WithMasks:
    """A source with further files, which stand in a folder of their own."""

    def __init__(self, source: Source, drawn: Path, end: Path, added: frozenset[str]) -> None:
        self.place, self.notes, self.read, self.spelled = (
            source.place, source.notes, source.read, source.spelled
        )  # fmt: skip
        self._source, self._drawn, self._end, self._added = source, drawn, end, added

    def names(self) -> tuple[str, ...]:
        """Those of the source, and the masks."""
        return tuple(sorted((*self._source.names(), *self._added)))

    def path(self, name: str) -> Path:
        """A mask stands in its folder."""
        return self._drawn / Path(name).name if name in self._added else self._source.path(name)

    def fetch(self, names: Iterable[str], progress: Advance | None = None) -> None:
        """Masks are at hand."""
        self._source.fetch((name for name in names if name not in self._added), progress)

    def kept(self, path: str) -> str:
        """Where a mask stands when the folder has been moved to its end."""
        is_mask = Path(path).is_relative_to(self._drawn)
        return str(self._end / Path(path).relative_to(self._drawn)) if is_mask else self._source.kept(path)


def filled(segmentation: Any, width: int, height: int) -> Mask:
    """The pixels (height, width) whose centres are within; raises ValueError for what is no outline."""
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, width, height)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("it is neither polygons nor run lengths")
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
        mask |= _within(np.array(polygon, float), width, height)
    return mask


def _within(polygon: NDArray[np.float64], width: int, height: int) -> Mask:
    """Every edge turns over all pixels of its rows that are right of it: twice turned is outside."""
    if polygon.ndim != 1 or len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
        raise ValueError("a polygon is not x and y of three points and more")
    corners = polygon.reshape(-1, 2)
    turned = np.zeros((height, width + 1), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        first, last = np.clip(np.ceil(np.sort([y0, y1]) - 0.5), 0, height).astype(int)
        rows = np.arange(first, last)
        if len(rows):
            crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            turned[rows, np.clip(np.ceil(crossed - 0.5), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(turned[:, :width], axis=1)


def _from_runs(segmentation: Mapping[str, Any], width: int, height: int) -> Mask:
    counts = segmentation.get("counts")
    runs = np.array(_unpacked(counts) if isinstance(counts, str) else counts)
    if segmentation.get("size") != [height, width]:
        raise ValueError(f"its size is not that of the photo, {height} by {width}")
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any() or runs.sum() != width * height:
        raise ValueError("its run lengths do not add up to its size")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    """Run lengths from five bits a letter, low ones first; from the fourth on less the one before last.

    >>> _unpacked("13P1")
    [1, 3, 32]
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its run lengths are no packed text")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
