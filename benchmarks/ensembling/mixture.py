"""Members mixed under weights, with how much like anyone known each photo is to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.mixing import Floats, Scores, energies, familiarity


class Mixture:
    """The members' scores mixed under any weights, and how familiar each photo is to them (see mixing)."""

    def __init__(self, members: Sequence[Member], mix: Callable[[list[Scores], list[float], Floats], Scores]):
        self.members, self.mix = members, mix
        self.temperatures = [member.temperature for member in members]
        self.energies = energies([member.valid for member in members], self.temperatures)

    def valid(self, weights: Floats) -> Scores:
        """Scores (valid photos, identities) under weights (members,); not of votes also (photos, members)."""
        mixed = self.mix([member.valid for member in self.members], self.temperatures, weights)
        mixed += familiarity(self.energies, self.energies, _shares(weights)).astype(np.float32)[:, None]
        return mixed

    def test(self, weights: Floats) -> Scores:
        """Scores (test photos, identities) under weights (members,)."""
        scores = [member.test for member in self.members]
        mixed = self.mix(scores, self.temperatures, weights)
        familiar = familiarity(energies(scores, self.temperatures), self.energies, _shares(weights))
        mixed += familiar.astype(np.float32)[:, None]
        return mixed


def _shares(weights: Floats) -> Floats:
    """The same weights, one in all for each photo."""
    shares: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return shares
