"""Bagging over inner folds: as many networks, each of which learns from all but one and is chosen by that.

Test is answered by all of them together. Every photo of train has an answer of the one network that did not
learn from it, so what is stacked upon them learns from thousands of photos instead of valid's few hundred.
Of the systems that came third, 26th, second and fourth (Humpback 2019, Happywhale 2022, Right Whale 2015,
Salt 2018) this is where the last points are from; Breiman 1996 has the name, Wolpert 1992 the stacking.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from whalebench import RunFailedError
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos, Size
from whalebench.methods.guests import guest
from whalebench.methods.method import Components, Harness, Located, Method, MethodConfig
from whalebench.methods.parts.fusion import BAG, INNER_GALLERY, OutOfFold, average_scores, side_by_side, voted
from whalebench.methods.parts.pipeline import Pipeline, SeenWindows
from whalebench.methods.registry import find_method

Scores = NDArray[np.float32]


class Bagged(Pipeline):
    """Pipelines of one configuration, each of which has another inner fold of train for its valid."""

    def __init__(self, kind: type[Method], config: MethodConfig) -> None:
        alone = config.model_copy(update={"bags": 1})
        super().__init__(kind, alone)
        self.config = config
        self.members = [Pipeline(kind, alone) for _ in range(config.bags)]

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Each member learns from train without its inner fold, by which it is chosen.

        Those that learn from test photos, too, wait for these.
        """
        if self.transductive:
            self.waiting = train, valid
        else:
            self.learn_each(train, None, harness)

    def adapt(self, unlabelled: Photos, harness: Harness) -> None:
        """Each member learns from train without its inner fold, and from the bare test photos."""
        assert self.waiting is not None
        self.learn_each(self.waiting[0], unlabelled, harness)
        self.waiting = None

    def learn_each(self, train: LabelledPhotos, unlabelled: Photos | None, harness: Harness) -> None:
        """Each member learns, and its inner fold, by which it is chosen, is asked of it.

        Then its gallery, if it has one, takes in its inner fold, too: that is known when test is asked for.
        """
        held = harness.inner_folds(self.config.bags)
        inner = np.array([held.get(image, -1) for image in train.images], np.int64)
        for number, member in enumerate(self.members):
            shown, asked = (train.select(np.flatnonzero(rows)) for rows in (inner != number, inner == number))
            if missing := member.missing_requirement(shown, asked):
                raise RunFailedError(
                    f"what bag {number + 1} of {len(self.members)} would learn from lacks {missing}: take "
                    f"fewer bags, or annotate more photos of train."
                )
        answered = []
        for number, member in enumerate(self.members):
            kept, own = np.flatnonzero(inner != number), np.flatnonzero(inner == number)
            own_photos = train.select(own)
            with harness.scope(BAG.format(number + 1)):
                with harness.held_back(own_photos):
                    member.learn(train.select(kept), own_photos, harness)
                    if unlabelled is not None:
                        member.adapt(unlabelled, harness)
                    scores, embeddings = member.score_and_embed(_asked(own_photos, self.config))
                    harness.choose("valid_map_at_5", harness.valid_map_at_5(scores))
                _take_in(member, own_photos, harness)
            answered.append((own, scores, embeddings))
        self.out_of_fold = _together(answered)

    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """What the photos lack that a member cannot do without; empty where it fits."""
        return self.members[0].missing_requirement(train, queries)

    def sizes(self) -> tuple[Size, ...]:
        """Those of a member."""
        return self.members[0].sizes()

    def score(self, photos: Photos) -> Scores:
        """Scores (photos, identities) of all members: their mean, or their votes."""
        return self._joined([member.score(photos) for member in self.members])

    def embed(self, photos: Photos) -> NDArray[np.float32] | None:
        """The members' embeddings side by side (photos, dimensions); None where they have none."""
        return _beside([member.embed(photos) for member in self.members])

    def score_and_embed(self, photos: Photos) -> tuple[Scores, NDArray[np.float32] | None]:
        """What `score` and `embed` give, by one look of each member."""
        scores, embeddings = zip(*(member.score_and_embed(photos) for member in self.members), strict=True)
        return self._joined(list(scores)), _beside(list(embeddings))

    def variants(self, photos: Photos) -> dict[str, Scores]:
        """The scores of the first member alone: what bagging is worth."""
        return {"one of the bags": self.members[0].score(photos)}

    def extend(self, photos: LabelledPhotos) -> None:
        """Every member's gallery takes in the photos; NotImplementedError where there is none."""
        for member in self.members:
            member.extend(photos)

    def locate(self, photos: Photos) -> Located | None:
        """Where the first member says the animals are."""
        return self.members[0].locate(photos)

    def windows(self, photos: Photos) -> SeenWindows | None:
        """What the first member sees of the photos."""
        return self.members[0].windows(photos)

    def components(self) -> Components:
        """Each member by its number from 0."""
        return {str(place): member for place, member in enumerate(self.members)}

    def rebuild(self, identities: int, device: object) -> None:
        """Members set themselves up."""
        del identities, device

    def _joined(self, scores: list[Scores]) -> Scores:
        rule: Callable[[list[Scores]], Scores] = (
            voted if self.config.bags_joined == "votes" else average_scores
        )
        return rule(scores)


def _asked(photos: LabelledPhotos, config: MethodConfig) -> Photos:
    """The photos as valid is shown when it is asked for: bare, but to an oracle."""
    return photos.unlabelled() if config.sees_annotations() else photos.bare()


def _take_in(member: Pipeline, photos: LabelledPhotos, harness: Harness) -> None:
    """What galleries the member has take in the photos of known individuals, if there are some."""
    known = photos.known()
    if not len(known):
        return
    before = _gallery_sizes(member)
    with suppress(NotImplementedError):  # a method within may have none
        member.extend(known)
    if _gallery_sizes(member) != before:
        harness.fitted(INNER_GALLERY, known)


def _gallery_sizes(member: Pipeline) -> list[int]:
    return [len(gallery.labels) for gallery in member.galleries().values()]


def _beside(embeddings: list[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    every = [each for each in embeddings if each is not None]
    return side_by_side(every) if every else None


def _together(answered: list[tuple[NDArray[np.int64], Scores, NDArray[np.float32] | None]]) -> OutOfFold:
    """The answers of all inner folds in the order of train."""
    rows = np.concatenate([own for own, _, _ in answered])
    order = np.argsort(rows, kind="stable")
    scores = np.concatenate([each for _, each, _ in answered])[order]
    embeddings = [each for _, _, each in answered if each is not None]
    joined = np.concatenate(embeddings)[order] if len(embeddings) == len(answered) else None
    bags = np.concatenate([np.full(len(own), bag) for bag, (own, _, _) in enumerate(answered)])
    return OutOfFold(rows[order], bags[order], scores, joined)


def build_method(method: str | type[Method], config: MethodConfig) -> Pipeline:
    """The method of that name or class as a run trains it: behind its crop, in its cycles, in its bags."""
    kind = find_method(method) if isinstance(method, str) else method
    with guest(kind.name):
        return (kind.bagged or Bagged)(kind, config) if config.bags > 1 else Pipeline(kind, config)
