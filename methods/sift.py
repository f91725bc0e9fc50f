"""`sift`: key points that two photos share; on its own, or to re-order another method's shortlist."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from whalebench import WhalebenchError
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos, Size
from whalebench.methods.method import Components, Harness, Method, MethodConfig
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.keypoints import (
    MatchingConfig,
    PairGallery,
    estimate_hours,
    find_all_keypoints,
    require_packages,
    rerank,
    shortlist_mask,
)
from whalebench.methods.parts.pipeline import NetworkMethodConfig, UntrainedConfig
from whalebench.methods.registry import configure_inner


class SiftConfig(MatchingConfig, UntrainedConfig):
    """Fields of `sift`; it trains no network: epochs and the like have no effect, but a finder's own."""

    no_schedule: ClassVar = "key points are not; leave it out, or set it in by_settings"

    by: str = ""
    """Another method, learned in the same run, whose best individuals are re-ordered; unless given, every
    photo is compared with every one of the gallery."""
    by_settings: str = ""
    """The other method's fields, as backbone=resnet18,epochs=10."""
    shortlist: Annotated[int, Field(ge=0)] = 0
    """How many of the other method's best individuals are re-ordered."""
    hours: Annotated[float, Field(gt=0)] = 2.0
    """Longest that comparing the test photos may be estimated to take; nothing is begun beyond."""

    @model_validator(mode="after")
    def _shortlist_by_another(self) -> Self:
        if bool(self.by) != bool(self.shortlist):
            raise ValueError("a shortlist needs a method that makes it: set both, as by=arcface shortlist=50")
        if self.by_settings and not self.by:
            raise ValueError("by_settings are of the method named by `by`, and there is none: set by=arcface")
        inner = self.inner()
        if isinstance(inner, SiftConfig):
            raise ValueError("by=sift would re-order its own answer; set another method, as by=arcface")
        if inner is not None and inner.inner() is not None:
            raise ValueError(f"by={self.by} has a method within itself; set one without, as by=arcface")
        if isinstance(inner, NetworkMethodConfig) and inner.crop != "none" and self.crop != "none":
            raise ValueError(f"crop={self.crop} and the crop={inner.crop} of {self.by} would crop twice")
        return self

    def inner(self) -> MethodConfig | None:
        """The configuration of the other method."""
        return configure_inner(self.by, self.by_settings) if self.by else None

    def sees_annotations(self) -> bool:
        """Whether it or the other method is an oracle."""
        inner = self.inner()
        return super().sees_annotations() or (inner is not None and inner.sees_annotations())


class Sift(Method):
    """The inliers of the best photo of each individual; or another method's shortlist in their order."""

    name = "sift"
    summary = "key points that two photos share; alone, or re-ordering another method's shortlist"
    source = (
        "Lowe 2004 (SIFT); Arandjelović & Zisserman 2012 (RootSIFT); Fischler & Bolles 1981 (RANSAC); "
        "Lindenberger et al. 2023 (LightGlue); Cermak et al. 2024 (WildFusion) for the shortlist"
    )
    Config = SiftConfig
    config: SiftConfig

    def __init__(self, config: SiftConfig) -> None:
        # Missing packages are better missed before anything is learned than after.
        require_packages(config.matcher)
        super().__init__(config)
        inner = config.inner()
        self.by = None if inner is None else build_method(config.by, inner)
        self.transductive = self.by is not None and self.by.transductive

    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """What the other method lacks; raises WhalebenchError where the comparison would take too long."""
        gallery = len(train.known())
        pairs = len(queries) * gallery
        if self.by is not None:
            pairs = min(pairs, round(pairs * self.config.shortlist / max(1, len(train.identities))))
        hours = estimate_hours(pairs, self.config.keypoints, self.config.matcher)
        if hours > self.config.hours:
            raise WhalebenchError(
                f"sift would compare {pairs:,} pairs of photos ({len(queries):,} test photos with up to "
                f"{gallery:,} of the gallery), about {hours:.1f} hours and as much for every other part: set "
                f"by=arcface with a short shortlist, fewer keypoints, or hours={int(hours) + 1}."
            )
        return "" if self.by is None else self.by.missing_requirement(train, queries)

    def sizes(self) -> tuple[Size, ...]:
        """The size that key points are looked for in, and those of the other method."""
        return (self.config.size, *(self.by.sizes() if self.by is not None else ()))

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Learns the other method, if there is one, and finds the gallery's key points."""
        if self.by is not None:
            self.by.learn(train, valid, harness)
        harness.stage("keypoints")
        known = train.known()
        harness.fitted("keypoints", known)
        self.gallery = PairGallery(self.config, harness.device)
        self.gallery.fill(find_all_keypoints(known, self.config), known.labels)

    def adapt(self, unlabelled: Photos, harness: Harness) -> None:
        """Lets the other method adapt, if there is one."""
        if self.by is not None:
            self.by.adapt(unlabelled, harness)

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Inliers (photos, identities) with the best photo of each; behind another method see `rerank`."""
        keypoints = find_all_keypoints(photos, self.config)
        if self.by is None:
            return self.gallery.inliers(keypoints, np.ones((len(photos), len(photos.identities)), np.bool_))
        scores = self.by.score(photos)
        shortlist = shortlist_mask(scores, self.config.shortlist)
        return rerank(scores, self.gallery.inliers(keypoints, shortlist), shortlist)

    def embed(self, photos: Photos) -> NDArray[np.float32] | None:
        """The embeddings of the other method, if there is one."""
        return None if self.by is None else self.by.embed(photos)

    def components(self) -> Components:
        """The gallery's key points, and the other method."""
        return {"": self.gallery, **({} if self.by is None else {"by": self.by})}

    def rebuild(self, identities: int, device: torch.device) -> None:
        """A gallery without photos."""
        self.gallery = PairGallery(self.config, device)
