"""What a configuration is worth: it learns on train and is scored on valid, as test would be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Protocol

from whalebench import WhalebenchError
from whalebench.benchmarks.harness import RunHarness
from whalebench.benchmarks.machine import cores
from whalebench.benchmarks.progress import EpochNews, Progress
from whalebench.benchmarks.runs.outcome import score_photos
from whalebench.benchmarks.views import Answers, Views, fold_views
from whalebench.methods.parts.identifier import behind_its_crop

if TYPE_CHECKING:
    import torch

    from whalebench.benchmarks.judging.selection import Judge
    from whalebench.benchmarks.registry import Benchmark
    from whalebench.methods.method import Method, MethodConfig


@dataclass(frozen=True)
class Ground:
    """On what configurations are tried."""

    benchmark: Benchmark
    fold: int
    seed: int
    device: torch.device
    judge: Judge


class Told(Protocol):
    """Whoever is told what a trial scores on valid while it learns, and may end it by an exception."""

    def score(self, step: int, map_at_5: float) -> None:
        """MAP@5 on valid after so many epochs."""


class Watch:
    """Shows the work as ever, and passes on what the epochs score on valid."""

    def __init__(self, progress: Progress, told: Told) -> None:
        self._progress, self._told = progress, told
        self._before = self._last = 0

    def stage(self, name: str) -> None:
        """The next phase, shown."""
        self._progress.stage(name)

    def advance(self, done: int, total: int) -> None:
        """The pieces done, shown."""
        self._progress.advance(done, total)

    def epoch(self, news: EpochNews) -> None:
        """The epoch, shown and passed on where it was validated, which those of a finder are not.

        Epochs are counted on where a method trains twice, so that steps rise.
        """
        self._progress.epoch(news)
        if isnan(news.valid_map_at_5):
            return
        if self._before + news.number <= self._last:
            self._before = self._last
        self._last = self._before + news.number
        self._told.score(self._last, news.valid_map_at_5)


class Attempt:
    """One configuration on trial."""

    def __init__(self, kind: type[Method], config: MethodConfig, ground: Ground, watch: Progress) -> None:
        """Raises WhalebenchError where the method does not fit, or valid holds nothing to choose by."""
        self.method, self.ground, self.watch = behind_its_crop(kind(config)), ground, watch
        self.views = without_test(fold_views(ground.benchmark, ground.fold, oracle=config.sees_annotations()))
        name = ground.benchmark.name
        if lacking := self.method.unfit(self.views.train, self.views.valid):
            raise WhalebenchError(f"{kind.name} does not fit: {name} has no {lacking}.")
        if not len(self.views.valid):
            raise WhalebenchError(
                f"fold {ground.fold} of {name} has no valid photos: there is nothing to tune by."
            )
        self.harness = RunHarness(ground.seed, ground.device, self.views, ground.judge, watch, config)

    def valid_map_at_5(self) -> float:
        """MAP@5 on valid after learning, with the best threshold of *new* there."""
        self.harness.stage("decode")
        for size in self.method.sizes():
            self.ground.benchmark.store.pixels(size, self.watch.advance, cores())
        self.harness.seed_everything()
        self.harness.stage("learn")
        self.method.learn(self.views.train, self.views.valid, self.harness)
        return self.harness.valid_map_at_5(score_photos(self.method, self.views.queries()["valid"]))

    def photos(self) -> int:
        """Photos learned from so far."""
        return int(self.harness.curve()["photos"].sum())


def without_test(views: Views) -> Views:
    """The views with nothing of test in them: neither photos nor answers."""
    nothing = Answers((), (), (), ())
    return replace(views, test=views.test.select([]), test_answers=nothing, annotated={})
