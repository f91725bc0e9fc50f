"""What a step is: other scores for photos whose answers it never sees, and what it is shown of a fold.

`steps.py` has the steps by name and takes them one after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import columns_of, row_blocks, top_columns
from whalebench.benchmarks.ensembles.embeddings import OtherGalleryError, read_embeddings
from whalebench.benchmarks.ensembles.members import FoldData, Member
from whalebench.benchmarks.ensembles.options import Groups
from whalebench.methods.parts import fusion
from whalebench.methods.parts.fusion import Embeddings, Floats, Labels, Scores

Setting = Mapping[str, float]
"""The parameters of a step by name."""
LEADERS = 5
"""Candidates of a photo that rules look at."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """The known photos of train, those of one individual side by side, and what is known of individuals."""

    labels: Labels
    """(photos,) the column of each one's individual, rising; every column is there."""
    sizes: NDArray[np.int64]
    """(photos, 2) width and height in pixels, 0 where the catalog has none."""
    embeddings: Embeddings | None = None
    """(photos, dimensions) of length 1; None where no member keeps any."""
    groups: tuple[tuple[int, ...], ...] = ()
    """Columns that are known to be one individual."""

    def nearest(self, similarities: NDArray[np.float32]) -> Scores:
        """(queries, individuals) that of the most similar photo, of similarities (queries, photos)."""
        starts = np.searchsorted(self.labels, np.arange(self.labels[-1] + 1))
        return np.maximum.reduceat(similarities, starts, axis=1)


@dataclass(frozen=True, eq=False)
class Queries:
    """The photos of one part as a step sees them: everything but who they show."""

    scores: Scores
    """(photos, individuals), as they are before the step."""
    temperature: float
    """Over which the softmax of the scores is their probabilities, as chosen on valid."""
    unit: float
    """By how much the best score stands above the mean one in valid, on average."""
    sizes: NDArray[np.int64]
    """(photos, 2) width and height in pixels, 0 where the catalog has none."""
    encounters: tuple[str, ...]
    """"" where the catalog names none."""
    embeddings: Embeddings | None = None
    """(photos, dimensions) of length 1; None where no member keeps any."""

    @cached_property
    def leaders(self) -> tuple[Labels, Floats]:
        """Columns and probabilities (photos, at most LEADERS) of the first candidates, best first."""
        columns = top_columns(self.scores, LEADERS)
        probabilities = np.empty(columns.shape)
        for rows in row_blocks(*self.scores.shape):
            every = np.exp(fusion.log_probabilities(self.scores[rows], self.temperature))
            probabilities[rows] = np.take_along_axis(every, columns[rows], 1)
        return columns, probabilities


@dataclass(frozen=True)
class StepInputs:
    """The gallery, and of both parts everything but scores and answers."""

    gallery: Gallery
    photos: dict[str, pd.DataFrame]
    embeddings: dict[str, Embeddings]
    """(photos, dimensions) by `gallery`, `valid` and `test`; empty where no member keeps any."""

    def queries(self, part: str, scores: Scores, temperature: float, unit: float) -> Queries:
        """The photos of `valid` or `test` with the scores they have by now."""
        sizes, encounters = _sizes(self.photos[part]), tuple(self.photos[part]["encounter"])
        return Queries(scores, temperature, unit, sizes, encounters, self.embeddings.get(part))


def build_inputs(
    fold: FoldData, members: Sequence[Member], weights: Sequence[float], groups: Groups, *, embedded: bool
) -> StepInputs:
    """What steps are shown of the fold; of members' embeddings nothing unless they are asked for."""
    column, labels = columns_of(fold.identities), fold.gallery_labels
    order = np.argsort(labels, kind="stable")
    embeddings = _joint_embeddings(members, weights, fold) if embedded else {}
    known = (tuple(column[name] for name in group if name in column) for group in groups)
    gallery = Gallery(
        labels=labels[order],
        sizes=_sizes(fold.photos["gallery"])[order],
        embeddings=embeddings["gallery"][order] if embeddings else None,
        groups=tuple(group for group in known if len(group) > 1),
    )
    return StepInputs(gallery, fold.photos, embeddings)


def _sizes(photos: pd.DataFrame) -> NDArray[np.int64]:
    return photos[["width", "height"]].to_numpy(np.int64)


def _joint_embeddings(
    members: Sequence[Member], weights: Sequence[float], fold: FoldData
) -> dict[str, Embeddings]:
    """By part the embeddings, side by side, of the members that keep a gallery of all known train photos."""
    kept: list[tuple[float, dict[str, Embeddings]]] = []
    for member, weight in zip(members, weights, strict=True):
        try:
            embeddings = read_embeddings(member, fold) if weight > 0 else {}
        except OtherGalleryError:
            continue
        if embeddings:
            kept.append((weight, embeddings))
    if not kept:
        return {}
    shares = [weight for weight, _ in kept]
    return {part: fusion.side_by_side([each[part] for _, each in kept], shares) for part in kept[0][1]}


class Step(ABC):
    """Makes other scores of scores. A subclass says its name, whether it is transductive, and its grid."""

    name: ClassVar[str]
    """What is typed after --then."""
    transductive: ClassVar[bool]
    """Whether a photo's scores then depend on the other photos of its part."""
    settings: ClassVar[Sequence[Setting]] = ({},)
    """The grid valid chooses from; of equally good settings the first."""
    looks_at_embeddings: ClassVar[bool] = False

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery

    @abstractmethod
    def missing_requirement(self, valid: Queries, test: Queries) -> str:
        """Why it cannot be taken, as "no photo sizes in the catalog"; empty where it can."""

    @abstractmethod
    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """Scores (photos, individuals) after the step, in an array of their own."""


class MixedStep(Step):
    """own * scores + (1 - own) * similarities; scores count in units of their spread on valid (Queries.unit).

    A subclass says its similarities, in which the right individual should stand about 1 above the others.
    """

    looks_at_embeddings = True

    def __init__(self, gallery: Gallery) -> None:
        super().__init__(gallery)
        self._last: tuple[Queries, dict[str, float], Scores] | None = None

    def missing_requirement(self, valid: Queries, test: Queries) -> str:
        """Embeddings of the gallery, and two photos in it."""
        if self.gallery.embeddings is None:
            return "no member keeps embeddings of its gallery"
        return "" if len(self.gallery.labels) > 1 else "there is one known photo only"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The mix; similarities are remembered while only `own` changes."""
        rest = {name: value for name, value in setting.items() if name != "own"}
        if self._last is None or self._last[0] is not queries or self._last[1] != rest:
            self._last = None  # before the next one is there
            assert queries.embeddings is not None  # see missing_requirement
            assert self.gallery.embeddings is not None
            similarities = self.similarities(queries.embeddings, self.gallery.embeddings, rest)
            self._last = queries, rest, similarities
        own = setting["own"]
        mixed: Scores = np.float32(own / queries.unit) * queries.scores
        mixed += np.float32(1 - own) * self._last[2]
        return mixed

    @abstractmethod
    def similarities(self, queries: Embeddings, gallery: Embeddings, setting: Setting) -> Scores:
        """(queries, individuals) how similar each photo is to each individual's, about from 0 to 1."""
