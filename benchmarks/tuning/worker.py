"""A worker of a study: takes a trial, learns, says what came of it, until the budget is spent.

What a configuration is worth: it learns on train and is scored on valid, as test would be.

One trial from its values to its end: scored, pruned, failed with a reason, or given up.

What the workers of one study do, and where they find it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.progress import EpochNews, Progress
from whalebench.benchmarks.running.folds import Answers, Views, fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.outcome import score_photos
from whalebench.benchmarks.tuning.study import (
    LEASE,
    PHOTOS,
    REASON,
    SECONDS,
    SETTINGS,
    Tally,
    begin_with_the_defaults,
    build_sampler,
    give_up,
    kept_alive,
    own_lease,
    reap,
    tally,
)
from whalebench.methods.parts.pipeline import build_method
from whalebench.methods.registry import configure

if TYPE_CHECKING:
    import torch
    from optuna import Trial
    from optuna.trial import FrozenTrial, TrialState

    from whalebench.benchmarks.core.progress import Progress
    from whalebench.benchmarks.registry import Benchmark
    from whalebench.benchmarks.tuning.space import Budget, Space
    from whalebench.benchmarks.tuning.study import Kept
    from whalebench.methods.method import Method, MethodConfig


@dataclass(frozen=True)
class Ground:
    """On what configurations are tried."""

    benchmark: Benchmark
    fold: int
    seed: int
    device: torch.device


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
        self.method, self.ground, self.watch = build_method(kind, config), ground, watch
        self.views = without_test(fold_views(ground.benchmark, ground.fold, oracle=config.sees_annotations()))
        name = ground.benchmark.name
        if missing := self.method.missing_requirement(self.views.train, self.views.valid):
            raise WhalebenchError(f"{kind.name} does not fit: {name} has no {missing}.")
        if not len(self.views.valid):
            raise WhalebenchError(
                f"fold {ground.fold} of {name} has no valid photos: there is nothing to tune by."
            )
        self.harness = RunHarness(ground.seed, ground.device, self.views, watch, config)

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


class TrialRunner:
    """A trial that this worker has taken."""

    def __init__(self, plan: Plan, kept: Kept, trial: Trial) -> None:
        self._plan, self._kept, self._trial = plan, kept, trial
        self._settings = plan.space.settings(trial.params)
        self._said: dict[str, Any] = {SETTINGS: list(self._settings), PHOTOS: 0}

    def finish(self, progress: Progress) -> None:
        """Nothing; the trial has ended, with a value, pruned, or with the reason why it failed.

        What keeps the defaults from being tried at all is raised, but not that they did not learn. Nothing is
        said of a trial that was given to another meanwhile, because this machine was silent for long.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        started = time.perf_counter()
        try:
            with kept_alive(lambda lease: self._trial.set_user_attr(LEASE, lease)):
                value, state = self._ended(progress)
            self._said[SECONDS] = round(time.perf_counter() - started, 2)
            for name, said in self._said.items():
                self._trial.set_user_attr(name, said)
            self._kept.study.tell(self._trial, value, state)
        except UpdateFinishedTrialError:
            return
        except BaseException as error:  # Ctrl-C, too
            give_up(self._kept, self._frozen(), str(error) or "it was interrupted")
            raise

    def score(self, step: int, map_at_5: float) -> None:
        """Nothing, or TrialPruned where MAP@5 on valid is too little after so many epochs."""
        from optuna import TrialPruned

        self._trial.report(map_at_5, step)
        if self._settings and self._trial.should_prune():  # the defaults are to be known in any case
            raise TrialPruned

    def _ended(self, progress: Progress) -> tuple[float | None, TrialState]:
        """MAP@5 on valid if it came to that, and how the trial ended."""
        from optuna import TrialPruned
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            return self._learned(progress), TrialState.COMPLETE
        except TrialPruned:
            return None, TrialState.PRUNED
        except UpdateFinishedTrialError:
            raise
        except Exception as error:
            if not self._settings and not isinstance(error, RunFailedError):
                raise
            name = "" if isinstance(error, WhalebenchError) else f"{type(error).__name__}: "
            self._said[REASON] = f"{name}{error}"
            return None, TrialState.FAIL

    def _learned(self, progress: Progress) -> float:
        plan = self._plan
        progress.stage(f"Trial {self._trial.number}: {' '.join(self._settings) or 'the defaults'}")
        config = configure(plan.kind, (*plan.settings, *self._settings))
        attempt = Attempt(plan.kind, config, plan.ground, Watch(progress, self))
        try:
            return attempt.valid_map_at_5()
        finally:
            self._said[PHOTOS] = attempt.photos()

    def _frozen(self) -> FrozenTrial:
        trials = self._kept.study.get_trials(deepcopy=False)
        return next(each for each in trials if each.number == self._trial.number)


@dataclass(frozen=True)
class Plan:
    """What the workers of one study do."""

    kind: type[Method]
    settings: tuple[str, ...]
    """Fields that are not tuned, as key=value."""
    space: Space
    budget: Budget
    ground: Ground


POLL = 1.0
"""Seconds from one look for work to the next, while others do the last trials."""


def work(
    plan: Plan,
    kept: Kept,
    progress: Progress,
    *,
    worker: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Tally:
    """What has become of the trials when the budget is spent and nobody is at work any more.

    Trials whose worker was killed are done again. Raises WhalebenchError where the method cannot be run at
    all: for what keeps the defaults from being tried. Stopped, it returns after the trial it is at.
    """
    awaited: set[int] = set()
    while True:
        trial = None
        with kept.turn():
            reap(kept)
            begin_with_the_defaults(kept, plan.space)
            found = tally(kept.study.get_trials(deepcopy=False))
            over = plan.budget.is_spent(found.spent)
            if stopped() or (over and not found.running):
                return found
            if not over and not _is_taken(plan.budget, found):
                trial = _begin(plan, kept, len(found.ended) + len(found.running), worker)
        if trial is None:
            running = {each.number for each in found.running}
            if running - awaited:
                progress.stage(f"Waiting for trial {', '.join(map(str, sorted(running)))} of other workers")
            awaited = running
            time.sleep(POLL)
        else:
            TrialRunner(plan, kept, trial).finish(progress)


def _is_taken(budget: Budget, found: Tally, surplus: int = 0) -> bool:
    """Whether enough trials have ended or are under way."""
    begun = len(found.ended) + len(found.running) - surplus
    return budget.trials is not None and begun >= budget.trials


def _begin(plan: Plan, kept: Kept, before: int, worker: int) -> Trial | None:
    """A trial with its values; None where another worker was quicker, who may be on another machine."""
    kept.study.sampler = build_sampler(plan.ground.seed, before, worker)
    trial = kept.study.ask(fixed_distributions=plan.space.distributions)
    trial.set_user_attr(LEASE, own_lease())
    found = tally(kept.study.get_trials(deepcopy=False))
    if not _is_taken(plan.budget, found, surplus=1):
        return trial
    own = next(each for each in found.running if each.number == trial.number)
    give_up(kept, own, "there was no need of it", again="fixed_params" in own.system_attrs)
    time.sleep(np.random.default_rng().uniform(0, POLL))  # who meets again, meets for ever
    return None
