"""Query expansion: a photo is looked for with its nearest neighbours added to it."""

from __future__ import annotations

from itertools import product

import numpy as np

from whalebench.benchmarks.ensembling.mixing import Scores, blocks
from whalebench.benchmarks.ensembling.sides import normalised
from whalebench.benchmarks.ensembling.steps.mixed import MixedStep
from whalebench.benchmarks.ensembling.steps.step import Queries, Setting
from whalebench.methods.parts.ensembles.voting import best_columns


class Expansion(MixedStep):
    """Cosines to the nearest photo of the query plus its neighbours in the gallery, by cosine ** alpha.

    Chum et al. 2007 (alpha 0: all neighbours alike); Radenović et al. 2018 (alpha 3).
    """

    name = "expansion"
    transductive = False
    settings = tuple(
        {"neighbours": neighbours, "alpha": alpha, "own": own}
        for neighbours, alpha, own in product((2, 5, 10), (3.0, 0.0), (0.5, 0.0))
    )

    def likeness(self, queries: Queries, setting: Setting) -> Scores:
        """The largest cosine of the expanded query to a photo of each individual."""
        gallery, own = self.gallery.embeddings, queries.embeddings
        assert gallery is not None
        assert own is not None
        pool = np.concatenate([gallery, own]) if self.transductive else gallery
        found: Scores = np.empty(queries.scores.shape, np.float32)
        for rows in blocks(len(own), len(pool)):
            cosines = own[rows] @ pool.T
            if self.transductive:  # nobody is a neighbour of itself
                cosines[np.arange(len(cosines)), len(gallery) + np.arange(rows.start, rows.stop)] = -np.inf
            near = best_columns(cosines, int(setting["neighbours"]))
            weights = np.maximum(np.take_along_axis(cosines, near, 1), 0) ** np.float32(setting["alpha"])
            expanded = own[rows] + np.einsum("qn,qnd->qd", weights, pool[near])
            found[rows] = self.gallery.nearest(normalised(expanded) @ gallery.T)
        return found


class ExpansionTogether(Expansion):
    """The same with the other photos of the part among the neighbours."""

    name = "expansion-together"
    transductive = True
