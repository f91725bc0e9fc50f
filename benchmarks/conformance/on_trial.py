"""A method on trial: built, taught and asked as a run would, as often as the checks need it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.conformance.ground import Ground, WatchedStore
from whalebench.benchmarks.harness import RunHarness
from whalebench.benchmarks.judging.selection import Judge
from whalebench.benchmarks.photos import CPU, Photos, Size
from whalebench.benchmarks.progress import SILENT, Progress
from whalebench.benchmarks.registry import Benchmark
from whalebench.benchmarks.runs.unfinished import Unfinished
from whalebench.benchmarks.views import Views, fold_views
from whalebench.methods.method import Method, MethodConfig
from whalebench.methods.parts.identifier import behind_its_crop

TOLERANCE = 1e-4
"""How far apart scores may lie that should be equal, as a share of their spread: sums are rounded."""


class Broken(Exception):
    """What a method promised and did not keep, in one sentence."""


class DoesNotApply(Exception):
    """Why a check says nothing of a method, in one sentence."""


@dataclass(frozen=True)
class Learned:
    """A method that has learned, and what it told the harness."""

    method: Method
    harness: RunHarness
    views: Views

    def scores(self, part: str = "valid") -> NDArray[np.float32]:
        """Its scores (photos, identities) of train's known photos, valid or test, as a run asks for them."""
        return np.asarray(self.method.score(self.views.queries()[part]))


class OnTrial:
    """The method with its configuration, where it is tried, and what became of its learning."""

    learned: Learned | None = None
    """After `learns`, unless that failed."""

    def __init__(
        self, name: str, kind: type[Method], config: MethodConfig, ground: Ground, judge: Judge
    ) -> None:
        self.name, self.kind, self.config, self.ground, self.judge = name, kind, config, ground, judge
        self.asked: set[Size] = set()
        """Sizes at which photos of `views` were asked for so far."""
        self.views = watched(self.views_of(ground.annotated), self.asked)

    def views_of(self, benchmark: Benchmark) -> Views:
        """What the method may see of the benchmark's only fold."""
        return fold_views(benchmark, 0, oracle=self.config.sees_annotations())

    def build(self, config: MethodConfig | None = None) -> Method:
        """The method before learning, behind its crop; as configured for the trial unless said otherwise."""
        return behind_its_crop(self.kind(config or self.config))

    def learn(
        self, views: Views, progress: Progress = SILENT, unfinished: Unfinished | None = None
    ) -> Learned:
        """The method after learning from the views; always with the same seed.

        With a folder of what is `unfinished`, it goes on from there and is kept there.
        """
        method = self.build()
        harness = RunHarness(0, CPU, views, self.judge, progress, unfinished=unfinished)
        harness.seed_everything()
        harness.stage("learn")
        harness.teach(method)
        return Learned(method, harness, views)

    def after_learning(self) -> Learned:
        """What `learns` left behind."""
        if self.learned is None:
            raise DoesNotApply("It has not learned.")
        return self.learned


def watched(views: Views, asked: set[Size]) -> Views:
    """The same views on a store of their own, which adds to `asked` the sizes it is asked for."""

    def watch(photos: Photos) -> Photos:
        kept = {name: getattr(photos.store, name) for name in ("cache", "paths", "digests", "mask_paths")}
        return replace(photos, store=WatchedStore(**kept, asked=asked))

    train, valid, test = (watch(photos) for photos in (views.train, views.valid, views.test))
    return replace(views, train=train, valid=valid, test=test)


def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """How far apart two tables lie at most, as a share of the spread of the first; infinite for NaN."""
    spread = max(float(np.ptp(one)), 1e-6)
    distance = float(np.abs(one.astype(np.float64) - other).max()) / spread
    return distance if np.isfinite(distance) else float("inf")
