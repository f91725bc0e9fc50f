"""What a step is: other scores for photos whose answers it never sees.

Steps that bring a likeness of their own to the gallery, and mix it with the scores there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import top_columns
from whalebench.benchmarks.ensembles.fusion import Floats, Scores, blocks, log_probabilities

Setting = Mapping[str, float]
"""The parameters of a step by name."""
LEADERS = 5
"""Candidates of a photo that rules look at."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """The known photos of train, those of one individual side by side, and what is known of individuals."""

    labels: NDArray[np.int64]
    """(photos,) the column of each one's individual, rising; every column is there."""
    sizes: NDArray[np.int64]
    """(photos, 2) width and height in pixels, 0 where the catalog has none."""
    embeddings: NDArray[np.float32] | None = None
    """(photos, dimensions) of length 1; None where no member keeps any."""
    groups: tuple[tuple[int, ...], ...] = ()
    """Columns that are known to be one individual."""

    def nearest(self, likeness: NDArray[np.float32]) -> NDArray[np.float32]:
        """(queries, individuals) that of the most alike photo, of a likeness (queries, photos)."""
        starts = np.searchsorted(self.labels, np.arange(self.labels[-1] + 1))
        return np.maximum.reduceat(likeness, starts, axis=1)


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
    embeddings: NDArray[np.float32] | None = None
    """(photos, dimensions) of length 1; None where no member keeps any."""

    @cached_property
    def leaders(self) -> tuple[NDArray[np.int64], Floats]:
        """Columns and probabilities (photos, at most LEADERS) of the first candidates, best first."""
        found = [
            (
                best,
                np.take_along_axis(np.exp(log_probabilities(self.scores[rows], self.temperature)), best, 1),
            )
            for rows in blocks(*self.scores.shape)
            for best in [top_columns(self.scores[rows], LEADERS)]
        ]
        columns, chances = zip(*found, strict=True)
        return np.concatenate(columns), np.concatenate(chances)


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
    """own * scores + (1 - own) * likeness; scores count in units of their spread on valid, see Queries.unit.

    A subclass says its likeness, in which the right individual should stand about 1 above the others.
    """

    looks_at_embeddings = True

    def __init__(self, gallery: Gallery) -> None:
        super().__init__(gallery)
        self._last: tuple[Queries, dict[str, float], Scores] | None = None

    def missing_requirement(self, valid: Queries, test: Queries) -> str:
        """Embeddings of the gallery, and two photos in it."""
        del valid, test
        if self.gallery.embeddings is None:
            return "no member keeps embeddings of its gallery"
        return "" if len(self.gallery.labels) > 1 else "there is one known photo only"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The mix; the likeness is remembered while only `own` changes."""
        rest = {name: value for name, value in setting.items() if name != "own"}
        if self._last is None or self._last[0] is not queries or self._last[1] != rest:
            self._last = None  # before the next one is there
            self._last = queries, rest, self.likeness(queries, rest)
        own = setting["own"]
        mixed: Scores = np.float32(own / queries.unit) * queries.scores
        mixed += np.float32(1 - own) * self._last[2]
        return mixed

    @abstractmethod
    def likeness(self, queries: Queries, setting: Setting) -> Scores:
        """(photos, individuals) how alike each photo is to each individual's, about from 0 to 1."""
