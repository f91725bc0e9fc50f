"""A worker of a study: takes trials, each learned on train and scored on valid, until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.progress import EpochSummary, Progress
from whalebench.benchmarks.running.folds import Answers, fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.outcome import score_photos
from whalebench.benchmarks.tuning.space import Budget, Space, build_sampler
from whalebench.benchmarks.tuning.study import (
    LEASE,
    PHOTOS,
    REASON,
    SECONDS,
    SETTINGS,
    StudyHandle,
    TrialSummary,
    heartbeat,
    new_lease,
)
from whalebench.methods.parts.pipeline import build_method
from whalebench.methods.registry import configure

if TYPE_CHECKING:
    import torch
    from optuna import Trial
    from optuna.trial import TrialState

    from whalebench.benchmarks.registry import Benchmark
    from whalebench.methods.method import Method, MethodConfig

POLL = 1.0
"""Seconds from one look for work to the next, while others do the last trials."""


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a study have in common."""

    method: type[Method]
    settings: tuple[str, ...]
    """Fields that are not tuned, as key=value."""
    space: Space
    budget: Budget
    benchmark: Benchmark
    fold: int
    seed: int
    device: torch.device


def run_trials(
    context: TrialContext,
    handle: StudyHandle,
    progress: Progress,
    *,
    worker: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> TrialSummary:
    """Runs trials until the budget is spent and no other worker is at one, and says what became of them.

    Trials whose worker was killed are done again. Raises WhalebenchError where the method cannot be run at
    all: for what keeps the defaults from being tried. Stopped, it returns after the trial it is at.
    """
    announced: set[int] = set()
    while True:
        trial = None
        with handle.exclusive():
            handle.requeue_stale()
            handle.enqueue_defaults(context.space)
            trials = handle.summary()
            is_over = context.budget.is_spent(trials.spent)
            if stopped() or (is_over and not trials.running):
                return trials
            if not is_over and not _is_allotted(context.budget, trials):
                trial = _begin(context, handle, len(trials.ended) + len(trials.running), worker)
        if trial is not None:
            TrialRunner(context, handle, trial).run(progress)
            continue
        awaited = {each.number for each in trials.running}
        if awaited - announced:
            progress.stage(f"Waiting for trial {', '.join(map(str, sorted(awaited)))} of other workers")
        announced = awaited
        time.sleep(POLL)


def _is_allotted(budget: Budget, trials: TrialSummary, surplus: int = 0) -> bool:
    """Whether enough trials have ended or are under way."""
    begun = len(trials.ended) + len(trials.running) - surplus
    return budget.trials is not None and begun >= budget.trials


def _begin(context: TrialContext, handle: StudyHandle, before: int, worker: int) -> Trial | None:
    """A trial with its values; None where another worker was quicker, who may be on another machine."""
    handle.study.sampler = build_sampler(context.seed, before, worker)
    trial = handle.study.ask(fixed_distributions=context.space.distributions)
    trial.set_user_attr(LEASE, new_lease())
    if not _is_allotted(context.budget, handle.summary(), surplus=1):
        return trial
    handle.abandon(trial, "there was no need of it", requeue_drawn=False)
    time.sleep(np.random.default_rng().uniform(0, POLL))  # else the same two would meet again and again
    return None


class TrialRunner:
    """Runs a trial that this worker has taken, and tells the study how it ended."""

    def __init__(self, context: TrialContext, handle: StudyHandle, trial: Trial) -> None:
        self._context, self._handle, self._trial = context, handle, trial
        self._settings = context.space.settings(trial.params)
        self._attributes: dict[str, Any] = {SETTINGS: list(self._settings), PHOTOS: 0}

    def run(self, progress: Progress) -> None:
        """Runs the trial until it is scored, pruned, or failed for a reason that the study keeps.

        What keeps the defaults from being tried at all is raised, but not that they did not learn. Nothing is
        said of a trial that was given to another meanwhile, because this machine was silent for long.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        started = time.perf_counter()
        try:
            with heartbeat(lambda lease: self._trial.set_user_attr(LEASE, lease)):
                value, state = self._outcome(progress)
            self._attributes[SECONDS] = round(time.perf_counter() - started, 2)
            for name, attribute in self._attributes.items():
                self._trial.set_user_attr(name, attribute)
            self._handle.study.tell(self._trial, value, state)
        except UpdateFinishedTrialError:
            return
        except BaseException as error:  # Ctrl-C, too
            self._handle.abandon(self._trial, str(error) or "it was interrupted")
            raise

    def _outcome(self, progress: Progress) -> tuple[float | None, TrialState]:
        """MAP@5 on valid if it came to that, and how the trial ended."""
        from optuna import TrialPruned
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            return self._score(progress), TrialState.COMPLETE
        except TrialPruned:
            return None, TrialState.PRUNED
        except UpdateFinishedTrialError:
            raise
        except Exception as error:
            if not self._settings and not isinstance(error, RunFailedError):
                raise
            name = "" if isinstance(error, WhalebenchError) else f"{type(error).__name__}: "
            self._attributes[REASON] = f"{name}{error}"
            return None, TrialState.FAIL

    def _score(self, progress: Progress) -> float:
        """MAP@5 on valid of the trial's configuration."""
        context = self._context
        progress.stage(f"Trial {self._trial.number}: {' '.join(self._settings) or 'the defaults'}")
        config = configure(context.method, (*context.settings, *self._settings))
        run = TrialRun(context, config, TrialProgress(progress, self._report))
        try:
            return run.valid_map_at_5()
        finally:
            self._attributes[PHOTOS] = run.photos()

    def _report(self, step: int, map_at_5: float) -> None:
        """Tells the study; raises TrialPruned where MAP@5 on valid is too little after so many epochs."""
        from optuna import TrialPruned

        self._trial.report(map_at_5, step)
        if self._settings and self._trial.should_prune():  # the defaults are to be known in any case
            raise TrialPruned


class TrialRun:
    """One configuration that learns on train and is scored on valid, as test would be."""

    def __init__(self, context: TrialContext, config: MethodConfig, progress: Progress) -> None:
        """Raises WhalebenchError where the method does not fit, or valid holds nothing to choose by."""
        self.benchmark, self.progress = context.benchmark, progress
        self.method = build_method(context.method, config)
        views = fold_views(self.benchmark, context.fold, oracle=config.sees_annotations())
        # Neither photos nor answers of test are in them.
        answers = views.answers | {"test": Answers((), (), (), ())}
        self.views = replace(views, test=views.test.select([]), answers=answers, annotated={})
        name = self.benchmark.name
        if missing := self.method.missing_requirement(self.views.train, self.views.valid):
            raise WhalebenchError(f"{context.method.name} does not fit: {name} has no {missing}.")
        if not len(self.views.valid):
            raise WhalebenchError(
                f"fold {context.fold} of {name} has no valid photos: there is nothing to tune by."
            )
        self.harness = RunHarness(context.seed, context.device, self.views, progress, config)

    def valid_map_at_5(self) -> float:
        """MAP@5 on valid after learning, with the best threshold of *new* there."""
        self.harness.stage("decode")
        for size in self.method.sizes():
            self.benchmark.store.pixels(size, self.progress.advance, cores())
        self.harness.seed_everything()
        self.harness.stage("learn")
        self.method.learn(self.views.train, self.views.valid, self.harness)
        return self.harness.valid_map_at_5(score_photos(self.method, self.views.queries()["valid"]))

    def photos(self) -> int:
        """Photos learned from so far."""
        return int(self.harness.curve()["photos"].sum())


class TrialProgress:
    """Passes progress on, and reports MAP@5 on valid of each epoch to a function that may end the trial."""

    def __init__(self, progress: Progress, report: Callable[[int, float], None]) -> None:
        self.stage, self.advance = progress.stage, progress.advance
        self._progress, self._report = progress, report
        self._before = self._last = 0

    def epoch(self, summary: EpochSummary) -> None:
        """Shows the epoch, and reports it where it was validated, which those of a finder are not.

        Epochs are counted on where a method trains twice, so that steps rise.
        """
        self._progress.epoch(summary)
        if isnan(summary.valid_map_at_5):
            return
        if self._before + summary.number <= self._last:
            self._before = self._last
        self._last = self._before + summary.number
        self._report(self._last, summary.valid_map_at_5)
