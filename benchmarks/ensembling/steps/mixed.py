"""Steps that bring a likeness of their own to the gallery, and mix it with the scores there are."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from whalebench.benchmarks.ensembling.mixing import Scores
from whalebench.benchmarks.ensembling.steps.step import Gallery, Queries, Setting, Step


class MixedStep(Step):
    """own * scores + (1 - own) * likeness; scores count in units of their spread on valid, see Queries.unit.

    A subclass says its likeness, in which the right individual should stand about 1 above the others.
    """

    looks_at_embeddings = True

    def __init__(self, gallery: Gallery) -> None:
        super().__init__(gallery)
        self._last: tuple[Queries, dict[str, float], Scores] | None = None

    def unfit(self, valid: Queries, test: Queries) -> str:
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
