"""The view of a benchmark that a method learns from: pixels always, labels and annotations where it may."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whalebench.benchmarks.core.store import PhotoStore, Size, StoreView
from whalebench.benchmarks.core.usage import PartUsage

__all__ = ["CPU", "UNKNOWN", "Annotations", "Batch", "LabelledPhotos", "Lens", "Photos", "Size"]

CPU = torch.device("cpu")
UNKNOWN = -1
"""The label of a photo of none of `identities`: *new* in valid and test, without a name in train."""

KINDS = {"boxes": "box", "landmarks": "landmarks", "masks": "mask"}
"""By the name under which annotations stand, what they are of a photo."""


class Annotated:
    """Base of what carries annotations: says when they are read, by whomever."""

    reader: Callable[[str], None] | None
    """Told the name under which annotations stand when they are read; what moves them with the pixels takes
    them from `vars`, and is not."""

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            if name in KINDS and value is not None:
                reader = object.__getattribute__(self, "reader")
                # A changed copy hands annotations on: `replace` has not looked at them.
                if reader is not None and sys._getframe(1).f_globals["__name__"] != "dataclasses":
                    reader(name)
            return value


@dataclass(frozen=True)
class Batch(Annotated):
    """Some photos as tensors on one device, and what is annotated on them in the same frame.

    Positions are in pixels of the batch's frame, x to the right and y down, the corner of the first pixel
    at 0. What is not annotated is NaN; what is hidden or does not exist is None.
    """

    pixels: Tensor
    """(photos, 3, height, width), float32 in [0, 1]; through a lens perhaps the mask as a fourth channel."""
    labels: Tensor | None = None
    """(photos,), int64 indices into `identities`, UNKNOWN for *new*."""
    boxes: Tensor | None = None
    """(photos, 4), x0, y0, x1, y1."""
    landmarks: Tensor | None = None
    """(photos, landmarks, 2), x, y."""
    masks: Tensor | None = None
    """(photos, 1, height, width), float32 in [0, 1], 1 on the animal."""
    species: Tensor | None = None
    """(photos,), int64, UNKNOWN where not named."""
    reader: Callable[[str], None] | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Annotations(Annotated):
    """Boxes, landmarks and masks of all photos of a fold, as shares of a photo's width and height."""

    boxes: NDArray[np.float32]
    """(photos, 4), NaN where not annotated."""
    landmarks: NDArray[np.float32]
    """(photos, landmarks, 2), NaN where not annotated."""
    landmark_names: tuple[str, ...]
    has_mask: NDArray[np.bool_]
    """(photos,)"""
    reader: Callable[[str], None] | None = None

    def annotated(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rows at which something stands under the name."""
        if name == "masks":
            return rows[self.has_mask[rows]]
        given = np.isfinite(vars(self)[name][rows])
        there: NDArray[np.bool_] = given.any(axis=tuple(range(1, given.ndim)))
        return rows[there]


class Lens(Protocol):
    """What changes how stored photos are seen: a crop, an occlusion, a mirror."""

    def select(self, indices: NDArray[np.int64]) -> Lens:
        """The lens for the photos at some places, in that order."""

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """Some of the photos behind the lens, as seen through it, at that size on that device."""


@dataclass(frozen=True)
class Photos:
    """Some photos of one benchmark, as one party of a run may see them.

    Train and valid photos carry labels and annotations; test photos carry neither, except annotations in a
    run marked *oracle*.
    """

    images: tuple[str, ...]
    """The photos' ids. Those that a method sees say part and place, as train-00012, and nothing else."""
    digests: tuple[str, ...]
    """What each photo shows: the lineage of anything fitted on it. Equal ones are of equal photos; those that
    a method sees are numbered anew, too."""
    identities: tuple[str, ...]
    """The individuals a score has columns for: those known in train."""
    store: PhotoStore | StoreView
    rows: NDArray[np.int64]
    """Each photo's row in the store."""
    shapes: NDArray[np.int64]
    """(photos, 2), height and width in pixels of the photos as they were taken."""
    labels: NDArray[np.int64] | None = None
    """(photos,) indices into `identities`, UNKNOWN for *new*; None where hidden."""
    annotations: Annotations | None = None
    """Of all photos of the store, read at `rows`; None where hidden."""
    lens: Lens | None = None
    """Through which the photos are seen, and the photos behind it."""
    behind: Photos | None = None
    species: NDArray[np.int64] | None = None
    """(photos,) places among the sorted species of the fold's train part, UNKNOWN where it is none of them;
    None where hidden, as labels are, or where train names none."""
    viewpoints: NDArray[np.int64] | None = None
    """(photos,) places among the sorted viewpoints of the fold's train part, UNKNOWN where not given or none
    of them. A photographer knows them, so test photos have them, too, but only in the run of a method that
    asks (`MethodConfig.sees_viewpoints`), which is marked so; else None."""
    usage: PartUsage | None = None
    """What is told when photos or annotations are read; None outside a run."""

    def __post_init__(self) -> None:
        """Has annotations tell that those of these photos are read."""
        if self.usage is not None and self.annotations is not None:
            told = replace(self.annotations, reader=partial(self._tell, self.rows))
            object.__setattr__(self, "annotations", told)

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: NDArray[np.int64] | Sequence[int]) -> Self:
        """The photos at some places, in that order."""
        chosen = np.asarray(indices, np.int64)
        return replace(
            self,
            images=tuple(self.images[i] for i in chosen),
            digests=tuple(self.digests[i] for i in chosen),
            rows=self.rows[chosen],
            shapes=self.shapes[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            lens=None if self.lens is None else self.lens.select(chosen),
            behind=None if self.behind is None else self.behind.select(chosen),
            species=None if self.species is None else self.species[chosen],
            viewpoints=None if self.viewpoints is None else self.viewpoints[chosen],
        )

    def known(self) -> LabelledPhotos:
        """The photos whose individual is one of `identities`; raises ValueError where labels are hidden."""
        if self.labels is None:
            raise ValueError("labels of these photos are hidden")
        return LabelledPhotos(**vars(self)).known()

    def bare(self) -> Photos:
        """The same photos without labels and annotations: all there is to score by, viewpoints among it."""
        return self.unlabelled().labelled()

    def labelled(self) -> Self:
        """The same photos without annotations, for methods that look at none."""
        behind = None if self.behind is None else self.behind.labelled()
        return replace(self, annotations=None, behind=behind)

    def unlabelled(self) -> Photos:
        """The same photos without labels and species."""
        behind = None if self.behind is None else self.behind.unlabelled()
        shown = {field.name: getattr(self, field.name) for field in fields(Photos)}
        return Photos(**shown | {"labels": None, "behind": behind, "species": None})

    def through(self, lens: Lens) -> Self:
        """The same photos seen through a lens; one lens can stand before another."""
        return replace(self, lens=lens, behind=self)

    def batch(
        self, indices: NDArray[np.int64] | Sequence[int], size: Size, device: torch.device = CPU
    ) -> Batch:
        """The photos at some places as one batch on the device, resized to size (height, width)."""
        chosen = np.asarray(indices, np.int64)
        if self.lens is not None and self.behind is not None:
            return self.lens.look(self.behind, chosen, size, device)
        rows = self.rows[chosen]
        if self.usage is not None:
            self.usage.read(len(rows), size, gradients=torch.is_grad_enabled())
        pixels = _to_float(self.store.read(rows, size), device).permute(0, 3, 1, 2)
        labels, species = (
            None if values is None else torch.from_numpy(values[chosen]).to(device)
            for values in (self.labels, self.species)
        )
        if self.annotations is None:
            return Batch(pixels, labels, species=species)
        height, width = size
        given = vars(self.annotations)
        boxes = torch.from_numpy(given["boxes"][rows]) * torch.tensor([width, height] * 2)
        landmarks = torch.from_numpy(given["landmarks"][rows]) * torch.tensor([width, height])
        masks = None
        if self.annotations.has_mask.any():
            masks = _to_float(self.store.read_masks(rows, size), device)[:, None]
        reader = None if self.usage is None else partial(self._tell, rows)
        return Batch(pixels, labels, boxes.to(device), landmarks.to(device), masks, species, reader)

    def part_of_batch(
        self, indices: NDArray[np.int64], part: slice, size: Size, device: torch.device = CPU
    ) -> Batch:
        """Those of a part of the photos at some places, where other processes have the rest of them.

        Annotations that are read on it are read on all.
        """
        batch = self.batch(indices[part], size, device)
        if batch.reader is None or part == slice(None):
            return batch
        read = self
        while read.behind is not None:
            read = read.behind
        return replace(batch, reader=partial(read._tell, read.rows[indices]))

    def batches(
        self, size: Size, batch_size: int, device: torch.device = CPU, part: slice = slice(None)
    ) -> Iterator[Batch]:
        """All photos in order, or those of a part of the batches; pixels only, because they are scored by."""
        bare = self.bare()
        for start in range(0, len(self), batch_size)[part]:
            yield bare.batch(np.arange(start, min(start + batch_size, len(self))), size, device)

    def _tell(self, rows: NDArray[np.int64], name: str) -> None:
        """Tells that the annotations of that name are read on the photos at some rows."""
        if self.usage is not None and self.annotations is not None:
            self.usage.annotated(KINDS[name], self.annotations.annotated(name, rows))


@dataclass(frozen=True)
class LabelledPhotos(Photos):
    """Photos whose labels are shown."""

    labels: NDArray[np.int64]

    def known(self) -> Self:
        """The photos whose individual is one of `identities`."""
        return self.select(np.flatnonzero(self.labels != UNKNOWN))


def _to_float(array: NDArray[np.uint8], device: torch.device) -> Tensor:
    # Bytes travel to the device, a quarter of what floats would be.
    return torch.from_numpy(np.ascontiguousarray(array)).to(device).to(torch.float32).div_(255.0)
