"""Base of recipes with several members, each of which learns by itself from the same photos."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.core.photos import LabelledPhotos, Photos, Size
from whalebench.methods.method import Components, Harness, Method
from whalebench.methods.parts.fusion import average_scores, side_by_side
from whalebench.methods.parts.pipeline import Pipeline


class Ensemble(Method):
    """Base of methods made of others; a subclass sets `members`, and may say how their scores are fused."""

    members: Sequence[Method | Pipeline]

    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """What the first member lacks that lacks something."""
        return next(filter(None, (member.missing_requirement(train, queries) for member in self.members)), "")

    def sizes(self) -> tuple[Size, ...]:
        """Every size that a member asks for."""
        return tuple(dict.fromkeys(size for member in self.members for size in member.sizes()))

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Trains one member after the other; several are told apart by number, and see the same photos."""
        for number, member in enumerate(self.members, 1):
            name = f"network_{number}"
            several = len(self.members) > 1
            with harness.scope(name, harness.cycle, same_photos=True) if several else nullcontext():
                member.learn(train, valid, harness)

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """The average (photos, identities) of the members' scores."""
        return average_scores([member.score(photos) for member in self.members])

    def embed(self, photos: Photos) -> NDArray[np.float32] | None:
        """The members' embeddings side by side (photos, dimensions), at length 1; None where none has any."""
        every = [embedded for member in self.members if (embedded := member.embed(photos)) is not None]
        return side_by_side(every) if every else None

    def score_and_embed(self, photos: Photos) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """By one look of each member where their scores are averaged and their embeddings joined as here."""
        if type(self).score is not Ensemble.score or type(self).embed is not Ensemble.embed:
            return super().score_and_embed(photos)
        scores, embeddings = zip(*(member.score_and_embed(photos) for member in self.members), strict=True)
        every = [embedded for embedded in embeddings if embedded is not None]
        return average_scores(scores), side_by_side(every) if every else None

    def extend(self, photos: LabelledPhotos) -> None:
        """Every member's gallery; then NotImplementedError where one has none."""
        without = []
        for member in self.members:
            try:
                member.extend(photos)
            except NotImplementedError:
                without.append(member.name)
        if without:
            raise NotImplementedError(f"no gallery: {', '.join(without)}")

    def components(self) -> Components:
        """Each member by its number."""
        return {str(place): member for place, member in enumerate(self.members)}
