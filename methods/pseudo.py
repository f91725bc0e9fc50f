"""`pseudo`: any method, trained again with pseudo-labels of the test photos it is sure of, in two halves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from whalebench import WhalebenchError
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos, Size
from whalebench.methods.method import (
    NEW_FIELDS,
    Components,
    Harness,
    Method,
    MethodConfig,
    Value,
    tensor_text,
    text_tensor,
)
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.fusion import average_scores
from whalebench.methods.parts.pipeline import Pipeline
from whalebench.methods.parts.training.pseudo_labels import two_halves, with_pseudo_labels
from whalebench.methods.registry import configure_inner

HALVES = ("half_a", "half_b")
"""What the two models are called in the record, after the half that each learned from."""


class PseudoConfig(MethodConfig):
    """Fields of `pseudo`; `new_rule` and `new_share` are those of the method within."""

    of: str = "softmax"
    """The method that learns: first from train alone, then twice more from train and half of the confident
    test photos."""
    of_settings: str = ""
    """Its fields, as epochs=10,dropout=0.2."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """How probable the first candidate of a test photo has to be to be taken for its label."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """How probable it is that a photo in a step is a pseudo-labelled one instead of one of train."""

    @model_validator(mode="before")
    @classmethod
    def _new_as_within(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        of = given.get("of", cls.model_fields["of"].default)
        inner = configure_inner(str(of), str(given.get("of_settings", "")))
        inherited = {name: str(value) for name in NEW_FIELDS if (value := getattr(inner, name))}
        return inherited | dict(given)

    @model_validator(mode="after")
    def _bagged_within(self) -> Self:
        if self.bags > 1:
            settings = ",".join(filter(None, (self.of_settings, f"bags={self.bags}")))
            raise WhalebenchError(
                f"bags={self.bags} would have each network guess by itself what teaches it, where all "
                f"together are surer: leave it out, and set of_settings={settings}."
            )
        return self

    @model_validator(mode="after")
    def _one_method_within(self) -> Self:
        inner = self.inner()
        if isinstance(inner, PseudoConfig):
            raise ValueError("of=pseudo would guess the guesses; set another method, as of=arcface")
        for name in NEW_FIELDS:
            value, within = getattr(self, name), getattr(inner, name)
            if value != within:
                raise ValueError(
                    f"{name}={value} is not the {name}={within} of {self.of}; set of_settings={name}={value}"
                )
        return self

    def inner(self) -> MethodConfig:
        """The configuration of the method that learns."""
        return configure_inner(self.of, self.of_settings)

    def sees_annotations(self) -> bool:
        """Whether the method that learns is an oracle."""
        return self.inner().sees_annotations()


class Pseudo(Method):
    """Two models that each learned half of the confident test photos; the other one scores that half."""

    name = "pseudo"
    summary = (
        "any method, taught once more by what it is sure of on test photos, in two halves (transductive)"
    )
    source = (
        "SeuTao (TGS Salt 2018, 4th place) for the halves; Lee 2013 (Pseudo-Label); Humpback 2019 (1st) and "
        "Happywhale 2022 (1st) solutions"
    )
    Config = PseudoConfig
    config: PseudoConfig
    transductive = scores_alone = True

    def __init__(self, config: PseudoConfig) -> None:
        super().__init__(config)
        self.first = self._fresh()
        if not self.first.scores_alone:
            raise WhalebenchError(
                f"of={config.of} scores photos with the help of others, which two halves would keep apart: "
                f"set another method, as of=arcface."
            )
        self.train: LabelledPhotos | None = None
        self.models: dict[str, Pipeline] = {}
        """By half; none before any test photo was learned from."""
        self.learned: dict[str, tuple[str, ...]] = {}
        """By half, the digests of its photos."""

    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """What the photos lack for the method that learns."""
        return self.first.missing_requirement(train, queries)

    def sizes(self) -> tuple[Size, ...]:
        """The sizes of the method that learns."""
        return self.first.sizes()

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Has the method learn from train alone."""
        self.train, self.valid = train, valid
        self.models, self.learned = {}, {}
        self.first.learn(train, valid, harness)

    def adapt(self, unlabelled: Photos, harness: Harness) -> None:
        """Has a new model learn from train and each half of the photos with a confident pseudo-label."""
        self._adapted(self.first, unlabelled, harness)
        harness.stage("pseudo-labels")
        guessed = self._guesses(unlabelled, harness)
        halves = dict(zip(HALVES, two_halves(guessed, harness.seed), strict=True))
        harness.choose("pseudo_labels", len(guessed))
        for name, half in halves.items():
            harness.choose(f"pseudo_labels_{name}", len(half))
        if not len(guessed):
            harness.warn(
                f"No test photo had a first candidate more probable than "
                f"confidence={self.config.confidence:g}, so nothing was learned from pseudo-labels: the run "
                f"is one of {self.config.of}."
            )
            return
        assert self.train is not None
        for name, half in halves.items():
            model = self._fresh()
            view = with_pseudo_labels(self.train, half, self.config.share)
            with harness.scope(name):
                model.learn(view, self.valid, harness)
                self._adapted(model, unlabelled, harness)
            self.models[name], self.learned[name] = model, half.digests

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """The average (photos, identities) of both models' scores; of what one has learned the other's."""
        if not self.models:
            return self.first.score(photos)
        learned = [set(self.learned[half]) for half in self.models]
        unseen = np.array([[digest not in half for digest in photos.digests] for half in learned])
        return average_scores([model.score(photos) for model in self.models.values()], unseen)

    def variants(self, photos: Photos) -> dict[str, NDArray[np.float32]]:
        """The scores before anything was learned from test photos; none after a restore."""
        if self.train is None or not self.models:
            return {}
        return {"without pseudo-labels": self.first.score(photos)}

    def components(self) -> Components:
        """Both models by their half, and the photos of each; of a method that was sure of nothing, itself."""
        if not self.models:
            return {"": self.first}
        photos = {f"photos.{half}": self._learned_photos(half) for half in self.models}
        return {**self.models, **photos}

    def restore(
        self, weights: Mapping[str, Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        """Takes up both models, and which photos each must not score."""
        self.train, self.models, self.learned = None, {}, {}
        if f"photos.{HALVES[0]}" in weights:
            self.models = {half: self._fresh() for half in HALVES}
        super().restore(weights, identities, device)

    def _learned_photos(self, half: str) -> Value:
        """The digests of the photos that one half learned from."""

        def put(stored: Tensor) -> None:
            self.learned[half] = tensor_text(stored)

        return Value(lambda: text_tensor(self.learned[half]), put)

    @staticmethod
    def _adapted(model: Pipeline, unlabelled: Photos, harness: Harness) -> None:
        """Has a model learn from bare test photos that does so by itself, as one whose masks are taught."""
        if model.transductive:
            model.adapt(unlabelled, harness)

    def _fresh(self) -> Pipeline:
        """The method before it has learned."""
        return build_method(self.config.of, self.config.inner())

    def _guesses(self, unlabelled: Photos, harness: Harness) -> LabelledPhotos:
        """The photos whose first candidate is probable enough, with that individual as their label."""
        # Valid is scored as test is, so that its temperature and threshold are theirs.
        valid = self.valid.unlabelled() if self.config.sees_annotations() else self.valid.bare()
        scores = self.first.score(unlabelled)
        sure = harness.confidence(self.first.score(valid), scores) > self.config.confidence
        labels = scores.argmax(axis=1).astype(np.int64)
        return LabelledPhotos(**vars(unlabelled) | {"labels": labels}).select(np.flatnonzero(sure))
