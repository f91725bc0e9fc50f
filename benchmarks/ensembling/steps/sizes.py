"""The size rule: of candidates that are hardly told apart, the one who has photos of the photo's size."""

from __future__ import annotations

import numpy as np

from whalebench.benchmarks.ensembling.mixing import Scores
from whalebench.benchmarks.ensembling.steps.step import Queries, Setting, Step


class Sizes(Step):
    """Where train photos of exactly one rival have the photo's width and height, that one becomes first.

    Rivals are the first five candidates, as far as their probability is less than `gap` below that of the
    first. Seed 000 had the rule for duplicates; after the step `duplicates` it is its rule.
    """

    name = "sizes"
    transductive = False
    settings = ({"gap": 0.05}, {"gap": 0.1}, {"gap": 0.3}, {"gap": 0.5})

    def unfit(self, valid: Queries, test: Queries) -> str:
        """Sizes in the catalog that differ."""
        every = np.concatenate([self.gallery.sizes, valid.sizes, test.sizes])
        if not every.all():
            return "the catalog does not have the size of every photo"
        width, height = every[0]
        return "" if (every != every[0]).any() else f"all photos are of one size, {width} x {height}"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The same scores, in some photos those of two candidates exchanged."""
        columns, chances = queries.leaders
        gallery, found = self.gallery, queries.scores.copy()
        held = set(zip(gallery.labels.tolist(), *gallery.sizes.T.tolist(), strict=True))
        rivals = chances[:, :1] - chances < setting["gap"]
        for row in np.flatnonzero(rivals.sum(axis=1) > 1):
            size = tuple(queries.sizes[row].tolist())
            fitting = [column for column in columns[row, rivals[row]].tolist() if (column, *size) in held]
            if len(fitting) == 1:
                pair = [columns[row, 0], fitting[0]]
                found[row, pair] = found[row, pair[::-1]]
        return found
